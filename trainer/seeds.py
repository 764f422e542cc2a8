"""Randomness as a pure function of integers: a step draws the same whenever and wherever it is taken."""

import hashlib

import torch


def mix(*numbers: int) -> int:
    """A 63-bit hash of integers."""
    text = "/".join(str(int(number)) for number in numbers)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed(*numbers: int):
    """Set torch's generators (all devices) to the state that belongs to `numbers`."""
    torch.manual_seed(mix(*numbers))
