"""Decoded clips in memory that the worker processes of a loader share: each file is decoded once.

The memory is an anonymous file (memfd): forked and spawned workers map the same pages, whatever the size of /dev/shm,
and the kernel frees them when the last process that maps them has ended, however it ended.

F frames of the whole clip, T requested frames, C = 3 channels, H height, W width.
"""

import fcntl
import logging
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data_loader.readers import BrokenVideo
from data_loader.settings import VideoSettings

log = logging.getLogger(__name__)
Choose = Callable[[int], Sequence[int]]
# reads frames of one video from its file, as `TextVideoDataset.read_clip` does
Read = Callable[[Choose], tuple[torch.Tensor, list[int]]]

GIB = 1 << 30
MAX_FRAMES = 256  # a longer clip is not held: all of it must fit in one process
AVAILABLE_SHARE = 0.5  # of the machine's free memory that the clips may take
# states of a video
UNKNOWN, HELD, NOT_HELD, BROKEN = range(4)
HEADER = 4  # int64 numbers before the table: used bytes, held bytes, held clips, closed
CLOSED = 3
COLUMNS = 5  # of the table, see `Entry`


class Entry(NamedTuple):
    """One video: its state, where its bytes begin, and the shape of its frames, uint8 (F, H, W, C).

    Of a broken video the bytes are path and reason, and `frames` is their number.
    """

    state: int
    offset: int
    frames: int
    height: int
    width: int


class Held(NamedTuple):
    """What a cache holds."""

    clips: int
    bytes: int


class WholeClip:
    """Asks for every frame of a clip of up to `MAX_FRAMES` frames, and what `choose` wants of a longer one.

    lengths: what each call was told that the clip's length is.
    """

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        self.lengths: list[int] = []

    def __call__(self, length: int) -> Sequence[int]:
        self.lengths.append(length)
        return range(length) if length <= MAX_FRAMES else self.choose(length)

    @property
    def whole(self) -> bool:
        """Whether every frame of a clip was asked for."""
        return bool(self.lengths) and min(self.lengths) <= MAX_FRAMES

    @property
    def certain(self) -> bool:
        """Whether every frame was asked for and is there.

        A damaged file can hold fewer frames than a read of some of them shows.
        """
        return self.whole and len(self.lengths) == 1


class DecodeCache:
    """The frames of `count` videos as they were decoded, up to `limit` bytes; filled in the order of reading.

    A process that is forked or spawned from this one shares the memory; a copy that is pickled otherwise begins empty.
    Raises OSError where the system has no such memory.
    """

    def __init__(self, count: int, limit: int) -> None:
        self._map(os.memfd_create("decoded-clips"), count, limit)

    def _map(self, file: int, count: int, limit: int) -> None:
        self.count = count
        self.limit = limit
        self._file = file
        self._logged = Held(0, 0)
        self._owner = os.getpid()
        self._thread_lock = threading.RLock()

        table_bytes = 8 * (HEADER + COLUMNS * count)
        self._arena = -(-table_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            os.ftruncate(file, self._arena + limit)
            memory = mmap.mmap(file, self._arena + limit)
        except (OSError, ValueError, OverflowError) as error:
            os.close(file)
            raise OSError(f"{limit / GIB:g} GiB cannot be mapped: {error}") from error
        self._bytes = np.frombuffer(memory, np.uint8)
        numbers = self._bytes[:table_bytes].view(np.int64)
        self._header = numbers[:HEADER]
        self._table = numbers[HEADER:].reshape(count, COLUMNS)

        _caches.add(self)

    def __del__(self) -> None:
        if hasattr(self, "_table"):
            self.release()

    def release(self) -> None:
        """Let go of the memory in this process, which reads no clips any more."""
        _caches.discard(self)
        del self._bytes, self._header, self._table
        os.close(self._file)

    def __getstate__(self) -> dict[str, Any]:
        file = None
        if get_spawning_popen() is not None:
            file = DupFd(self._file)
        return {"file": file, "count": self.count, "limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        file = state["file"]
        file = os.memfd_create("decoded-clips") if file is None else file.detach()
        self._map(file, state["count"], state["limit"])

    @property
    def held(self) -> Held:
        """Clips and bytes that are held at this moment."""
        _, held_bytes, clips, _ = self._header.tolist()
        return Held(clips, held_bytes)

    def log_held(self, name: str) -> None:
        """Log how much of the data set `name` is held, if that has changed since the last time."""
        if self.held != self._logged:
            self._logged = self.held
            log.info(
                "%s: %d of %d clips are held in memory, %.3g GiB",
                name,
                self._logged.clips,
                self.count,
                self._logged.bytes / GIB,
            )

    def read(
        self, index: int, choose: Choose, read: Read
    ) -> tuple[torch.Tensor, list[int]]:
        """What `read(choose)` returns or raises, for video `index`, without decoding a clip that is held.

        uint8 (T, C, H, W), a view of (T, H, W, C), and the T indices.
        `choose` must answer the same for the same length.
        """
        entry = self._entry(index)
        if entry.state == UNKNOWN and not self._header[CLOSED]:
            with self._locked(index):
                entry = self._entry(index)
                if entry.state == UNKNOWN:
                    return self._fill(index, choose, read)

        if entry.state == HELD:
            return self._pick(entry, choose)
        if entry.state == BROKEN:
            raise self._error(entry)
        return read(choose)

    def _entry(self, index: int) -> Entry:
        return Entry(*self._table[index].tolist())

    def _pick(self, entry: Entry, choose: Choose) -> tuple[torch.Tensor, list[int]]:
        indices = [int(index) for index in choose(entry.frames)]
        shape = (entry.frames, entry.height, entry.width, 3)
        size = entry.frames * entry.height * entry.width * 3
        clip_FHWC = self._bytes[entry.offset : entry.offset + size].reshape(shape)
        return torch.from_numpy(clip_FHWC[indices]).permute(0, 3, 1, 2), indices

    def _error(self, entry: Entry) -> BrokenVideo:
        message = self._bytes[entry.offset : entry.offset + entry.frames].tobytes()
        path, _, reason = message.decode("utf-8", "surrogateescape").partition("\0")
        return BrokenVideo(path, reason)

    def _fill(
        self, index: int, choose: Choose, read: Read
    ) -> tuple[torch.Tensor, list[int]]:
        """Read video `index`, whole if it may be held, and remember what came of it."""
        request = WholeClip(choose)
        try:
            clip_TCHW, indices = read(request)
        except BrokenVideo as error:
            return self._reread_broken(index, choose, read, request, error)

        if request.certain:
            clip_FHWC = clip_TCHW.permute(0, 2, 3, 1).numpy()
            indices = [int(frame) for frame in choose(len(clip_FHWC))]
            self._hold(index, clip_FHWC)
            return torch.from_numpy(clip_FHWC[indices]).permute(0, 3, 1, 2), indices

        self._table[index, 0] = NOT_HELD
        if request.whole:
            return read(choose)
        return clip_TCHW, indices

    def _reread_broken(
        self,
        index: int,
        choose: Choose,
        read: Read,
        request: WholeClip,
        error: BrokenVideo,
    ) -> tuple[torch.Tensor, list[int]]:
        """Of a clip that cannot be read whole, the requested frames may be readable.

        It is remembered as broken if they are not either, for the same reason; a disk that failed is tried again.
        """
        if request.whole:
            try:
                result = read(choose)
            except BrokenVideo as other:
                if other.reason != error.reason:
                    raise
            else:
                self._table[index, 0] = NOT_HELD
                return result
        if not isinstance(error.__cause__, OSError) and (
            request.whole or not request.lengths
        ):
            self._remember_broken(index, error)
        raise error

    def _hold(self, index: int, clip_FHWC: np.ndarray) -> None:
        frames, height, width, _ = clip_FHWC.shape
        offset = self._store(np.ascontiguousarray(clip_FHWC).data.cast("B"), clips=1)
        if offset is None:
            self._table[index, 0] = NOT_HELD
        else:
            self._table[index, 1:] = offset, frames, height, width
            self._table[index, 0] = HELD

    def _remember_broken(self, index: int, error: BrokenVideo) -> None:
        message = f"{error.path}\0{error.reason}".encode("utf-8", "surrogateescape")
        offset = self._store(memoryview(message), clips=0)
        if offset is not None:
            self._table[index, 1:3] = offset, len(message)
            self._table[index, 0] = BROKEN

    def _store(self, content: memoryview, clips: int) -> int | None:
        """Write `content` and return where it begins; None if it does not fit, or the memory is used up.

        What is left being less than a clip that is held has on average, no other clip is tried.
        """
        with self._locked(self.count):
            used, held_bytes, held_clips, _ = self._header.tolist()
            if used + len(content) > self.limit:
                if clips and (self.limit - used) * held_clips < held_bytes:
                    self._header[CLOSED] = 1
                return None

            offset = self._arena + used
            try:
                written = 0
                while written < len(content):
                    written += os.pwrite(
                        self._file, content[written:], offset + written
                    )
            except OSError as error:
                log.warning("decoded clips: no more are held (%s)", error)
                self._header[CLOSED] = 1
                return None

            self._header[:3] = (
                used + len(content),
                held_bytes + clips * len(content),
                held_clips + clips,
            )
            return offset

    @contextmanager
    def _locked(self, number: int) -> Iterator[None]:
        """The lock of video `number`, or of the memory (`count`); that of a process that was killed is free again."""
        if self._owner != os.getpid():
            # forked: a thread of the parent may have held it
            self._owner = os.getpid()
            self._thread_lock = threading.RLock()

        with self._thread_lock:
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, number)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)


_caches: weakref.WeakSet[DecodeCache] = weakref.WeakSet()


def release_all() -> None:
    """For a process forked for something else, which must not keep the memory when those who read are done."""
    for cache in list(_caches):
        cache.release()


def open_cache(video: VideoSettings, count: int, name: str) -> DecodeCache | None:
    """The cache that `video` asks for, if any, of the `count` videos of the data set `name`.

    It gets at most half of the memory that is free, shared with torchrun's other processes on this machine. Where there
    is none, the log says so and None is returned.
    """
    if video.decode_cache == "none":
        return None

    limit = int(video.cache_gib * GIB)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    available = int(AVAILABLE_SHARE * available_memory() / processes)
    try:
        cache = DecodeCache(count, min(limit, available))
    except (OSError, AttributeError) as error:
        log.warning("%s: decoded clips are not held in memory: %s", name, error)
        return None

    remark = ""
    if available < limit:
        remark = f" (a share of what is free; cache_gib is {video.cache_gib:g})"
    log.info(
        "%s: clips are held in memory once they are decoded, up to %.2f GiB%s",
        name,
        cache.limit / GIB,
        remark,
    )
    return cache


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take, by the kernel's word and the limit of its control group.

    root: where /proc and /sys are.
    """
    available = 1 << 62
    meminfo = root / "proc/meminfo"
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) << 10

    group = root / "sys/fs/cgroup"
    for limit_file, usage_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit = int((group / limit_file).read_text())
            usage = int((group / usage_file).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        available = min(available, max(0, limit - usage))
    return available
