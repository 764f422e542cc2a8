"""The packets of an mp4 or mov file by the tables at its beginning or end (ISO/IEC 14496-12), without demuxing them.

ffmpeg reads those tables into its index: where each packet lies, and its time of decoding. What the index leaves out,
by how much a packet is shown later than it is decoded, is read here. Files in fragments, with several descriptions of
one stream or with edits that leave packets out are not proven.
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from data_loader.readers.packet_info import (
    NotProven,
    PacketBytes,
    PacketFacts,
    PacketParser,
    PacketTable,
    merged,
)
from data_loader.readers.source import Source

FORMAT = "mov,mp4,m4a,3gp,3g2,mj2"
CHUNK = 8 << 20  # bytes that are read at once
MAX_TABLES = 256 << 20  # bytes of the box that holds the tables
MAX_BOXES = 10_000
KEY_FLAG = 1  # of an entry of the index, the only one that is known here
# How far apart two packets of a stream may lie to be read at once: other streams lie between.
MAX_GAP = 1 << 20


def indexed_table(source: Source, parser: PacketParser) -> PacketTable:
    """Raises NotProven if the tables do not tell all, OSError."""
    if source.container.format.name != FORMAT:
        raise NotProven
    count = source.stream.frames
    if not count or len(source.stream.index_entries) != count:
        raise NotProven
    fields = [
        field
        for entry in source.stream.index_entries
        for field in (entry.pos, entry.size, entry.timestamp, entry.flags)
    ]
    positions, sizes, times, flags = np.array(fields, np.int64).reshape(count, -1).T
    if (flags & ~KEY_FLAG).any() or (sizes < 1).any() or (positions < 0).any():
        raise NotProven
    if (np.diff(times) < 0).any() or (positions[1:] < (positions + sizes)[:-1]).any():
        raise NotProven

    with open(source.path, "rb") as file:
        offsets = _display_offsets(file, source.stream.id, count)
        facts = _facts(file, positions, sizes, parser)

    first = source.first_packet()
    if first is None or first.pts is None or first.dts != times[0]:
        raise NotProven
    # ffmpeg moves the times of decoding by a constant if a packet is shown before it is decoded.
    stamps = times + offsets + (first.pts - int(times[0]) - int(offsets[0]))
    return PacketTable(stamps, times, positions, sizes, flags == KEY_FLAG, facts)


def _facts(
    file: BinaryIO, positions: np.ndarray, sizes: np.ndarray, parser: PacketParser
) -> PacketFacts:
    """Read the packets in large pieces and parse their headers. Raises NotProven."""
    ends = positions + sizes
    if ends[-1] > os.fstat(file.fileno()).st_size:
        raise NotProven
    chunk_facts = []
    first = 0
    while first < len(positions):
        stop = int(np.searchsorted(ends, positions[first] + CHUNK, "right"))
        stop = max(stop, first + 1)
        gaps = np.flatnonzero(
            positions[first + 1 : stop] - ends[first : stop - 1] > MAX_GAP
        )
        if len(gaps):
            stop = first + 1 + int(gaps[0])
        start = int(positions[first])
        length = int(ends[stop - 1]) - start
        data = np.frombuffer(os.pread(file.fileno(), length, start), np.uint8)
        if len(data) != length:
            raise NotProven
        packets = PacketBytes(data, positions[first:stop] - start, sizes[first:stop])
        chunk_facts.append(parser.facts(packets))
        first = stop
    return merged(chunk_facts)


def _display_offsets(file: BinaryIO, track: int, count: int) -> np.ndarray:
    """By how much each of `count` packets of a track is shown later than decoded, int64. Raises NotProven."""
    try:
        tables = _sample_tables(_movie_box(file), track)
        if _number(tables[b"stsd"], 4) != 1 or _number(tables[b"stsz"], 8) != count:
            raise NotProven
        if b"ctts" not in tables:
            return np.zeros(count, np.int64)
        runs = np.frombuffer(tables[b"ctts"], ">i4", offset=8).reshape(-1, 2)
        if len(runs) != _number(tables[b"ctts"], 4) or (runs[:, 0] < 1).any():
            raise NotProven
        if runs[:, 0].sum(dtype=np.int64) != count:
            raise NotProven
    except (KeyError, ValueError, struct.error):  # a table is missing or cut short
        raise NotProven from None
    return np.repeat(runs[:, 1], runs[:, 0]).astype(np.int64)


def _movie_box(file: BinaryIO) -> bytes:
    """The content of the box that holds the tables (moov), if the file has one and no fragments."""
    end = os.fstat(file.fileno()).st_size
    position = 0
    movie = None
    for _ in range(MAX_BOXES):
        if position >= end:
            break
        header = os.pread(file.fileno(), 16, position)
        size, box_type = struct.unpack_from(">I4s", header)
        header_size = 8
        if size == 1:
            size = struct.unpack_from(">Q", header, 8)[0]
            header_size = 16
        size = size or end - position
        if box_type == b"moof" or size < header_size or position + size > end:
            raise NotProven
        if box_type == b"moov":
            if movie is not None or size > MAX_TABLES:
                raise NotProven
            movie = os.pread(file.fileno(), size - header_size, position + header_size)
        position += size
    if movie is None or position < end:
        raise NotProven
    return movie


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) of the boxes inside a box."""
    position = 0
    while position + 8 <= len(content):
        size, box_type = struct.unpack_from(">I4s", content, position)
        if size < 8 or position + size > len(content):
            raise NotProven
        yield box_type, content[position + 8 : position + size]
        position += size


def _child(content: bytes, box_type: bytes) -> bytes:
    """The content of the one box of a type inside a box."""
    children = _boxes(content)
    (child,) = (inner for inner_type, inner in children if inner_type == box_type)
    return child


def _sample_tables(movie: bytes, track: int) -> dict[bytes, bytes]:
    """The tables about the packets of a track, by the type of their box."""
    if any(box_type == b"mvex" for box_type, _ in _boxes(movie)):
        raise NotProven
    (content,) = (
        content
        for box_type, content in _boxes(movie)
        if box_type == b"trak" and _track_number(content) == track
    )
    _check_edits(content)
    inner = _child(_child(_child(content, b"mdia"), b"minf"), b"stbl")
    tables = list(_boxes(inner))
    if len(dict(tables)) != len(tables):
        tables = [table for table in tables if table[0] not in (b"sgpd", b"sbgp")]
        if len(dict(tables)) != len(tables):
            raise NotProven
    return dict(tables)


def _track_number(track: bytes) -> int:
    header = _child(track, b"tkhd")
    return _number(header, 20 if header[:1] == b"\1" else 12)


def _check_edits(track: bytes) -> None:
    """Raises NotProven if a track has more than one edit."""
    for box_type, content in _boxes(track):
        if box_type == b"edts" and _number(_child(content, b"elst"), 4) != 1:
            raise NotProven


def _number(content: bytes, position: int) -> int:
    return struct.unpack_from(">I", content, position)[0]
