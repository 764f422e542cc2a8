"""What an H.264 file says of itself before its first picture (ITU-T H.264, 7.3.2.1; ISO/IEC 14496-15, 5.3.3.1)."""

HIGH = {
    44,
    83,
    86,
    100,
    110,
    118,
    122,
    128,
    134,
    135,
    138,
    139,
    144,
    244,
}  # profiles that tell the chroma format


class _Bits:
    """Reads a header bit by bit."""

    def __init__(self, data: bytes):
        clean = data.replace(b"\0\0\3", b"\0\0")
        self.bits, self.at = "".join(f"{byte:08b}" for byte in clean), 0

    def take(self, count: int) -> int:
        self.at += count
        return int(self.bits[self.at - count : self.at], 2)

    def golomb(self) -> int:
        zeros = self.bits.index("1", self.at) - self.at
        self.at += zeros
        return self.take(zeros + 1) - 1


def _plain(sequence: bytes) -> bool:
    """Whether a sequence parameter set promises whole frames, none left out on purpose, in an order that it tells."""
    bits = _Bits(sequence[1:64])
    profile = bits.take(8)
    bits.take(16), bits.golomb()
    if profile in HIGH:
        if bits.golomb() == 3:
            bits.take(1)
        bits.golomb(), bits.golomb(), bits.take(1)
        if bits.take(1):  # scaling lists of its own
            return False
    bits.golomb()
    count_type = bits.golomb()
    if count_type == 1:
        return False
    if count_type == 0:
        bits.golomb()
    bits.golomb()
    gaps = bits.take(1)
    bits.golomb(), bits.golomb()
    return not gaps and bits.take(1) == 1


def parameter_sets(extra: bytes) -> tuple[int, set[bytes]]:
    """Bytes of a unit's length, and the parameter sets, of an avcC record; (0, empty) of anything not plain."""
    if extra[:1] != b"\1":
        return 0, set()
    found, at = [], 5
    try:
        for mask in (31, 255):
            count, at = extra[at] & mask, at + 1
            for _ in range(count):
                length = int.from_bytes(extra[at : at + 2], "big")
                found.append(extra[at + 2 : at + 2 + length])
                at += 2 + length
        sequences = [one for one in found if one[0] & 31 == 7]
        plain = at <= len(extra) and len(sequences) == 1 and _plain(sequences[0])
    except (IndexError, ValueError):  # cut short
        plain = False
    return ((extra[4] & 3) + 1, set(found)) if plain else (0, set())
