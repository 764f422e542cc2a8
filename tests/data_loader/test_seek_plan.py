"""Random access: the same pictures as a decode from first to last, from fewer packets, and only where it is proven."""

import os
import random
from collections.abc import Iterator
from itertools import islice

import av
import numpy as np
import pytest

from data_loader.readers import BrokenVideo, av_reader, planned_packets, seek_plan
from data_loader.readers.mp4_index import indexed_table
from data_loader.readers.packet_info import (
    NotProven,
    PacketFacts,
    display_order,
    message_types,
)
from data_loader.readers.seek_plan import NotAsPlanned, open_with_plan
from data_loader.readers.source import Source
from scripts.synthetic import clips
from scripts.synthetic.clip_files import audio, write_clip, x264

LENGTH = 40
X265 = "log-level=none:keyint=12:min-keyint=12:"
VP9 = {"cpu-used": "8", "deadline": "realtime"}


def x265(params: str) -> dict[str, str]:
    return {"x265-params": X265 + params}


def svt(**options: str) -> dict[str, str]:
    return {"preset": "10", **options}


PLANNED = {
    "h264.mp4": {"options": x264()},
    "h264.mkv": {"options": x264(bframes=7, b_pyramid="normal", keyint=20)},
    "h264.flv": {"options": x264()},
    "h264-slices.mp4": {"options": x264(slices=4)},
    "h264-fragments.mp4": {
        "options": x264(),
        "container_options": {"movflags": "frag_keyframe+empty_moov"},
    },
    "hevc-closed.mp4": {"codec": "libx265", "options": x265("open-gop=0")},
    "hevc-closed.mkv": {"codec": "libx265", "options": x265("open-gop=0")},
    "hevc-open.mp4": {"codec": "libx265", "options": x265("open-gop=1")},
    "hevc-open.mkv": {"codec": "libx265", "options": x265("open-gop=1")},
    "hevc-pyramid.mp4": {
        "codec": "libx265",
        "options": x265("open-gop=1:b-adapt=0:bframes=7:b-pyramid=1"),
    },
    "hevc-radl.mp4": {"codec": "libx265", "options": x265("open-gop=0:radl=2")},
    "hevc-layers.mkv": {"codec": "libx265", "options": x265("temporal-layers=3")},
    "hevc-slices.mp4": {"codec": "libx265", "options": x265("slices=2")},
    "hevc-headers.mp4": {"codec": "libx265", "options": x265("repeat-headers=1")},
    "hevc-forced.mp4": {
        "codec": "libx265",
        "options": x265("open-gop=1") | {"forced-idr": "1"},
        "key_frames": {5, 7, 20, 21, 33},
    },
    "hevc-10bit.mp4": {
        "codec": "libx265",
        "pix_fmt": "yuv420p10le",
        "options": x265(""),
    },
    "hevc-audio.mp4": {
        "codec": "libx265",
        "options": x265(""),
        "add_stream": audio,
    },
    "hevc-odd.mkv": {"codec": "libx265", "size": (98, 66), "options": x265("")},
    "vp9.webm": {"codec": "libvpx-vp9", "options": VP9 | {"g": "12"}},
    "vp9.mp4": {"codec": "libvpx-vp9", "options": VP9 | {"g": "12"}},
    "vp9-hidden.webm": {
        "codec": "libvpx-vp9",
        "options": {"g": "20", "lag-in-frames": "16", "auto-alt-ref": "1"},
    },
    "vp9-444.mkv": {
        "codec": "libvpx-vp9",
        "pix_fmt": "yuv444p",
        "options": VP9 | {"g": "12"},
    },
    "vp9-forced.webm": {
        "codec": "libvpx-vp9",
        "options": VP9 | {"g": "100"},
        "key_frames": {5, 7, 20, 21, 33},
    },
    "av1.mp4": {"codec": "libsvtav1", "options": svt(g="12")},
    "av1.webm": {"codec": "libsvtav1", "options": svt(g="12")},
    "av1-layers.mkv": {
        "codec": "libsvtav1",
        "options": svt(**{"svtav1-params": "hierarchical-levels=5:keyint=33"}),
    },
    "av1-grain.mp4": {
        "codec": "libsvtav1",
        "options": svt(**{"svtav1-params": "film-grain=20:keyint=12"}),
    },
    "av1-10bit.mp4": {
        "codec": "libsvtav1",
        "pix_fmt": "yuv420p10le",
        "options": svt(g="12"),
    },
}
UNPROVEN = {
    "h264.ts": {"options": x264()},
    "h264-interlaced.mp4": {"options": x264(tff=1)},
    "hevc.ts": {"codec": "libx265", "options": x265("")},
    "hevc-edit-list.mp4": {
        "codec": "libx265",
        "options": x265(""),
        "hidden_frames": 7,
        "container_options": {"avoid_negative_ts": "disabled"},
    },
    "vp9-edit-list.mp4": {
        "codec": "libvpx-vp9",
        "options": VP9 | {"g": "12"},
        "hidden_frames": 7,
        "container_options": {"avoid_negative_ts": "disabled"},
    },
    "vp9-rgb.webm": {
        "codec": "libvpx-vp9",
        "pix_fmt": "gbrp",
        "options": VP9 | {"g": "12"},
    },
    "mpeg4.mp4": {"codec": "mpeg4"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planned")
    for name, options in (PLANNED | UNPROVEN).items():
        write_clip(folder / name, length=LENGTH, **options)
    return folder


@pytest.fixture(autouse=True)
def forget_plans():
    seek_plan.KEPT.clear()


def every_frame(path) -> list[np.ndarray]:
    frames, _ = av_reader.read_sequentially(str(path), range)
    return list(frames)


def planned_frames(path, positions) -> dict[int, np.ndarray]:
    """The frames at `positions` by the plan alone. Raises NotAsPlanned."""
    with open_with_plan(str(path)) as (source, plan):
        assert plan is not None
        return av_reader.decode_positions(source, plan, set(positions))


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANNED)
def test_planned_frames_are_those_of_a_decode_from_first_to_last(folder, name):
    expected = every_frame(folder / name)
    assert len(expected) == LENGTH
    generator = random.Random(0)
    requests = [[position] for position in range(LENGTH)]
    requests += [generator.sample(range(LENGTH), 4) for _ in range(10)]
    requests.append(list(range(LENGTH)))
    for number, positions in enumerate(requests):
        if number % 2:
            seek_plan.KEPT.clear()
        frames = planned_frames(folder / name, positions)
        assert set(frames) == set(positions)
        for position in positions:
            np.testing.assert_array_equal(frames[position], expected[position])


@pytest.mark.parametrize("name", UNPROVEN)
def test_what_is_not_proven_is_read_from_the_start(folder, name):
    with open_with_plan(str(folder / name)) as (_, plan):
        assert plan is None
    expected = every_frame(folder / name)
    frames, indices = av_reader.read(
        str(folder / name), lambda length: [0, length // 2, length - 1]
    )
    assert indices == [0, len(expected) // 2, len(expected) - 1]
    for frame, index in zip(frames, indices):
        np.testing.assert_array_equal(frame, expected[index])


@pytest.mark.parametrize("name", [name for name in PLANNED if name.endswith(".mp4")])
def test_the_tables_of_an_mp4_say_what_demuxing_says(folder, name):
    if name == "h264-fragments.mp4":
        with Source(str(folder / name), quick=True) as source:
            parser = seek_plan.PARSERS["h264"](source.decoder.extradata)
            with pytest.raises(NotProven):
                indexed_table(source, parser)
        return
    tables = []
    for make_table in (indexed_table, seek_plan.demuxed_table):
        with Source(str(folder / name), quick=True) as source:
            make_parser = seek_plan.PARSERS[source.decoder.name]
            tables.append(
                make_table(source, make_parser(source.decoder.extradata or b""))
            )
    for indexed, demuxed in zip(tables[0][:-1], tables[1][:-1]):
        np.testing.assert_array_equal(indexed, demuxed)
    for indexed, demuxed in zip(tables[0].facts, tables[1].facts):
        np.testing.assert_array_equal(indexed, demuxed)


def decoded_packets(path, positions) -> list[planned_packets.Selected]:
    with open_with_plan(str(path)) as (source, plan):
        return [
            part
            for start, requested in plan.runs(set(positions))
            for part in planned_packets.packets_to_decode(
                source, plan, start, requested
            )
        ]


@pytest.mark.parametrize(
    ("name", "position", "most"),
    [
        ("h264.mp4", 26, 3),
        ("hevc-closed.mp4", 26, 3),
        ("hevc-open.mp4", 26, 4),
        ("vp9.webm", 26, 3),
        ("av1.mp4", 26, 3),
        ("av1-layers.mkv", 31, 8),
        ("hevc-pyramid.mp4", 38, 8),
    ],
)
def test_only_what_a_frame_depends_on_is_decoded(folder, name, position, most):
    parts = decoded_packets(folder / name, [position])
    assert 1 <= len(parts) <= most


def test_of_an_av1_packet_only_the_frames_that_are_needed_are_decoded(folder):
    """The packets that bring frames for later ones are cut down to these."""
    path = folder / "av1-layers.mkv"
    parts = decoded_packets(path, [31])
    assert not all(part.is_shown for part in parts)
    with Source(str(path)) as source:
        sizes = {packet.pts: packet.size for packet in source.packets()}
    assert any(part.packet.size < sizes[part.packet.pts] for part in parts)


def test_uniform_frames_stop_at_the_last_one(folder):
    for name in ("hevc-closed.mp4", "vp9.webm", "av1.mp4"):
        stamps = [part.packet.pts for part in decoded_packets(folder / name, [5])]
        with open_with_plan(str(folder / name)) as (_, plan):
            assert max(stamps) <= plan.stamps[12]


@pytest.mark.parametrize(
    "name", ["h264.mp4", "hevc-open.mkv", "hevc-open.mp4", "vp9.webm", "av1.mp4"]
)
def test_cuts_are_those_of_a_decode_from_the_start(folder, name):
    path = str(folder / name)
    cuts = [(0.4, 0.8), (None, 0.2), (1.2, None), (0.41, 0.415), (0.0, 9.0), (1.5, 3)]
    for start, end in cuts:
        expected, expected_indices = av_reader.read_sequentially(
            path, range, start, end
        )
        for _ in ("made", "kept"):
            frames, indices = av_reader.read(path, range, start, end)
            assert indices == expected_indices
            np.testing.assert_array_equal(np.stack(frames), np.stack(expected))
    with pytest.raises(BrokenVideo, match="has no frame between"):
        av_reader.read(path, range, 8.0, 9.0)


class TestKeptPlans:
    @pytest.mark.parametrize("name", ["hevc-open.mp4", "vp9.webm", "h264.mkv"])
    def test_the_file_is_not_scanned_again(self, folder, name, monkeypatch):
        expected = planned_frames(folder / name, [3, 30])

        def scan(*_):
            raise AssertionError("the file is scanned again")

        monkeypatch.setattr(seek_plan, "demuxed_table", scan)
        monkeypatch.setattr(seek_plan, "indexed_table", scan)
        frames = planned_frames(folder / name, [3, 30])
        for position in (3, 30):
            np.testing.assert_array_equal(frames[position], expected[position])

    def test_only_packets_near_the_wanted_ones_are_read(self, folder, monkeypatch):
        path = str(folder / "vp9.webm")
        planned_frames(path, [3])
        count = 0
        demux = Source._demux

        def counting(self, *args) -> Iterator[av.Packet]:
            nonlocal count
            for packet in demux(self, *args):
                count += 1
                yield packet

        monkeypatch.setattr(Source, "_demux", counting)
        planned_frames(path, [38])
        assert count <= 6  # from the key frame 36 on

    def test_a_file_that_changes_is_scanned_again(self, folder, tmp_path):
        path = tmp_path / "a.mp4"
        for name in ("hevc-open.mp4", "hevc-closed.mp4", "vp9.mp4"):
            path.write_bytes((folder / name).read_bytes())
            frames = planned_frames(path, [17])
            np.testing.assert_array_equal(frames[17], every_frame(path)[17])

    def test_a_file_that_changes_under_its_plan_is_read_from_the_start(
        self, folder, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(seek_plan, "_cache_key", lambda path: ("the same",))
        path = tmp_path / "a.mp4"
        for name in ("hevc-open.mp4", "h264-slices.mp4", "hevc-pyramid.mp4"):
            path.write_bytes((folder / name).read_bytes())
            frames, _ = av_reader.read(str(path), [17])
            np.testing.assert_array_equal(frames[0], every_frame(path)[17])

    def test_what_is_not_as_planned_gets_no_plan_again(self, folder):
        path = str(folder / "vp9.webm")
        with pytest.raises(NotAsPlanned), open_with_plan(path) as (_, plan):
            assert plan
            raise NotAsPlanned
        with open_with_plan(path) as (_, plan):
            assert plan is None

    def test_what_has_no_plan_is_remembered(self, folder, monkeypatch):
        path = str(folder / "hevc-edit-list.mp4")
        with open_with_plan(path) as (_, plan):
            assert plan is None
        monkeypatch.delattr(seek_plan, "demuxed_table")
        with open_with_plan(path) as (_, plan):
            assert plan is None

    def test_memory_is_bounded(self, folder, monkeypatch):
        cost = seek_plan.PLAN_COST + LENGTH
        monkeypatch.setattr(seek_plan, "KEPT_PACKETS", 2 * cost)
        names = ["av1.mp4", "vp9.mp4", "hevc-open.mp4"]
        for name in names:
            planned_frames(folder / name, [0])
            assert seek_plan.KEPT.size <= 2 * cost
        kept = [os.path.basename(key[0]) for (key, _), _ in seek_plan.KEPT.items()]
        assert kept == names[1:]


class TestDamage:
    """Of a damaged file no frame is given that is neither as in a decode from the start nor as in the whole file."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "name",
        [
            "h264.mp4",
            "h264.mkv",
            "hevc-open.mp4",
            "hevc-layers.mkv",
            "vp9-hidden.webm",
            "av1.mp4",
        ],
    )
    def test_flipped_bytes_outside_of_pictures(self, folder, tmp_path, name):
        """In the tables, the headers of packets and the first bytes of the packets."""
        data = (folder / name).read_bytes()
        places = _places_of_headers(folder / name, data)
        path = tmp_path / name
        for seed in range(60):
            generator = random.Random(seed)
            damaged = bytearray(data)
            damaged[generator.choice(places)] = generator.randrange(256)
            path.write_bytes(damaged)
            request = sorted(generator.sample(range(LENGTH), 3))
            _check_damaged(path, request, folder / name)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["h264.mp4", "hevc-open.mp4", "av1.mp4"])
    def test_a_file_that_ends_early(self, folder, tmp_path, name):
        data = (folder / name).read_bytes()
        path = tmp_path / name
        for share in (0.3, 0.6, 0.9, 0.99):
            path.write_bytes(data[: int(share * len(data))])
            _check_damaged(path, [0, 7, 20], folder / name)

    def test_wrong_times_in_the_tables(self, folder, tmp_path):
        """Two pictures change places by the table: the decoder shows them as they are numbered."""
        data = (folder / "h264.mp4").read_bytes()
        start = data.index(b"ctts") + 12  # runs of (count, offset), 8 bytes each
        runs = [data[start + 8 * run : start + 8 * run + 8] for run in range(8)]
        first, second = next(
            (run, run + 1) for run in range(1, 7) if runs[run][4:] != runs[run + 1][4:]
        )
        runs[first], runs[second] = (
            runs[first][:4] + runs[second][4:],
            runs[second][:4] + runs[first][4:],
        )
        path = tmp_path / "a.mp4"
        path.write_bytes(data[:start] + b"".join(runs) + data[start + 64 :])
        with open_with_plan(str(path)) as (_, plan):
            assert plan is None


def _places_of_headers(path, data: bytes) -> list[int]:
    inside: set[int] = set()
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                start = data.index(bytes(packet), max(0, packet.pos))
                inside.update(range(start + 8, start + packet.size))
    return [place for place in range(len(data)) if place not in inside]


def _check_damaged(path, positions: list[int], whole) -> None:
    good = dict(zip(_stamps(whole), every_frame(whole)))
    try:
        with Source(str(path)) as source:
            from_the_start = {
                frame.pts: source.picture(frame) for frame in source.frames()
            }
        with open_with_plan(str(path)) as (source, plan):
            if plan is None or max(positions) >= len(plan.stamps):
                return
            frames = av_reader.decode_positions(source, plan, set(positions))
    except (BrokenVideo, NotAsPlanned):
        return
    for position, frame in frames.items():
        stamp = int(plan.stamps[position])
        candidates = [from_the_start.get(stamp), good.get(stamp)]
        assert any(
            candidate is not None and np.array_equal(frame, candidate)
            for candidate in candidates
        ), (path, position)


def _stamps(path) -> list[int]:
    with Source(str(path)) as source:
        return [frame.pts for frame in source.frames()]


def test_lost_packets_of_hevc_are_noticed(folder, tmp_path):
    """A packet that others refer to is missing: the decoder would drop pictures, and the numbers of all move."""
    path = tmp_path / "lost.mkv"
    with (
        av.open(str(folder / "hevc-open.mkv")) as source,
        av.open(str(path), "w") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        starts = [number for number, p in enumerate(packets) if p.is_keyframe]
        for number, packet in enumerate(packets):
            if number != starts[1]:
                packet.stream = stream
                target.mux(packet)
    with open_with_plan(str(path)) as (_, plan):
        assert plan is None
    expected = every_frame(path)
    frames, indices = av_reader.read(str(path), lambda length: [0, length - 1])
    np.testing.assert_array_equal(frames[1], expected[-1])
    assert indices == [0, len(expected) - 1]


def test_the_decoder_must_give_what_the_plan_promises(folder, monkeypatch):
    """A decoder that loses a frame: the clip is read from the start instead."""
    path = str(folder / "vp9.webm")
    expected = every_frame(path)
    decode = av_reader._decode_planned
    monkeypatch.setattr(
        av_reader, "_decode_planned", lambda *args: islice(decode(*args), 1, None)
    )
    with pytest.raises(NotAsPlanned):
        planned_frames(path, [14])
    frames, _ = av_reader.read(path, [14])
    np.testing.assert_array_equal(frames[0], expected[14])


class TestDisplayOrder:
    @staticmethod
    def facts(counts, anchors, resets) -> PacketFacts:
        nothing = np.zeros(len(counts), bool)
        zeros = np.zeros(len(counts), np.int64)
        return PacketFacts(
            nothing,
            nothing,
            nothing,
            zeros,
            np.array(counts),
            np.array(anchors, bool),
            np.array(resets, bool),
        )

    def test_numbers_that_wrap(self):
        facts = self.facts(
            [0, 6, 3, 12, 9, 2, 15], [1, 1, 0, 1, 0, 1, 0], [1] + [0] * 6
        )
        order = display_order(facts, count_bits=4, shows_gaps=False)
        assert order.tolist() == [0, 2, 1, 4, 3, 6, 5]

    def test_numbers_that_begin_anew(self):
        facts = self.facts([0, 4, 2, 0, 2], [1, 1, 0, 1, 1], [1, 0, 0, 1, 0])
        order = display_order(facts, count_bits=4, shows_gaps=False)
        assert order.tolist() == [0, 2, 1, 3, 4]

    def test_a_number_that_comes_twice(self):
        facts = self.facts([0, 4, 4], [1, 1, 0], [1, 0, 0])
        with pytest.raises(NotProven):
            display_order(facts, count_bits=4, shows_gaps=False)

    def test_a_gap(self):
        facts = self.facts([0, 1, 3], [1, 1, 1], [1, 0, 0])
        assert len(display_order(facts, count_bits=4, shows_gaps=False)) == 3
        with pytest.raises(NotProven):
            display_order(facts, count_bits=4, shows_gaps=True)


def test_types_of_messages():
    assert message_types(b"\x05\x02ab\x80") == {5}
    assert message_types(b"\xff\x01\x01a\x13\x00\x80") == {256, 19}
    for cut_short in (b"\x05", b"\x05\x09ab\x80", b"\xff"):
        with pytest.raises(NotProven):
            message_types(cut_short)


def test_every_planned_clip_of_the_matrix_keeps_its_number(tmp_path):
    path = clips.make("hevc-open-gop.mp4", tmp_path)
    frames = planned_frames(path, [13, 22, 39])
    assert {
        position: clips.read_number(picture) for position, picture in frames.items()
    } == {13: 13, 22: 22, 39: 39}
