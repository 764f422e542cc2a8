"""What is kept of an exam: results.json, embeddings, ranks. Nothing that is there is overwritten.

C captions, V videos, E joint width.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.ranks import count
from model.similarity import CosineSimilarity, topk
from parse_config import UserError, to_plain
from trainer.evaluation.embed import Embeddings

TENSORS = ("text_CE", "video_VE", "owner_C", "labels_V", "windows_VE", "bank_BE")


def new_folder(home: Path) -> Path:
    """home/<MMDD_HHMMSS>/, made; with a number after it if that is there."""
    stamp = time.strftime("%m%d_%H%M%S")
    for number in range(1 << 62):
        folder = home / (f"{stamp}_{number}" if number else stamp)
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise AssertionError


def keep(
    folder: Path,
    found: Embeddings,
    results: Mapping[str, Any],
    identity: Mapping[str, Any],
    embeddings: bool = False,
    ranks_on: torch.device | None = None,
) -> Path:
    """Write results.json, with `embeddings` those too, with `ranks_on` (a device) ranks.jsonl; -> the first's path."""
    folder.mkdir(parents=True, exist_ok=True)
    if embeddings:
        save_embeddings(folder / "embeddings", found, identity)
    if ranks_on:
        save_ranks(folder / "ranks.jsonl", found, ranks_on)
    write_json(folder / "results.json", {**results, **identity})
    return folder / "results.json"


def write_json(path: Path, content: Mapping[str, Any]):
    """All of it or nothing; UserError if the file is there."""
    if path.exists():
        raise UserError(f"{path}: is there already and stays as it is; choose another folder")
    part = path.with_name(f".{path.name}.part")
    part.write_text(
        json.dumps(to_plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    os.replace(part, path)


def save_embeddings(folder: Path, found: Embeddings, identity: Mapping[str, Any]):
    """embeddings.safetensors, ids.json and the config.json that made them, in a folder of their own."""
    folder.mkdir(parents=True)
    tensors = {name: getattr(found, name) for name in TENSORS if getattr(found, name) is not None}
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        folder / "embeddings.safetensors",
    )
    write_json(
        folder / "ids.json",
        {
            "ids": list(found.ids),
            "captions": list(found.captions),
            "about": found.about,
            **{key: value for key, value in identity.items() if key != "config"},
        },
    )
    write_json(folder / "config.json", identity["config"])


def load_embeddings(folder: str | Path) -> tuple[Embeddings, dict[str, Any]]:
    """(embeddings, identity of what made them) from a folder of `save_embeddings`."""
    folder = Path(folder)
    for name in ("embeddings.safetensors", "ids.json", "config.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder}: holds no {name}; give a folder that test.py --save-embeddings wrote"
            )
    words = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    try:
        tensors = load_file(folder / "embeddings.safetensors")
    except SafetensorError as error:
        raise UserError(
            f"{folder / 'embeddings.safetensors'}: is damaged ({error}); write it again"
        ) from None
    found = Embeddings(**tensors, **{key: words.pop(key) for key in ("ids", "captions", "about")})
    return found, words


def save_ranks(path: Path, found: Embeddings, device: torch.device):
    """ranks.jsonl: for each query of the raw row its rank and the ten best, best first."""
    with open(path, "x", encoding="utf-8") as file:
        for line in rank_lines(found, device):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def rank_lines(found: Embeddings, device: torch.device, k: int = 10) -> Iterator[dict[str, Any]]:
    """{"direction", "query", "right", "rank", "top": [[candidate, similarity], ...]}; videos by id, texts by words."""
    text_CE, video_VE = found.text_CE.to(device), found.video_VE.to(device)
    captions, ids = found.captions, found.ids
    if found.labels_V is not None:
        ranks_V, best = (
            count(CosineSimilarity(video_VE, text_CE), found.labels_V)[0].ranks(),
            topk(CosineSimilarity(video_VE, text_CE), k),
        )
        right = [captions[label] for label in found.labels_V.tolist()]
        yield from _lines("v2t", ids, right, ranks_V, best, captions)
        return
    there, back = count(CosineSimilarity(text_CE, video_VE), found.owner_C)
    owners = found.owner_C.tolist()
    yield from _lines(
        "t2v",
        captions,
        [ids[owner] for owner in owners],
        there.ranks(),
        topk(CosineSimilarity(text_CE, video_VE), k),
        ids,
    )
    own: dict[int, list[str]] = {}
    for caption, owner in zip(captions, owners):
        own.setdefault(owner, []).append(caption)
    asked = sorted(own)
    best = topk(CosineSimilarity(video_VE[torch.tensor(asked, device=device)], text_CE), k)
    yield from _lines(
        "v2t",
        [ids[video] for video in asked],
        [own[video] for video in asked],
        back.ranks(),
        best,
        captions,
    )


def _lines(
    direction: str, queries: Any, right: Any, ranks: Any, best: Any, names: Any
) -> Iterator[dict[str, Any]]:
    for query, answer, rank, values, places in zip(
        queries, right, ranks.tolist(), *(x.tolist() for x in best)
    ):
        yield {
            "direction": direction,
            "query": query,
            "right": answer,
            "rank": rank,
            "top": [[names[place], round(value, 6)] for place, value in zip(places, values)],
        }
