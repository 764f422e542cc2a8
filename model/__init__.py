"""Encoders, losses, masks, teachers, metrics and weights; architectures are registered in `ARCHS`.

`load_model` opens a run, a checkpoint, an exported folder or a hub id, ready for use.
"""

from typing import TYPE_CHECKING, Any

from parse_config import Registry

if TYPE_CHECKING:
    from model.load import load_model

__all__ = ["ARCHS", "load_model"]

ARCHS = Registry("arch", __name__)


def __getattr__(name: str) -> Any:
    """`load_model`, imported when it is first asked for: it also needs data_loader, which nothing else here may."""
    if name == "load_model":
        from model.load import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
