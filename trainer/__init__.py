"""The training loop, evaluation, objectives, and what is not the method: processes, precision, checkpoints, logs."""
