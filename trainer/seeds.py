"""Randomness as a pure function of integers: a step draws the same whenever and wherever it is taken."""

import hashlib

import torch


def derive_seed(*numbers: int) -> int:
    """A non-negative 63-bit hash of integers (BLAKE2b of their text).

    `data_loader.seeding.hash_numbers` does the same with another hash. Neither may change, so that runs
    stay repeatable.
    """
    text = "/".join(str(int(number)) for number in numbers)
    return (
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        >> 1
    )


def seed(*numbers: int) -> None:
    """Set torch's generators (all devices) to the state that belongs to `numbers`."""
    torch.manual_seed(derive_seed(*numbers))
