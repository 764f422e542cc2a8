"""Index of tar shards, by webdataset's rules: byte ranges of the samples, read without the samples themselves.

A sample is what has one key: 000012.mp4, 000012.txt and 000012.json, one behind the other. What is wrong with a shard
or a sample is a fault: a line of text that names the shard. Faults do not stop the reading of the other samples.
"""

import json
import multiprocessing
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

from data_loader.annotations.file_lookup import MEDIA_EXTENSIONS
from parse_config import ConfigError


class Sample(NamedTuple):
    """One sample of a shard.

    key: name of its files without extension. extension: of its video or picture, which is in the bytes
    first..first + size - 1 of the shard.
    """

    key: str
    extension: str
    first: int
    size: int
    captions: list[str]


def import_webdataset() -> ModuleType:
    """The library; ConfigError if it is not installed."""
    try:
        import webdataset.shardlists
        import webdataset.tariterators
    except ImportError:
        raise ConfigError(
            "TarShards: webdataset is not installed; pip install webdataset"
        ) from None
    return webdataset


def index_shards(
    shards: Sequence[str], with_captions: bool = True
) -> Iterator[tuple[list[Sample], list[str]]]:
    """`index_shard` of each shard, in order; many shards in one process per core."""
    # an error here rather than in a process
    import_webdataset()

    index = partial(index_shard, with_captions=with_captions)
    # at least four shards per process
    workers = min(len(shards) // 4, len(os.sched_getaffinity(0)))
    if workers < 2:
        yield from map(index, shards)
        return

    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield from pool.imap(index, shards)


def index_shard(
    shard: str, with_captions: bool = True
) -> tuple[list[Sample], list[str]]:
    """The samples of a shard that have a video or picture, and the faults of the others and of the shard.

    Samples are grouped by webdataset: a file's key is its path up to the first dot of its name.
    with_captions: false: no caption is read, samples have none.
    """
    samples: list[Sample] = []
    faults: list[str] = []

    def record_fault(error: Exception) -> bool:
        faults.append(f"{shard}: {error.args[0]}")
        # go on with the next member
        return True

    with open(shard, "rb", buffering=0) as file:
        groups = import_webdataset().tariterators.group_by_keys(
            _members(file, shard, faults), handler=record_fault
        )

        for group in groups:
            media = [
                name
                for name in group
                if f".{name.rpartition('.')[2]}" in MEDIA_EXTENSIONS
            ]
            if media:
                first, size = group[media[0]]
                captions: list[str] = []
                if with_captions:
                    captions = _captions(file, group, faults)
                samples.append(
                    Sample(group["__key__"], media[0], first, size, captions)
                )
            else:
                faults.append(f"{shard}: {group['__key__']} has no video or picture")

    return samples, faults


def _members(file: BinaryIO, shard: str, faults: list[str]) -> Iterator[dict[str, Any]]:
    """{"fname", "data": (first byte, bytes)} of each complete file in a shard; faults are appended to `faults`."""
    shard_size = os.fstat(file.fileno()).st_size

    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.offset_data + member.size > shard_size:
                    faults.append(f"{shard}: ends within {member.name}")
                    return

                if member.isreg():
                    yield {
                        "fname": member.name,
                        "data": (member.offset_data, member.size),
                        "__url__": shard,
                    }
    except (tarfile.TarError, EOFError) as error:
        faults.append(f"{shard}: {error or 'is empty'}")


def _captions(file: BinaryIO, group: Mapping[str, Any], faults: list[str]) -> list[str]:
    """The one caption in key.txt; without it, those that key.json has as "captions" (a list) or "caption".

    group: extension -> (first byte, bytes) of each file of a sample, and webdataset's own keys ("__key__", "__url__").
    """
    captions: Any = ""
    if "txt" in group:
        captions = read_bytes(file, *group["txt"]).decode("utf-8", "replace").strip()

    if not captions and "json" in group:
        try:
            metadata = json.loads(read_bytes(file, *group["json"]))
        except ValueError as error:
            faults.append(f"{group['__url__']}: {group['__key__']}.json: {error}")
        else:
            if isinstance(metadata, dict):
                captions = metadata.get("captions") or metadata.get("caption")

    if not isinstance(captions, list):
        captions = [captions]
    return [caption for caption in captions if isinstance(caption, str) and caption]


def read_bytes(file: BinaryIO, first: int, size: int) -> bytes:
    """The bytes first..first + size - 1 of `file`."""
    return os.pread(file.fileno(), size, first)
