"""Order of the samples: the indices of each batch on each process."""

import math
from collections.abc import Iterator

import torch

from data_loader import seeding


class DistributedBatchSampler:
    """Batch sampler: lists of (index, epoch) for process `rank` of `world_size`.

    Training: batch s is the s-th slice of world_size x batch_size of an order of all indices that is a function of
    (seed, epoch); each process takes its part of the slice. What fills no batch is left out: each process does the same
    number of steps. Otherwise: indices rank, rank + world_size, ... in order, nothing padded, nothing left out.

    count: samples of the data set. shuffle: of training only; without it the order is 0..count - 1.
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
    ) -> None:
        self.count = count
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.train = train
        self.shuffle = shuffle
        self.seed = seed
        self.set_position(0, 0)

    def set_position(self, epoch: int, start: int) -> None:
        """Let the next iteration yield the batches of `epoch` from number `start` on.

        A resumed run starts in the middle of an epoch: the batches before it are not read.
        """
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        if self.train:
            return self.count // (self.batch_size * self.world_size)

        samples = range(self.rank, self.count, self.world_size)
        return math.ceil(len(samples) / self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        if self.train:
            indices = self._training_indices(epoch)
        else:
            indices = torch.arange(self.count)[self.rank :: self.world_size]

        for step in range(self.start, len(self)):
            batch = indices[step * self.batch_size : (step + 1) * self.batch_size]
            yield [(index, epoch) for index in batch.tolist()]

    def _training_indices(self, epoch: int) -> torch.Tensor:
        """int64 (steps * batch_size,): this process's indices, batch after batch."""
        order = torch.arange(self.count)
        if self.shuffle:
            order = seeding.permutation(self.count, self.seed, epoch)

        order = order[: len(self) * self.batch_size * self.world_size]
        return order.view(-1, self.world_size, self.batch_size)[:, self.rank].flatten()
