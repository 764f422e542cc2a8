"""Files of an evaluation: results.json, embeddings, ranks. No file that exists is overwritten.

C captions, V videos, E joint width.
"""

import contextlib
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from model.ranks import count
from model.similarity import CosineSimilarity, topk
from model.text import own_files
from model.weights.listed import fingerprint
from model.weights.read import find
from model.weights.write import save_tensors
from parse_config import Config, UserError, to_plain
from trainer.distributed import world_size
from trainer.evaluation.embed import Embeddings
from trainer.files import atomic_write
from trainer.versions import versions

DESCRIPTION_KEYS = ("ids", "captions", "about")
TENSORS = ("text_CE", "video_VE", "owner_C", "labels_V", "windows_VE", "bank_BE")


def new_folder(parent: Path) -> Path:
    """Make parent/<MMDD_HHMMSS>/, with a number after it if that exists. Raises OSError."""
    parent.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%m%d_%H%M%S")
    for number in itertools.count():
        folder = parent / (f"{stamp}_{number}" if number else stamp)
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
    raise AssertionError("itertools.count does not end")


def describe_run(
    config: Config, checkpoint: str | Path | None, device: Any, model: Any = None
) -> dict[str, Any]:
    """What results.json says of the run: checkpoint and its hash, config, versions, device, date.

    With `model` also the hash of its text model's configuration and tokenizer, which may lie beside a checkpoint.
    """
    checkpoint_entry = None
    if checkpoint:
        path = find(checkpoint)
        checkpoint_entry = {"path": str(path), "sha256": fingerprint(path)}
        text_files: dict[str, torch.Tensor] = getattr(model, "text_files", dict)()
        if text_files:
            checkpoint_entry["text_sha256"] = own_files.digest(text_files)
    package_versions = versions()
    return {
        "name": config.get("name"),
        "config": config.to_dict(),
        "git_revision": package_versions.pop("git"),
        "versions": package_versions,
        "checkpoint": checkpoint_entry,
        "device": str(device),
        "processes": world_size(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def write_results(
    folder: Path,
    embeddings: Embeddings,
    results: Mapping[str, Any],
    run_description: Mapping[str, Any],
    with_embeddings: bool = False,
    ranks_device: torch.device | None = None,
) -> Path:
    """Write results.json into `folder`; returns its path. Raises UserError if it is there.

    Args:
        run_description: what `describe_run` gave, a part of results.json
        with_embeddings: also write the embeddings, into folder/embeddings
        ranks_device: also write ranks.jsonl, computed there
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if with_embeddings:
            save_embeddings(folder / "embeddings", embeddings, run_description)
        if ranks_device:
            save_ranks(folder / "ranks.jsonl", embeddings, ranks_device)
        write_new_json(folder / "results.json", {**results, **run_description})
    except BaseException:
        with contextlib.suppress(OSError):  # something is written
            folder.rmdir()
        raise
    return folder / "results.json"


def write_new_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; UserError if the file exists, ValueError for NaN or infinity."""
    if path.exists():
        raise UserError(
            f"{path}: is there already and stays as it is; choose another folder"
        )
    text = json.dumps(to_plain(content), indent=1, allow_nan=False) + "\n"
    with atomic_write(path) as file:
        file.write(text)


def save_embeddings(
    folder: Path, embeddings: Embeddings, run_description: Mapping[str, Any]
) -> None:
    """Write embeddings.safetensors, ids.json and the config.json that made them into a folder that does not exist."""
    folder.mkdir(parents=True)
    tensors = {}
    for name in TENSORS:
        tensor = getattr(embeddings, name)
        if tensor is not None:
            tensors[name] = tensor.contiguous()
    save_tensors(tensors, folder / "embeddings.safetensors")
    description = {
        key: value for key, value in run_description.items() if key != "config"
    }
    write_new_json(
        folder / "ids.json",
        {
            "ids": list(embeddings.ids),
            "captions": list(embeddings.captions),
            "about": embeddings.about,
            **description,
        },
    )
    write_new_json(folder / "config.json", run_description["config"])


def load_embeddings(folder: str | Path) -> tuple[Embeddings, dict[str, Any]]:
    """(embeddings, description of the run that made them) from a folder of `save_embeddings`.

    Raises FileNotFoundError, UserError.
    """
    folder = Path(folder)
    for name in ("embeddings.safetensors", "ids.json", "config.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder}: holds no {name}; give a folder that test.py --save-embeddings wrote"
            )
    description = _read_description(folder / "ids.json")
    path = folder / "embeddings.safetensors"
    try:
        tensors: dict[str, Any] = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: is damaged ({error}); write it again") from None
    unknown = set(tensors) - set(TENSORS)
    missing = {"text_CE", "video_VE"} - set(tensors)
    if unknown or missing:
        raise UserError(
            f"{path}: holds {', '.join(sorted(tensors)) or 'nothing'}; test.py --save-embeddings writes text_CE, "
            "video_VE and owner_C or labels_V"
        )
    fields = {key: description.pop(key) for key in DESCRIPTION_KEYS}
    embeddings = Embeddings(**tensors, **fields)
    fault = _find_fault(embeddings)
    if fault:
        raise UserError(f"{folder}: {fault}; write the folder again")
    return embeddings, description


def _read_description(path: Path) -> dict[str, Any]:
    """The object in ids.json. Raises UserError if it is of another shape."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error}); write it again") from None
    kinds = {"ids": list, "captions": list, "about": dict}
    is_whole = isinstance(description, dict) and all(
        isinstance(description.get(key), kind) for key, kind in kinds.items()
    )
    if not is_whole or not _is_coverage(description["about"].get("coverage")):
        raise UserError(
            f"{path}: lists of ids and captions, and about with the coverage are needed; give a folder that test.py "
            "--save-embeddings wrote"
        )
    return description


def _is_coverage(coverage: Any) -> bool:
    """Whether it is {"videos": [n, N], "captions": [m, M], ...}."""
    return isinstance(coverage, dict) and all(
        isinstance(coverage.get(key), list) and len(coverage[key]) == 2
        for key in ("videos", "captions")
    )


def _find_fault(embeddings: Embeddings) -> str:
    """What does not fit together, in words; "" if all does."""
    captions, videos = len(embeddings.captions), len(embeddings.ids)
    width = embeddings.text_CE.shape[-1]
    shapes = {
        "text_CE": (captions, width),
        "video_VE": (videos, width),
        "windows_VE": (videos, width),
        "owner_C": (captions,),
        "labels_V": (videos,),
    }
    for name, shape in shapes.items():
        tensor = getattr(embeddings, name)
        if tensor is not None and tensor.shape != shape:
            return (
                f"{name} is of shape {tuple(tensor.shape)}, and {captions} captions, {videos} ids and embeddings of "
                f"width {width} need {shape}"
            )
    bank_BE = embeddings.bank_BE
    if bank_BE is not None and (bank_BE.ndim != 2 or bank_BE.shape[1] != width):
        return f"bank_BE is of shape {tuple(bank_BE.shape)}, and the embeddings of width {width}"
    if (embeddings.owner_C is None) == (embeddings.labels_V is None):
        return "one of owner_C (retrieval) and labels_V (recognition) is needed"
    name, indices, count = "owner_C", embeddings.owner_C, videos
    if indices is None:
        name, indices, count = "labels_V", embeddings.labels_V, captions
    assert indices is not None
    if not captions or not videos:
        return f"{captions} captions and {videos} ids give no ranks"
    is_integer = not indices.is_floating_point() and not indices.is_complex()
    if not is_integer or int(indices.min()) < 0 or int(indices.max()) >= count:
        return f"{name} must hold whole numbers of 0 to {count - 1}"
    return ""


def save_ranks(path: Path, embeddings: Embeddings, device: torch.device) -> None:
    """Write ranks.jsonl: for each query of the raw row its rank and the ten best candidates, best first."""
    with open(path, "x", encoding="utf-8") as file:
        for line in rank_lines(embeddings, device):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def rank_lines(
    embeddings: Embeddings, device: torch.device, k: int = 10
) -> Iterator[dict[str, Any]]:
    """{"direction", "query", "right", "rank", "top": [[candidate, similarity], ...]}; videos by id, texts by words."""
    text_CE = embeddings.text_CE.to(device)
    video_VE = embeddings.video_VE.to(device)
    captions, ids = embeddings.captions, embeddings.ids
    if embeddings.labels_V is not None:
        source = CosineSimilarity(video_VE, text_CE)
        video_to_class, _ = count(source, embeddings.labels_V)
        class_names = [captions[label] for label in embeddings.labels_V.tolist()]
        best = topk(source, k)
        yield from _lines(
            "v2t", ids, class_names, video_to_class.ranks(), best, captions
        )
        return

    source = CosineSimilarity(text_CE, video_VE)
    text_to_video, video_to_text = count(source, embeddings.owner)
    owners = embeddings.owner.tolist()
    own_ids = [ids[owner] for owner in owners]
    yield from _lines(
        "t2v", captions, own_ids, text_to_video.ranks(), topk(source, k), ids
    )

    captions_of: dict[int, list[str]] = {}
    for caption, owner in zip(captions, owners, strict=True):
        captions_of.setdefault(owner, []).append(caption)
    videos = sorted(captions_of)  # those that have captions
    best = topk(
        CosineSimilarity(video_VE[torch.tensor(videos, device=device)], text_CE), k
    )
    yield from _lines(
        "v2t",
        [ids[video] for video in videos],
        [captions_of[video] for video in videos],
        video_to_text.ranks(),
        best,
        captions,
    )


def _lines(
    direction: str,
    queries: Sequence[str],
    answers: Sequence[Any],
    ranks: Any,
    best: tuple[torch.Tensor, torch.Tensor],
    candidates: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """One line per query; `best` are (similarities, indices of candidates), both (queries, k)."""
    similarities, indices = best
    for query, answer, rank, row_similarities, row_indices in zip(
        queries,
        answers,
        ranks.tolist(),
        similarities.tolist(),
        indices.tolist(),
        strict=True,
    ):
        top = [
            [candidates[index], round(similarity, 6)]
            for index, similarity in zip(row_indices, row_similarities, strict=True)
        ]
        yield {
            "direction": direction,
            "query": query,
            "right": answer,
            "rank": rank,
            "top": top,
        }
