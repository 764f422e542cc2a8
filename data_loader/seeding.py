"""Randomness as a pure function of integers: the same numbers give the same draws in any process, in any order."""

import torch

MASK = (1 << 64) - 1


def hash_numbers(*numbers: int) -> int:
    """Non-negative 63-bit hash of integers (splitmix64's finaliser, chained).

    `trainer.seeds.derive_seed` does the same with another hash. Neither may change: the order of the samples and their
    crops follow from this one, dropout and masks from that one, and a run must resume as it began.
    """
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state >> 1


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded by `numbers`."""
    seeded = torch.Generator()
    seeded.manual_seed(hash_numbers(*numbers))
    return seeded


def permutation(count: int, *numbers: int) -> torch.Tensor:
    """int64 (count,): the order of 0..count-1 that belongs to `numbers`."""
    return torch.randperm(count, generator=generator(*numbers))
