"""What a run tells: console, log.jsonl, TensorBoard, wandb, bad_files.jsonl. Only process 0 writes.

Files are only ever added to. After a resume log.jsonl may hold steps twice: the later line counts.
"""

import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from parse_config import ConfigError, to_plain
from trainer.distributed import main_only, rank, world_size

log = logging.getLogger(__name__)


class _Console(logging.Handler):
    """Lines that do not tear a progress bar."""

    def emit(self, record: logging.LogRecord):
        tqdm.write(self.format(record), file=sys.stderr)


def console(level: int = logging.INFO):
    """Log to stderr: process 0 from `level` on, the others warnings with their number. Calling it again changes nothing
    but the level."""
    root = logging.getLogger()
    if not any(isinstance(handler, _Console) for handler in root.handlers):
        root.addHandler(_Console())
    who = f"[process {rank()}] " if world_size() > 1 and rank() else ""
    for handler in root.handlers:
        if isinstance(handler, _Console):
            handler.setFormatter(
                logging.Formatter(f"%(asctime)s {who}%(levelname).1s %(message)s", "%H:%M:%S")
            )
    root.setLevel(logging.WARNING if rank() else level)


class RunLog:
    """The files of one run folder. `step`: the step that it goes on from, so that TensorBoard drops what lies after."""

    def __init__(
        self,
        folder: Path,
        step: int = 0,
        config: Mapping[str, Any] | None = None,
        wandb: Any = False,
    ):
        self.folder = Path(folder)
        self._board = self._wandb = None
        if rank() == 0:
            self._board = _board(self.folder, step)
            self._wandb = _wandb(self.folder, config or {}, wandb)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error):
        self.close()

    @main_only
    def line(self, kind: str, **values: Any):
        """One line of log.jsonl."""
        _append(self.folder / "log.jsonl", [{"kind": kind, **values}])

    @main_only
    def bad_files(self, failures: Iterable[tuple[str, str]], epoch: int):
        """One line of bad_files.jsonl for each (path, reason)."""
        _append(
            self.folder / "bad_files.jsonl",
            [{"path": path, "reason": reason, "epoch": epoch} for path, reason in failures],
        )

    @main_only
    def scalars(self, step: int, values: Mapping[str, float]):
        """{"train/loss": ...} for TensorBoard and wandb."""
        for tag, value in values.items():
            if self._board:
                self._board.add_scalar(tag, value, step)
        if self._wandb:
            self._wandb.log(dict(values), step=step)

    @main_only
    def picture(self, step: int, tag: str, image_CHW: Tensor):
        """A picture, uint8."""
        if self._board:
            self._board.add_image(tag, image_CHW, step)

    @main_only
    def flush(self):
        """What TensorBoard holds back goes to the disk."""
        if self._board:
            self._board.flush()

    @main_only
    def close(self):
        """The end of the run."""
        if self._board:
            self._board.close()
        if self._wandb:
            self._wandb.finish()


def _append(path: Path, rows: list[dict[str, Any]]):
    """Add whole lines, at once and through to the file: a kill loses none that was written before."""
    if not rows:
        return
    with open(path, "ab") as file:
        torn = file.tell() and not _ends_line(path)  # the last writer was killed in its line
        text = "".join(json.dumps(_finite(row)) + "\n" for row in rows)
        file.write((b"\n" if torn else b"") + text.encode())


def _ends_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _finite(value: Any) -> Any:
    """JSON knows no NaN: null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and value - value != 0 else to_plain(value)


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        log.warning(
            "no TensorBoard files are written (%s): pip install tensorboard; log.jsonl has all numbers",
            error,
        )
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _wandb(folder: Path, config: Mapping[str, Any], wanted: Any) -> Any:
    """`wanted`: false, true, or arguments of wandb.init. One wandb run a folder, also after a resume."""
    if not wanted:
        return None
    try:
        import wandb
    except ImportError:
        raise ConfigError(
            "trainer.wandb: wandb is not installed; pip install wandb, or set it to false"
        ) from None
    name = f"{folder.parent.name}-{folder.name}"
    args = {"project": "miles", "name": name, "id": name, "resume": "allow", "dir": str(folder)}
    return wandb.init(
        **{**args, **(to_plain(wanted) if isinstance(wanted, Mapping) else {})},
        config=to_plain(config),
    )
