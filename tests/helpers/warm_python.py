"""A stand-in for the interpreter in tests of bash scripts: a program starts in no time.

    with warm_python.serve() as python:
        subprocess.run(["bash", "scripts/finetune.sh", ...], env={..., "PYTHON": python})

`python FILE ARGUMENTS` runs FILE as the main program in a process forked from one that has imported what train.py and
test.py import; arguments, working directory, environment and the three streams are the caller's. `python -c` and
`python -m` are the interpreter's own.
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENT = """#!{python} -SE
import json, os, socket, sys
if not sys.argv[1:] or sys.argv[1].startswith("-"):
    os.execv("{python}", ["{python}", *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as ask:
    ask.connect("{place}")
    socket.send_fds(ask, [json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()], [0, 1, 2])
    ask.shutdown(socket.SHUT_WR)
    sys.exit(int(ask.recv(16) or b"1"))  # nothing: it died by a signal
"""


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """The path of the stand-in, as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="warm") as folder:
        client, place = Path(folder, "python"), Path(folder, "socket")
        client.write_text(CLIENT.format(python=sys.executable, place=place))
        client.chmod(0o755)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
        }  # some virtual machines promise AMX and trap
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.warm_python", str(place)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout.readline() == "ready\n", "the server did not start"
            yield str(client)
        finally:
            server.terminate()
            server.wait()


def main(place: str):
    """Import, listen, fork for each that asks."""
    import test  # noqa: F401
    import tests.helpers.warm  # noqa: F401

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
        os.write(1, b"ready\n")
        while True:
            ask, _ = listener.accept()
            if not os.fork():
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os._exit(answer(ask))
            ask.close()


def answer(ask: socket.socket) -> int:
    """Run what is asked for, with its streams; send back its exit status."""
    message, streams, _, _ = socket.recv_fds(ask, 1 << 20, 3)
    while more := ask.recv(1 << 20):
        message += more
    words, folder, environment = json.loads(message)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    status = run(words)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    ask.sendall(str(status).encode())
    return 0


def run(words: list[str]) -> int:
    """The exit status of `python words`."""
    sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 (as the interpreter does)
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main(sys.argv[1])
