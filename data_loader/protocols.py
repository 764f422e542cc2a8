"""Evaluation protocols by name, with the counts that a complete gallery has."""
from typing import NamedTuple


class Protocol(NamedTuple):
    """What a published number was measured on: so many videos, so many captions."""
    name: str
    videos: int
    captions: int


PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (
    Protocol("msrvtt-1k-A", 1000, 1000),
)}
