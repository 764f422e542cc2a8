"""Who reads what, in which order: the indices of each batch on each process."""

from collections.abc import Iterator

import torch

from data_loader import seeding


class Batches:
    """Batch sampler: lists of (index, epoch) for process `rank` of `world_size`.

    Training: an order of all indices that belongs to (seed, epoch), batch s being its s-th stretch of world_size x
    batch_size, cut into processes; the rest that fills no batch is left out: each process does the same number of
    steps. Otherwise: indices rank, rank + world_size, ... in order, nothing padded, nothing left out.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        rank: int,
        world_size: int,
        train: bool,
        shuffle: bool,
        seed: int,
    ):
        self.count, self.batch_size, self.rank, self.world_size = (
            count,
            batch_size,
            rank,
            world_size,
        )
        self.train, self.shuffle, self.seed = train, shuffle, seed
        self.begin(0, 0)

    def begin(self, epoch: int, start: int) -> None:
        """What the next iteration gives: the batches of `epoch` from `start` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        if self.train:
            return self.count // (self.batch_size * self.world_size)
        return -(-len(range(self.rank, self.count, self.world_size)) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, size = self.epoch, self.batch_size
        if self.train:
            order = (
                seeding.permutation(self.count, self.seed, epoch)
                if self.shuffle
                else torch.arange(self.count)
            )
            order = (
                order[: len(self) * size * self.world_size]
                .view(-1, self.world_size, size)[:, self.rank]
                .flatten()
            )
        else:
            order = torch.arange(self.count)[self.rank :: self.world_size]
        for step in range(self.start, len(self)):
            yield [(index, epoch) for index in order[step * size : (step + 1) * size].tolist()]
