"""Full, read-only and absent file systems: one line that names the path and the reason, never a traceback."""

import errno
import os
import subprocess
import sys

import pytest
import torch

from model.weights.write import save_tensors
from parse_config import REFUSALS, cli_entry, naming
from scripts import export
from tests.helpers.tiny_run import ROOT
from trainer import checkpoint
from trainer.evaluation.results import new_folder
from trainer.files import write_json
from trainer.log import RunLog
from trainer.versions import write_run_description


def ended(capsys, work):
    """(exit status, standard error) of a program that does `work`."""
    with pytest.raises(SystemExit) as end:
        cli_entry(work)()
    return end.value.code, capsys.readouterr().err


def fill(path):
    """Let every write to `path` find a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/full")
    return path


@pytest.mark.parametrize("number", REFUSALS)
def test_what_the_system_refuses_is_one_line_with_the_path(capsys, number):
    def work():
        raise OSError(number, os.strerror(number), "/some/file")

    message = f"error: /some/file: {os.strerror(number)}; {REFUSALS[number]}\n"
    assert ended(capsys, work) == (2, message)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EINVAL, "Invalid argument"),
        OSError(errno.EBADF, "Bad file descriptor"),
        OSError("in words"),
        TypeError("wrong"),
        RuntimeError("wrong"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ],
)
def test_a_programming_error_is_raised(error):
    def work():
        raise error

    with pytest.raises(type(error)) as raised:
        cli_entry(work)()
    assert raised.value is error


def test_ctrl_c_is_one_line(capsys):
    def work():
        raise KeyboardInterrupt

    assert ended(capsys, work) == (130, "stopped by Ctrl-C\n")


def test_naming_keeps_the_name_of_another_file_and_other_errors():
    with pytest.raises(FileNotFoundError) as missing, naming("/other"):
        open("/no/such/file")  # noqa: SIM115 (it is not there)
    assert missing.value.filename == "/no/such/file"
    with pytest.raises(ValueError, match="^wrong$"), naming("/other"):
        raise ValueError("wrong")


def in_a_program(code, **options):
    """A Python process with `code` in it; its exit status and output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


PRINTING = """
import sys, parse_config
@parse_config.cli_entry
def main():
    for _ in range({lines}):
        print("x" * 100)
    {end}
main()
"""


@pytest.mark.parametrize("lines", [1, 10_000])
@pytest.mark.parametrize("end", ["pass", "sys.exit(1)"])
def test_standard_output_that_is_full(lines, end):
    with open("/dev/full", "w") as full:
        done = in_a_program(PRINTING.format(lines=lines, end=end), stdout=full)
    assert done.returncode == 2
    assert done.stderr == (
        "error: standard output: No space left on device; make room there, or choose another folder\n"
    )


@pytest.mark.parametrize("lines", [1, 10_000])
def test_standard_output_that_nobody_reads(lines):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = in_a_program(PRINTING.format(lines=lines, end="pass"), stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_while_modules_are_imported_is_one_line():
    code = "import os, parse_config; parse_config.end_at_ctrl_c(); os.kill(os.getpid(), 2); print('it went on')"
    done = in_a_program(code, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (130, "stopped by Ctrl-C\n")
    assert not done.stdout


@pytest.mark.parametrize(
    "program",
    ["train.py", "test.py"]
    + [
        f"scripts/{name}.py"
        for name in ("check_data", "export", "prepare_data", "probe", "report")
    ],
)
def test_programs_hear_ctrl_c_before_they_import_the_rest(program):
    imports = (ROOT / program).read_text().partition("end_at_ctrl_c()")[0]
    assert imports.count("import ") == 1


def test_a_file_that_is_written_whole_names_itself(tmp_path):
    fill(tmp_path / ".results.json.part")
    with pytest.raises(OSError) as full:
        write_json(tmp_path / "results.json", {})
    assert full.value.filename == str(tmp_path / "results.json")
    assert not list(tmp_path.iterdir())


def test_config_json_on_a_full_disk_leaves_no_part(capsys, tmp_path):
    from parse_config import Config

    fill(tmp_path / ".config.json.part")
    status, text = ended(
        capsys, lambda: write_run_description(tmp_path, Config({"name": "x"}))
    )
    assert status == 2
    assert text.startswith(f"error: {tmp_path}/config.json: No space left on device")
    assert not list(tmp_path.iterdir())


def test_log_jsonl_on_a_full_disk(capsys, tmp_path):
    fill(tmp_path / "log.jsonl")
    status, text = ended(capsys, lambda: RunLog(tmp_path).line("step", step=1))
    assert status == 2
    assert text.startswith(f"error: {tmp_path}/log.jsonl: No space left on device")


def test_tensorboard_s_thread_on_a_full_disk(capsys, tmp_path, monkeypatch):
    from tensorboard.summary.writer.record_writer import RecordWriter

    def refuse(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def work():
        with RunLog(tmp_path) as run_log:
            monkeypatch.setattr(RecordWriter, "write", refuse)
            run_log.scalars(1, {"train/loss": 1.0})
            run_log.flush()

    status, text = ended(capsys, work)
    assert status == 2
    assert text == (
        f"error: {tmp_path}: No space left on device; make room there, or choose another folder\n"
    )


def test_tensors_are_refused_with_the_name_of_their_file(tmp_path):
    path = tmp_path / "absent/embeddings.safetensors"
    with pytest.raises(FileNotFoundError) as absent:
        save_tensors({"x": torch.zeros(2)}, path)
    assert absent.value.filename == str(path)


def test_a_checkpoint_for_others_on_a_full_disk():
    with open("/dev/full", "wb", buffering=0) as full:
        with pytest.raises(OSError) as error:
            checkpoint.save_to(full, {"x": torch.zeros(100)})
        assert error.value.errno == errno.ENOSPC


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_an_export_that_is_stopped_leaves_nothing(tmp_path, error):
    class Model:
        def save_pretrained(self, folder, model_card_kwargs):
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        export.save_whole(Model(), tmp_path / "out", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("file", "Not a directory|File exists"),
        ("dangling link", "File exists"),
        ("link to itself", "Too many levels|File exists"),
        ("long name", "File name too long"),
    ],
)
def test_a_folder_that_cannot_be_made(capsys, tmp_path, kind, reason):
    import re

    save_dir = tmp_path / "exps"
    if kind == "file":
        save_dir.touch()
    elif kind == "dangling link":
        save_dir.symlink_to(tmp_path / "nowhere")
    elif kind == "link to itself":
        save_dir.symlink_to(save_dir)
    else:
        save_dir = tmp_path / ("x" * 300)
    status, text = ended(capsys, lambda: new_folder(save_dir / "name"))
    assert status == 2 and text.count("\n") == 1
    assert re.search(reason, text) and str(save_dir) in text
