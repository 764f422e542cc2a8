"""The logs of a run: console, log.jsonl, TensorBoard, wandb, bad_files.jsonl. Only process 0 writes.

Files are only ever appended to. After a resume log.jsonl may hold steps twice: the later line counts.
"""

import json
import logging
import math
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from parse_config import ConfigError, UserError, naming, printable, to_plain
from trainer.distributed import main_only, rank

log = logging.getLogger(__name__)


class _Console(logging.Handler):
    """Writes lines to stderr without tearing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(printable(self.format(record), keep="\n\t"), file=sys.stderr)


def console(level: int = logging.INFO) -> None:
    """Log to stderr: process 0 from `level` on, the others warnings with their number.

    Called again, it only changes the level.
    """
    root = logging.getLogger()
    if not any(isinstance(handler, _Console) for handler in root.handlers):
        root.addHandler(_Console())
    process = f"[process {rank()}] " if rank() else ""
    formatter = logging.Formatter(
        f"%(asctime)s {process}%(levelname).1s %(message)s", "%H:%M:%S"
    )
    for handler in root.handlers:
        if isinstance(handler, _Console):
            handler.setFormatter(formatter)
    root.setLevel(logging.WARNING if rank() else level)


class RunLog:
    """The log files of one run folder; as a context manager it also opens and closes TensorBoard and wandb.

    Args:
        folder: the run's folder
        step: the step that the run resumes from; TensorBoard drops what was logged after it
        config: the run's config, for wandb
        wandb: false, true, or arguments of wandb.init
    """

    def __init__(
        self,
        folder: Path,
        step: int = 0,
        config: Mapping[str, Any] | None = None,
        wandb: Any = False,
    ) -> None:
        self.folder = Path(folder)
        self.step = step
        self.config = config or {}
        self.wandb = wandb
        self._tensorboard: Any = None
        self._wandb_run: Any = None
        self._previous_hook = threading.excepthook

    def __enter__(self) -> "RunLog":
        if rank() == 0:
            self._previous_hook = threading.excepthook
            threading.excepthook = self._leave_to_the_main_thread
            with naming(self.folder):
                self._tensorboard = _open_tensorboard(self.folder, self.step)
            self._wandb_run = _start_wandb(self.folder, self.config, self.wandb)
        return self

    def __exit__(self, error_type: Any, error: Any, traceback: Any) -> None:
        try:
            if self._tensorboard:
                with naming(self.folder):
                    self._tensorboard.close()
        except OSError:
            if error is None:  # it may be of the same full disk
                raise
        finally:
            if self._wandb_run:
                self._wandb_run.finish()
            threading.excepthook = self._previous_hook

    def _leave_to_the_main_thread(self, args: threading.ExceptHookArgs) -> None:
        """TensorBoard raises an error of its writing thread again at the next number; it is not shown twice."""
        if not isinstance(args.exc_value, OSError):
            self._previous_hook(args)

    @main_only
    def line(self, kind: str, **values: Any) -> None:
        """Append one line to log.jsonl."""
        _append_json_lines(self.folder / "log.jsonl", [{"kind": kind, **values}])

    @main_only
    def bad_files(self, failures: Iterable[tuple[str, str]], epoch: int) -> None:
        """Append one line to bad_files.jsonl for each (path, reason)."""
        rows = [
            {"path": path, "reason": reason, "epoch": epoch}
            for path, reason in failures
        ]
        _append_json_lines(self.folder / "bad_files.jsonl", rows)

    @main_only
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write {"train/loss": ...} to TensorBoard and wandb."""
        if self._tensorboard:
            with naming(self.folder):
                for tag, value in values.items():
                    self._tensorboard.add_scalar(tag, value, step)
        if self._wandb_run:
            self._wandb_run.log(dict(values), step=step)

    @main_only
    def picture(self, step: int, tag: str, image_CHW: Tensor) -> None:
        """Write a uint8 picture to TensorBoard."""
        if self._tensorboard:
            with naming(self.folder):
                self._tensorboard.add_image(tag, image_CHW, step)

    @main_only
    def flush(self) -> None:
        """Write what TensorBoard buffers to the disk."""
        if self._tensorboard:
            with naming(self.folder):
                self._tensorboard.flush()


def _append_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append whole lines in one write: a kill loses none that was written before."""
    if not rows:
        return
    text = "".join(json.dumps(_without_nan(row)) + "\n" for row in rows)
    with naming(path), open(path, "ab") as file:
        if file.tell() and not _ends_with_newline(path):
            text = "\n" + text  # the last writer was killed in the middle of its line
        file.write(text.encode())


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _without_nan(value: Any) -> Any:
    """The value as plain data, with None for numbers that JSON does not know (NaN, infinity)."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return to_plain(value)


def _open_tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        log.warning(
            "no TensorBoard files are written (%s): pip install tensorboard; log.jsonl has all numbers",
            error,
        )
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


# what wandb refuses in the id of a run, and how long the id may be
REFUSED_BY_WANDB = "/\\#?%:"
WANDB_ID_LENGTH = 128
WANDB_WITHOUT_NETWORK = ("offline", "disabled", "dryrun")


def check_wandb(settings: Any, run_name: str) -> None:
    """ConfigError for what would stop wandb, found without the network: not installed, no key, a name it refuses.

    settings: true, or arguments of wandb.init
    run_name: last part of the name of the run's folder
    """
    if not settings:
        return
    wandb = _import_wandb()
    given = settings if isinstance(settings, Mapping) else {}
    key, run_id = (
        ("trainer.wandb.id", str(given["id"])) if "id" in given else ("name", run_name)
    )
    refused = [character for character in REFUSED_BY_WANDB if character in run_id]
    if refused:
        raise ConfigError(
            f"{key}: {run_id!r} is given, and wandb refuses {refused[0]!r} in the id of a run; choose another name, or "
            "give trainer.wandb an id"
        )
    if len(run_id) > WANDB_ID_LENGTH - len("-MMDD_HHMMSS"):
        raise ConfigError(
            f"{key}: has {len(run_id)} characters, wandb takes {WANDB_ID_LENGTH} with the date; choose a shorter one"
        )
    mode = given.get("mode") or os.environ.get("WANDB_MODE", "online")
    if mode in WANDB_WITHOUT_NETWORK or sys.stdin.isatty():  # wandb asks for the key
        return
    if not os.environ.get("WANDB_API_KEY") and not wandb.api.api_key:  # of wandb login
        raise ConfigError(
            "trainer.wandb: there is no key; run wandb login, export WANDB_API_KEY=..., or log without the network by "
            "WANDB_MODE=offline"
        )


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError:
        raise ConfigError(
            "trainer.wandb: wandb is not installed; pip install wandb, or set it to false"
        ) from None
    return wandb


def _start_wandb(folder: Path, config: Mapping[str, Any], settings: Any) -> Any:
    """A wandb run for the folder, continued after a resume; None where `settings` is false.

    settings: true, or arguments of wandb.init
    """
    if not settings:
        return None
    wandb = _import_wandb()
    name = f"{folder.parent.name}-{folder.name}"
    args = {
        "project": "miles",
        "name": name,
        "id": name,
        "resume": "allow",
        "dir": str(folder),
    }
    if isinstance(settings, Mapping):
        args.update(to_plain(settings))
    try:
        return wandb.init(**args, config=to_plain(config))
    except wandb.Error as error:
        raise UserError(
            f"trainer.wandb: {error}; mend it, log without the network by WANDB_MODE=offline, or set it to false"
        ) from None
