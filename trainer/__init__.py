"""The loop, the exam, and the rooms for what is not the paper: processes, precision, checkpoints, logs."""
