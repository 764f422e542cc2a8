"""The model of a search: words or a file -> a vector, from any thread. E joint width."""

import threading
from pathlib import Path

import numpy as np

from model import load_model

LONGEST = 1000  # characters of a text; the tokenizer cuts at much less


class Queries:
    """The encoders of a checkpoint behind a lock: one query at a time."""

    def __init__(self, checkpoint: str, device: str = "cpu"):
        self._model, self._lock = load_model(checkpoint, device), threading.Lock()

    def text(self, words: str) -> np.ndarray:
        """(E,) of a text."""
        with self._lock:
            return self._model.encode_text([words.strip()[:LONGEST]])[0].cpu().numpy()

    def video(self, path: Path) -> np.ndarray:
        """(E,) of a whole video or picture. Raises BrokenVideo, FileNotFoundError."""
        with self._lock:
            return self._model.embed_videos([path])[0].cpu().numpy()
