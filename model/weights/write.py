"""Tensors into a safetensors file."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write `tensors` as `path`, with the permissions of any other new file. Raises OSError."""
    try:
        save_file(dict(tensors), path, metadata)
    except SafetensorError as error:
        match = re.search(r"\(os error (\d+)\)", str(error))
        if match is None:
            raise
        number = int(match[1])
        raise OSError(number, os.strerror(number), str(path)) from None
    # safetensors lets nobody else read what it writes
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
