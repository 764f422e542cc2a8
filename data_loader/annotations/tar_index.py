"""Index of tar shards, by webdataset's rules: byte ranges of the samples, read without the samples themselves.

A sample is what has one key: 000012.mp4, 000012.txt and 000012.json. What is wrong with a shard or a sample is a fault:
a line of text that names the shard. Faults do not stop the reading of the other samples.
"""

import json
import multiprocessing
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

from data_loader.annotations.file_lookup import (
    is_foreign,
    is_media,
    is_video,
    name_priority,
)
from data_loader.annotations.shapes import require_encodable
from data_loader.child_process import begin_pool_worker
from data_loader.cpus import available_cpus
from data_loader.file_kind import HEADER, TAR_MAGIC, describe_bytes
from parse_config import ConfigError, UserError

MAX_PADDING = 1 << 20  # bytes behind the end mark that are checked


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
    workers = min(len(shards) // 4, available_cpus())
    if workers < 2:
        yield from map(index, shards)
        return

    executor = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("fork"),
        begin_pool_worker,
        (os.getpid(),),
    )
    try:
        yield from executor.map(index, shards)
    except BrokenProcessPool:
        raise UserError(
            f"{shards[0]}: a process that reads the shards was killed; too little memory is the usual cause"
        ) from None
    finally:
        processes = list((executor._processes or {}).values())
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def index_shard(
    shard: str, with_captions: bool = True
) -> tuple[list[Sample], list[str]]:
    """The samples of a shard that have a video or picture, and the faults of the others and of the shard.

    A file's key is its path up to the first dot of its name, as webdataset has it. Unlike in a stream, the files of a
    sample need not be neighbours: those of one key are joined.
    with_captions: false: no caption is read, samples have none.
    """
    samples: list[Sample] = []
    faults: list[str] = []
    try:
        with open(shard, "rb", buffering=0) as file:
            for group in _group_by_key(_members(file, shard, faults), faults):
                extension = _choose_media(group, faults)
                if extension is None:
                    continue
                captions: list[str] = []
                if with_captions:
                    captions = _captions(file, group, extension, faults)
                first, size = group.files[extension]
                samples.append(Sample(group.key, extension, first, size, captions))
    except OSError as error:
        faults.append(f"{shard}: cannot be read ({error.strerror or error})")

    return samples, faults


class Member(NamedTuple):
    """A file in a shard: its name, and where its bytes are."""

    shard: str
    name: str
    first: int
    size: int


class Group(NamedTuple):
    """The files of one key in a shard: extension in lower case -> (first byte, bytes)."""

    shard: str
    key: str
    files: dict[str, tuple[int, int]]

    def place(self, extension: str) -> str:
        """Shard and file, for messages."""
        return f"{self.shard}: {self.key}.{extension}"


def _members(file: BinaryIO, shard: str, faults: list[str]) -> Iterator[Member]:
    """Each complete file in a shard; what is wrong with the shard is appended to `faults`."""
    shard_size = os.fstat(file.fileno()).st_size

    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.offset_data + member.size > shard_size:
                    faults.append(f"{shard}: ends within {member.name}")
                    return

                if member.isreg():
                    yield Member(shard, member.name, member.offset_data, member.size)
            fault = _fault_at_end(file, tar.offset)
    except (tarfile.TarError, EOFError) as error:
        header = read_bytes(file, 0, HEADER)
        fault = f"is damaged or cut off ({error})"
        if header[TAR_MAGIC] != b"ustar":
            fault = describe_bytes(header) or fault

    if fault:
        faults.append(f"{shard}: {fault}")


def _fault_at_end(file: BinaryIO, end: int) -> str:
    """What is wrong behind the last member, where tarfile stops without a word; an empty text for a proper end.

    end: first byte behind the last member.
    """
    end_mark = read_bytes(file, end, tarfile.BLOCKSIZE)
    if len(end_mark) < tarfile.BLOCKSIZE:
        return "is cut off: it has no end mark"
    if end_mark.strip(b"\0"):
        return f"is damaged at byte {end}; the files behind it are not read"
    if read_bytes(file, end, MAX_PADDING).strip(b"\0"):
        return "goes on behind its end mark; shards that were joined (cat) must be repacked"
    return ""


def _group_by_key(members: Iterable[Member], faults: list[str]) -> Iterable[Group]:
    """The files of each key, keys in the order of their first files; a second file of one name is a fault."""
    groups: dict[str, Group] = {}
    base_plus_ext = import_webdataset().tariterators.base_plus_ext

    for member in members:
        key, extension = base_plus_ext(member.name)
        folders = member.name.split("/")[:-1]
        if key is None or any(
            is_foreign(folder) for folder in folders if folder != "."
        ):
            continue
        # "./a.mp4" and "a.txt" are of one sample
        group = groups.setdefault(
            key.removeprefix("./"), Group(member.shard, key, files={})
        )
        if extension.lower() in group.files:
            faults.append(f"{member.shard}: {member.name} occurs twice")
        else:
            group.files[extension.lower()] = (member.first, member.size)
    return groups.values()


def _choose_media(group: Group, faults: list[str]) -> str | None:
    """Extension of the video of a sample, or else of its picture; None, and a fault, if it has neither.

    Of several, that whose name has no further dot, then by the order of `MEDIA_EXTENSIONS`.
    """
    media = [extension for extension in group.files if is_media(f"key.{extension}")]
    if not media:
        faults.append(f"{group.shard}: {group.key} has no video or picture")
        return None

    videos = [extension for extension in media if is_video(f"key.{extension}")]
    ordered = sorted(videos or media, key=_media_priority)
    dotted_extensions = [extension for extension in ordered[1:] if "." in extension]
    if dotted_extensions:
        faults.append(
            f"{group.place(dotted_extensions[0])} is left out: a key ends at the first dot, and {group.key} has "
            f"{ordered[0]} as well; rename files whose names have dots"
        )
    return ordered[0]


def _media_priority(extension: str) -> tuple[int, tuple[int, int, str]]:
    return extension.count("."), name_priority(f"key.{extension}")


def _captions(
    file: BinaryIO, group: Group, media_extension: str, faults: list[str]
) -> list[str]:
    """The one caption in key.txt; without it, those that key.json has as "captions" (a list) or "caption".

    media_extension: of the sample's video; for that of key.clip.mp4, key.clip.txt comes before key.txt.
    """
    prefix = media_extension.rpartition(".")[0]
    extensions = [f"{prefix}.txt", "txt", f"{prefix}.json", "json"]
    for extension in extensions:
        if extension not in group.files:
            continue
        content = read_bytes(file, *group.files[extension])
        try:
            if extension.endswith("txt"):
                captions = [content.decode("utf-8-sig").strip()]
            else:
                captions = _json_captions(json.loads(content))
            for caption in captions:
                require_encodable(caption, "a caption")
        except UnicodeDecodeError as error:
            faults.append(
                f"{group.place(extension)} is not UTF-8 ({error.reason} at byte {error.start})"
            )
        except (ValueError, RecursionError) as error:
            faults.append(f"{group.place(extension)}: {error}")
        else:
            if any(captions):
                return [caption for caption in captions if caption]
    return []


def _json_captions(metadata: Any) -> list[str]:
    """The captions in a sample's metadata; [] if it has none."""
    if not isinstance(metadata, dict):
        return []
    captions = metadata.get("captions") or metadata.get("caption")
    if not isinstance(captions, list):
        captions = [captions]
    return [caption for caption in captions if isinstance(caption, str)]


def read_bytes(file: BinaryIO, first: int, size: int) -> bytes:
    """The bytes first..first + size - 1 of `file`."""
    return os.pread(file.fileno(), size, first)
