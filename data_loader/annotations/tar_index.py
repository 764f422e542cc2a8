"""What is in a tar shard, by webdataset's rules: samples as places in the file, read without the samples themselves."""

import json
import multiprocessing
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from data_loader.annotations.file_lookup import KNOWN
from parse_config import ConfigError


class Sample(NamedTuple):
    """One sample of a shard; its video or picture lies at bytes first..first + size - 1."""

    key: str
    extension: str
    first: int
    size: int
    captions: list[str]


def webdataset():
    """The library; ConfigError if it is not installed."""
    try:
        import webdataset.shardlists
        import webdataset.tariterators
    except ImportError:
        raise ConfigError(
            "TarShards: webdataset is not installed; pip install webdataset"
        ) from None
    return webdataset


def _members(file: BinaryIO, shard: str, problems: list[str]) -> Iterator[dict[str, Any]]:
    """{"fname", "data": (first byte, bytes)} of each whole file in a shard; what is wrong goes to `problems`."""
    size = os.fstat(file.fileno()).st_size
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.offset_data + member.size > size:
                    problems.append(f"{shard}: ends within {member.name}")
                    return
                if member.isreg():
                    yield {
                        "fname": member.name,
                        "data": (member.offset_data, member.size),
                        "__url__": shard,
                    }
    except (tarfile.TarError, EOFError) as error:
        problems.append(f"{shard}: {error or 'is empty'}")


def read_bytes(file: BinaryIO, place: tuple[int, int] | None) -> bytes:
    """The bytes at (first, size); none at None."""
    return os.pread(file.fileno(), place[1], place[0]) if place else b""


def _captions(file: BinaryIO, sample: Mapping[str, Any], problems: list[str]) -> list[str]:
    """The one caption in key.txt; without it, those that key.json has as "captions" (a list) or "caption"."""
    said = read_bytes(file, sample.get("txt")).decode("utf-8", "replace").strip()
    if not said and "json" in sample:
        try:
            about = json.loads(read_bytes(file, sample["json"]))
            said = (
                (about.get("captions") or about.get("caption")) if isinstance(about, dict) else None
            )
        except ValueError as error:
            problems.append(f"{sample['__url__']}: {sample['__key__']}.json: {error}")
    return [
        caption
        for caption in (said if isinstance(said, list) else [said])
        if isinstance(caption, str) and caption
    ]


def samples(shard: str) -> tuple[list[Sample], list[str]]:
    """(the samples of a shard that have a video or picture, what is wrong with the others and with the shard)."""
    problems: list[str] = []
    found = []

    def wrong(error: Exception) -> bool:
        problems.append(f"{shard}: {error.args[0]}")
        return True

    with open(shard, "rb", buffering=0) as file:
        for sample in webdataset().tariterators.group_by_keys(
            _members(file, shard, problems), handler=wrong
        ):
            media = [name for name in sample if f".{name.rpartition('.')[2]}" in KNOWN]
            if media:
                captions = _captions(file, sample, problems)
                found.append(Sample(sample["__key__"], media[0], *sample[media[0]], captions))
            else:
                problems.append(f"{shard}: {sample['__key__']} has no video or picture")
    return found, problems


def list_shards(shards: Sequence[str]) -> Iterator[tuple[list[Sample], list[str]]]:
    """`samples` of each shard, in order; many shards by as many processes as there are cores."""
    webdataset()  # an error here rather than in a process
    workers = min(len(shards) // 4, len(os.sched_getaffinity(0)))
    if workers < 2:
        yield from map(samples, shards)
        return
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield from pool.imap(samples, shards)
