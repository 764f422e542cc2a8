"""scripts/slurm.sbatch with a make-believe Slurm: two "nodes" on this machine meet, train, save at the signal, and the
job goes back into the queue."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scripts.synthetic import miniatures, tiny_models
from tests.helpers.tiny_run import lines

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SRUN = """#!/usr/bin/env bash
# One task a node; a signal is passed on to all of them.
tasks=()
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do
    SLURM_NODEID=$node "$@" &
    tasks+=($!)
done
trap 'kill -USR1 "${tasks[@]}"' USR1
status=0
for task in "${tasks[@]}"; do
    while wait "$task"; one=$?; kill -0 "$task" 2>/dev/null; do :; done
    [ "$one" -le "$status" ] || status=$one
done
exit "$status"
"""
SCONTROL = """#!/usr/bin/env bash
case "$1" in
    show) printf 'localhost\\nlocalhost\\n' ;;
    *) echo "$@" >>"$SCONTROL_LOG" ;;
esac
"""


def test_two_nodes_a_signal_and_the_queue(tmp_path):
    for name, script in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    args, _ = miniatures.build("WebVid", tmp_path / "WebVid")
    torch.save(
        {
            "state_dict": tiny_models.build_miles(
                tiny_models.save_text_model(tmp_path / "text")
            ).state_dict()
        },
        tmp_path / "stage1.pth",
    )
    settings = [
        *tiny_models.command_line_overrides(tmp_path / "text"),
        "data_loader.args.batch_size=1",
        "trainer.epochs=100000",
        "trainer.save_period=100000",
        "trainer.save_every=0",
        "trainer.precision=fp32",
        "valid_loader=null",
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "SAVE_DIR": str(tmp_path / "exps"),
        "WEBVID_DIR": args["data_dir"],
        "STAGE1": str(tmp_path / "stage1.pth"),
        "MASTER_PORT": str(port),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SCONTROL_LOG": str(tmp_path / "scontrol.log"),
    }
    said = tmp_path / "slurm-7.out"
    with open(said, "w") as out:
        job = subprocess.Popen(
            [
                "bash",
                str(ROOT / "scripts/slurm.sbatch"),
                "scripts/pretrain_webvid_4f.sh",
                *settings,
            ],
            env=environment,
            cwd=tmp_path,
            stdout=out,
            stderr=out,
        )
    try:
        end = time.monotonic() + 120
        while (
            time.monotonic() < end and job.poll() is None and len(steps(tmp_path)) < 3
        ):
            time.sleep(0.1)
        assert len(steps(tmp_path)) >= 3, said.read_text()[-3000:]
        job.send_signal(
            signal.SIGUSR1
        )  # to the batch script alone, as --signal=B:USR1 does
        assert job.wait(120) == 0, said.read_text()[-3000:]
    finally:
        if job.poll() is None:
            job.terminate()
    told = said.read_text()
    assert "processes: 2 on cpu, ddp" in told and "SIGUSR1: saved at step" in told
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"
    (run,) = (tmp_path / "exps/MILES_webvid_4f").iterdir()
    state = torch.load(run / "checkpoint-latest.pth", weights_only=True)
    assert state["step"] == len(steps(tmp_path)) >= 3


def steps(home: Path) -> list[dict]:
    """What the run's log says so far."""
    found = [run for run in home.glob("exps/*/*") if (run / "log.jsonl").is_file()]
    return lines(found[0], "step") if found else []
