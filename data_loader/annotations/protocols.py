"""Evaluation protocols by name, with the counts of a complete gallery: of the published files, parsed, except where a
comment says otherwise."""

from typing import NamedTuple


class Protocol(NamedTuple):
    """What a published number was measured on: how many videos and how many captions."""

    name: str
    videos: int
    captions: int


# Protocol -> split -> (videos, captions). The name alone means its test split, "<name>-<split>" another one.
COUNTS = {
    # "jsfusion": one chosen sentence per video
    "msrvtt-1k-A": {"test": (1000, 1000), "train": (9000, 180_000)},
    # "miech": each video's first sentence
    "msrvtt-1k-B": {"test": (1000, 1000), "train": (6656, 133_120)},
    "msrvtt-full": {
        "test": (2990, 59_800),
        "val": (497, 9940),
        "train": (6513, 130_260),
    },
    # every caption is a query
    "msvd-all-captions": {
        "test": (670, 27_763),
        "val": (100, 4290),
        "train": (1200, 48_774),
    },
    # the first caption of each video
    "msvd-one-caption": {
        "test": (670, 670),
        "val": (100, 100),
        "train": (1200, 48_774),
    },
    # a video's captions joined
    "msvd-paragraph": {"test": (670, 670), "val": (100, 100), "train": (1200, 48_774)},
    "lsmdc-1000": {"test": (1000, 1000)},
    "didemo-paragraph": {
        "test": (1004, 1004),
        "val": (1065, 1065),
        "train": (8392, 8392),
    },
    # of these two and of LSMDC no file was parsed: the counts are from the literature
    "ucf101-split1": {"test": (3783, 3783), "train": (9537, 9537)},
    "hmdb51-split1": {"test": (1530, 1530), "train": (3570, 3570)},
}


def protocol_of_split(name: str, split: str) -> str | None:
    """The entry of PROTOCOLS for `split` of protocol `name`; None if no count of it is published."""
    if split not in COUNTS[name]:
        return None
    return name if split == "test" else f"{name}-{split}"


PROTOCOLS: dict[str, Protocol] = {}
for _name, _splits in COUNTS.items():
    for _split, _counts in _splits.items():
        _entry = protocol_of_split(_name, _split)
        assert _entry is not None
        PROTOCOLS[_entry] = Protocol(_entry, *_counts)
