"""Encodes search queries, a text or a file, from any thread. E joint width."""

import threading
from pathlib import Path

import numpy as np

from model import load_model
from scripts.retrieval.encode import joint_width

MAX_CHARACTERS = 1000  # of a text; the tokenizer cuts at far fewer


class QueryEncoder:
    """A checkpoint's model behind a lock: one query at a time."""

    def __init__(self, checkpoint: str, device: str = "cpu") -> None:
        self._model = load_model(checkpoint, device)
        self._lock = threading.Lock()
        self.width = joint_width(self._model)  # E

    def encode_text(self, text: str) -> np.ndarray:
        """Embeds a text -> (E,)."""
        with self._lock:
            return (
                self._model.encode_text([text.strip()[:MAX_CHARACTERS]])[0]
                .cpu()
                .numpy()
            )

    def encode_video(self, path: Path) -> np.ndarray:
        """Embeds a video or picture, all of it -> (E,). Raises BrokenVideo, FileNotFoundError."""
        with self._lock:
            return self._model.embed_videos([path])[0].cpu().numpy()


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/search.py --help")
