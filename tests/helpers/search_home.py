"""For the tests of search: a tiny checkpoint, clips, their features and an index; a running server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from scripts import extract, index
from scripts.retrieval.features import hash_rows, write_lines
from scripts.retrieval.query_encoder import QueryEncoder
from scripts.retrieval.search_index import SearchIndex
from scripts.retrieval.server import SearchServer
from scripts.synthetic import tiny_models
from scripts.synthetic.clip_files import write_clip
from scripts.synthetic.miniatures import write_media
from trainer.files import write_json


def checkpoint(home: Path) -> Path:
    """ckpt.pth of a tiny model."""
    model = tiny_models.build_miles(
        tiny_models.save_text_model(home / "text"), time_init="rand"
    )
    video = {"num_frames": 4, "input_res": 32, "deadline": 20}
    torch.save(
        {
            "arch": "MILES",
            "state_dict": model.state_dict(),
            "config": {
                "arch": tiny_models.arch_config(str(home / "text")),
                "data_loader": [{"args": {"video_params": video}}],
            },
        },
        home / "ckpt.pth",
    )
    return home / "ckpt.pth"


def features(folder: Path, rows_NE: np.ndarray, per_shard: int = 700) -> Path:
    """A complete folder of features with these rows."""
    rows_NE = np.asarray(rows_NE, np.float32)
    (folder / "shards").mkdir(parents=True)
    for shard, start in enumerate(range(0, len(rows_NE), per_shard)):
        np.save(
            folder / "shards" / f"{shard:05d}.npy", rows_NE[start : start + per_shard]
        )
    rows = [
        {
            "id": str(i),
            "path": f"/nowhere/{i // 3}.mp4",
            "start": i % 3,
            "end": i % 3 + 1,
        }
        for i in range(len(rows_NE))
    ]
    write_lines(folder / "ids.jsonl", rows)
    write_json(
        folder / "manifest.json",
        {
            "kind": "video",
            "checkpoint": "/nowhere/ckpt.pth",
            "checkpoint_sha256": hash_rows([]),
            "source": "/nowhere",
            "segments": 1,
            "precision": "fp32",
            "width": rows_NE.shape[1],
            "files": "npy",
            "complete": True,
        },
    )
    return folder


def clips(home: Path) -> Path:
    """A long clip, short ones, one that browsers cannot play, a picture."""
    write_media(home / "clips" / "below" / "a red.mp4", 1)
    write_media(home / "clips" / '<i>b"&.webm', 2)
    write_media(home / "clips" / "old.avi", 3)
    write_media(home / "clips" / "still.png", 4)
    write_clip(home / "clips" / "long.mp4", length=100, rate=10, options={"g": "10"})
    return home / "clips"


def build(home: Path) -> Path:
    """home/index over the clips, in segments of 4 seconds."""
    given = [
        "-r",
        str(checkpoint(home)),
        str(clips(home)),
        str(home / "features"),
        "-d",
        "cpu",
        "--workers",
        "0",
    ]
    extract.cli([*given, "--segments", "4"])
    index.cli(["build", str(home / "features"), str(home / "index")])
    return home / "index"


@contextmanager
def serving(folder: Path) -> Iterator[SearchServer]:
    """A server over an index, in a thread."""
    opened = SearchIndex(folder)
    with SearchServer(opened, QueryEncoder(opened.checkpoint()), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
