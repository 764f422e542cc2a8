"""What the headers of packets say, codec by codec, on packets that are made by hand or cut out of encoded clips."""

import random

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_loader.readers.av1 import Av1Parser
from data_loader.readers.av1_header import parse_frame, parse_sequence
from data_loader.readers.bits import BitColumns, BitReader
from data_loader.readers.h264 import H264Parser
from data_loader.readers.hevc import HevcParser
from data_loader.readers.packet_info import NotProven, PacketBytes, PacketFacts
from data_loader.readers.vp9 import Vp9Parser
from scripts.synthetic.clip_files import write_clip, x264


def joined(packets: list[bytes]) -> PacketBytes:
    sizes = np.array([len(packet) for packet in packets], np.int64)
    data = np.frombuffer(b"".join(packets), np.uint8)
    return PacketBytes(data, np.cumsum(sizes) - sizes, sizes)


def read(path) -> tuple[bytes, list[av.Packet]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        return stream.codec_context.extradata or b"", packets


def encoded(tmp_path, name: str, **options) -> tuple[bytes, list[bytes]]:
    write_clip(tmp_path / name, **options)
    extradata, packets = read(tmp_path / name)
    return extradata, [bytes(packet) for packet in packets]


class TestBits:
    @given(st.binary(min_size=8, max_size=8), st.lists(st.integers(0, 16), max_size=6))
    @settings(max_examples=100, deadline=None)
    def test_columns_read_what_one_reader_reads(self, data, counts):
        """0 stands for an exponential-Golomb number."""
        if b"\0\0\3" in data:
            return
        reader = BitReader(data)
        columns = BitColumns(np.frombuffer(data * 2, np.uint8), np.array([0]))
        for count in counts:
            try:
                expected = reader.take(count) if count else reader.golomb()
            except ValueError:
                with pytest.raises(ValueError, match="header"):
                    columns.take(count) if count else columns.golomb()
                return
            if expected >= 2**15:
                return
            found = columns.take(count) if count else columns.golomb()
            assert found.tolist() == [expected]

    def test_some_headers_lack_a_number(self):
        data = np.array([0b01010000, 0b11000000] + [0] * 14, np.uint8)
        columns = BitColumns(data, np.array([0, 1]))
        of = np.array([True, False])
        assert columns.golomb(of=of).tolist() == [1, 0]
        assert columns.take(2).tolist() == [2, 3]

    def test_escapes_are_left_out(self):
        data = np.frombuffer(b"\0\0\3\1\xff\0\0\0\0\0\0\0", np.uint8)
        columns = BitColumns(data, np.array([0]))
        assert columns.take(16).tolist() == [0]
        assert columns.take(16).tolist() == [0x01FF]

    def test_golomb(self):
        bits = BitReader(bytes([0b10100110, 0b01000010, 0b10000000]))
        assert [bits.golomb() for _ in range(5)] == [0, 1, 2, 3, 4]
        for cut_short in (b"", b"\0\0"):
            with pytest.raises(ValueError, match="cut short"):
                BitReader(cut_short).golomb()


class TestH264:
    @pytest.fixture(scope="class")
    def clip(self, tmp_path_factory):
        return encoded(tmp_path_factory.mktemp("h264"), "a.mp4", options=x264())

    def facts(self, clip, packets=None) -> PacketFacts:
        return H264Parser(clip[0]).facts(joined(packets or clip[1]))

    def test_starts_and_numbers(self, clip):
        facts = self.facts(clip)
        assert np.flatnonzero(facts.starts).tolist() == [0, 12, 24, 36]
        assert facts.skips.any() and not facts.leading.any()

    def test_chunks_say_the_same(self, clip):
        parser = H264Parser(clip[0])
        chunks = [
            parser.facts(joined(clip[1][i : i + 7])) for i in range(0, len(clip[1]), 7)
        ]
        for field, parts in zip(self.facts(clip), zip(*chunks)):
            np.testing.assert_array_equal(field, np.concatenate(parts))

    def test_a_missing_reference(self, clip):
        facts = self.facts(clip)
        number = next(n for n in range(1, 11) if not facts.skips[n])
        with pytest.raises(NotProven):
            self.facts(clip, clip[1][:number] + clip[1][number + 1 :])

    def test_a_missing_picture_that_no_other_needs(self, clip):
        number = int(np.flatnonzero(self.facts(clip).skips)[0])
        packets = clip[1][:number] + clip[1][number + 1 :]
        assert len(self.facts(clip, packets).starts) == len(clip[1]) - 1

    def test_two_pictures_in_a_packet_and_none(self, clip):
        with pytest.raises(NotProven):
            self.facts(clip, [clip[1][0] + clip[1][1], *clip[1][2:]])
        delimiter = b"\0\0\0\2\x09\x10"
        with pytest.raises(NotProven):
            self.facts(clip, [clip[1][0], delimiter])

    @pytest.mark.parametrize(
        ("message", "is_plain"), [(b"\x05\x01a", True), (b"\x13\x01a", False)]
    )
    def test_film_grain_lasts(self, clip, message, is_plain):
        unit = b"\x06" + message + b"\x80"
        packet = len(unit).to_bytes(4, "big") + unit + clip[1][1]
        packets = [clip[1][0], packet, *clip[1][2:]]
        if is_plain:
            self.facts(clip, packets)
        else:
            with pytest.raises(NotProven):
                self.facts(clip, packets)

    def test_records_that_are_cut_short_or_changed(self, clip):
        for length in range(len(clip[0]) - 4):
            with pytest.raises(NotProven):
                H264Parser(clip[0][:length])
        generator = random.Random(0)
        for _ in range(200):
            record = bytearray(clip[0])
            record[generator.randrange(len(record))] = generator.randrange(256)
            try:
                H264Parser(bytes(record)).facts(joined(clip[1]))
            except NotProven:
                continue


class TestHevc:
    @pytest.fixture(scope="class")
    def clip(self, tmp_path_factory):
        params = "log-level=none:keyint=12:min-keyint=12:open-gop=1:bframes=3"
        return encoded(
            tmp_path_factory.mktemp("hevc"),
            "a.mp4",
            codec="libx265",
            options={"x265-params": params},
        )

    def facts(self, clip, packets=None) -> PacketFacts:
        return HevcParser(clip[0]).facts(joined(packets or clip[1]))

    @staticmethod
    def picture(packet: bytes) -> int:
        """Where the unit of the picture begins, the last one of a packet with one slice."""
        position = 0
        while True:
            length = int.from_bytes(packet[position : position + 4], "big")
            if position + 4 + length == len(packet):
                return position + 4
            position += 4 + length

    def changed(self, packet: bytes, offset: int, byte: int) -> bytes:
        place = self.picture(packet) + offset
        return packet[:place] + bytes([byte]) + packet[place + 1 :]

    def test_leading_pictures_follow_their_start(self, clip):
        facts = self.facts(clip)
        starts = np.flatnonzero(facts.starts)
        assert len(starts) == 4
        for number in np.flatnonzero(facts.leading):
            last_start = starts[starts < number][-1]
            assert last_start > 0 and facts.leading[last_start + 1 : number].all()

    def test_chunks_say_the_same(self, clip):
        parser = HevcParser(clip[0])
        chunks = [
            parser.facts(joined(clip[1][i : i + 7])) for i in range(0, len(clip[1]), 7)
        ]
        for field, parts in zip(self.facts(clip), zip(*chunks)):
            np.testing.assert_array_equal(field, np.concatenate(parts))

    @pytest.mark.parametrize("unit_type", [16, 17, 18, 22, 36, 48])
    def test_types_that_are_not_proven(self, clip, unit_type):
        """BLA pictures, what is reserved, an end of sequence, what is unspecified."""
        number = int(np.flatnonzero(self.facts(clip).starts)[1])
        packets = list(clip[1])
        packets[number] = self.changed(packets[number], 0, unit_type << 1)
        with pytest.raises(NotProven):
            self.facts(clip, packets)

    def test_a_second_view(self, clip):
        packet = self.changed(
            clip[1][1], 1, clip[1][1][self.picture(clip[1][1]) + 1] | 8
        )
        with pytest.raises(NotProven):
            self.facts(clip, [clip[1][0], packet])

    def test_pictures_that_are_thrown_away(self, clip):
        """no_output_of_prior_pics_flag"""
        number = int(np.flatnonzero(self.facts(clip).starts)[1])
        packet = clip[1][number]
        place = self.picture(packet) + 2
        packets = list(clip[1])
        packets[number] = self.changed(packet, 2, packet[place] | 64)
        with pytest.raises(NotProven):
            self.facts(clip, packets)

    def test_leading_pictures_behind_others(self, clip):
        facts = self.facts(clip)
        leading = int(np.flatnonzero(facts.leading)[0])
        last = next(n for n in range(leading, len(clip[1])) if not facts.leading[n])
        packets = list(clip[1])
        packets.insert(last, packets.pop(leading))
        with pytest.raises(NotProven):
            self.facts(clip, packets)

    def test_parameter_sets_that_change(self, clip):
        extradata, packets = clip
        changed = b"\0\0\0\4\x44\x01\xc1\x00"  # a picture parameter set
        with pytest.raises(NotProven):
            HevcParser(extradata).facts(joined([changed + packets[0]]))

    def test_records_that_are_cut_short_or_changed(self, clip):
        generator = random.Random(0)
        for number in range(300):
            record = bytearray(clip[0])
            record[generator.randrange(200)] = generator.randrange(256)
            if number % 3 == 0:
                record = record[: generator.randrange(120)]
            try:
                HevcParser(bytes(record)).facts(joined(clip[1]))
            except NotProven:
                continue


class TestVp9:
    key = bytes([0b10000010, 0x49, 0x83, 0x42, 0, 0x05, 0xF0, 0x03, 0xF0, 0, 0, 0])
    shown = bytes([0b10000110, 1, 2, 3])
    hidden = bytes([0b10000100, 1, 2, 3, 4])
    existing = bytes([0b10001000, 0])

    @staticmethod
    def together(*frames: bytes) -> bytes:
        marker = 0b11000000 | (len(frames) - 1)
        sizes = bytes(len(frame) for frame in frames)
        return b"".join(frames) + bytes([marker]) + sizes + bytes([marker])

    def test_one_shown_frame_in_each_packet(self):
        parser = Vp9Parser(b"")
        packets = [
            self.key,
            self.shown,
            self.together(self.hidden, self.shown),
            self.existing,
            self.key,
        ]
        facts = parser.facts(joined(packets))
        assert facts.starts.tolist() == [True, False, False, False, True]
        assert not facts.skips.any() and parser.size == (96, 64)

    @pytest.mark.parametrize(
        "packet",
        [
            hidden,
            bytes([0b01000110, 1]),  # no frame
            bytes([0b10000010, 0x49, 0x83]),  # a key frame that is cut short
            bytes([0b10000010, 0x49, 0x83, 0x43, 0, 5, 240, 3, 240, 0, 0]),
        ],
    )
    def test_what_is_not_one_shown_frame(self, packet):
        with pytest.raises(NotProven):
            Vp9Parser(b"").facts(joined([self.key, packet]))

    def test_excerpts_say_what_whole_packets_say(self, tmp_path):
        options = {"g": "20", "lag-in-frames": "16", "auto-alt-ref": "1"}
        write_clip(tmp_path / "a.webm", codec="libvpx-vp9", options=options)
        _, packets = read(tmp_path / "a.webm")
        parser = Vp9Parser(b"")
        excerpts = [parser.excerpt(packet) for packet in packets]
        assert sum(map(len, excerpts)) < sum(packet.size for packet in packets)
        whole = parser.facts(joined([bytes(packet) for packet in packets]))
        for field, expected in zip(Vp9Parser(b"").facts(joined(excerpts)), whole):
            np.testing.assert_array_equal(field, expected)

    def test_superframes_that_are_odd(self):
        for packet in (
            self.together(self.shown, self.hidden),
            self.together(self.shown, self.shown),
            self.together(self.hidden, self.key),
            self.together(self.hidden, self.hidden),
            self.together(self.hidden, self.shown)[1:],
            self.together(self.hidden, b"", self.shown),
            b"\x86\xc0",
        ):
            with pytest.raises(NotProven):
                Vp9Parser(b"").facts(joined([self.key, packet]))

    def test_a_key_frame_of_another_size(self):
        other = self.key[:6] + b"\xe0" + self.key[7:]
        with pytest.raises(NotProven):
            Vp9Parser(b"").facts(joined([self.key, other]))


class TestAv1:
    @pytest.fixture(scope="class")
    def clip(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("av1")
        write_clip(
            folder / "a.mkv",
            codec="libsvtav1",
            options={"preset": "10", "svtav1-params": "keyint=33"},
        )
        return read(folder / "a.mkv")[1]

    def parser(self, clip) -> Av1Parser:
        parser = Av1Parser(b"")
        parser.facts(joined([bytes(packet) for packet in clip]))
        return parser

    def test_starts(self, clip):
        facts = Av1Parser(b"").facts(joined([bytes(packet) for packet in clip]))
        assert facts.starts[0] and 1 <= facts.starts.sum() <= 2

    def test_all_frames_of_all_packets_are_the_packets(self, clip):
        selected = self.parser(clip).select(clip[:32], set(range(32)))
        assert [part.packet for part in selected] == clip[:32]
        assert all(part.is_shown for part in selected)

    def test_the_last_frame_needs_few(self, clip):
        for wanted in (15, 23, 31):
            selected = self.parser(clip).select(clip[: wanted + 1], {wanted})
            assert len(selected) < wanted / 2
            assert selected[-1].packet.pts == clip[wanted].pts
            assert selected[-1].is_shown

    def test_a_sequence_that_changes(self, clip):
        packet = bytearray(bytes(clip[0]))
        place = packet.index(b"\x0a")  # a sequence header
        packet[place + 5] ^= 1
        with pytest.raises(NotProven):
            Av1Parser(b"").facts(joined([bytes(clip[0]), bytes(packet)]))

    @pytest.mark.parametrize(
        "packet",
        [
            b"",
            b"\x12\x00",  # nothing but a delimiter
            b"\x32\x02\x20\x00",  # a hidden frame
            b"\x32\x02\x30\x00\x32\x02\x30\x00",  # two shown frames
            b"\x36\x00\x02\x30\x00",  # a layer
            b"\x32\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # too long a number
            b"\x32\x05\x30\x00",  # cut short
            b"\x42\x02\x30\x00",  # a list of tiles
        ],
    )
    def test_what_is_not_one_shown_frame(self, clip, packet):
        with pytest.raises(NotProven):
            Av1Parser(b"").facts(joined([bytes(clip[0]), packet]))

    def test_headers_that_are_cut_short(self, clip):
        data = bytes(clip[0])
        start = data.index(b"\x0a") + 2
        sequence = parse_sequence(data[start : start + data[start - 1]])
        assert sequence.size == (96, 64)
        with pytest.raises(ValueError, match="cut short"):
            parse_sequence(data[start : start + 3])
        with pytest.raises(ValueError, match="cut short"):
            parse_frame(b"\x30\x00", sequence)
