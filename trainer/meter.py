"""Means of losses, weighted by samples, kept on the device.

K parts of the loss, L loaders.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.distributed import gather_objects


class Meter:
    """Weighted sums of loss parts, for each loader by itself. Nothing is read from the device before `means`."""

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self.parts: list[str] = []
        self.sums_LK: Tensor | None = None
        self.weights = [0] * len(self.names)

    def add(self, loader: int, parts: Sequence[str], values_K: Tensor, weight: int):
        """One step of `loader` with `weight` samples."""
        if self.sums_LK is None:
            self.parts = list(parts)
            self.sums_LK = torch.zeros(
                len(self.names), len(parts), dtype=torch.float64, device=values_K.device
            )
        self.sums_LK[loader] += values_K * weight
        self.weights[loader] += weight

    def state(self) -> dict[str, Any]:
        """Plain data, averaged over the processes; every process must call it."""
        sums = [] if self.sums_LK is None else self.sums_LK.tolist()
        everyone = gather_objects(sums)
        mean = [[sum(column) / len(everyone) for column in zip(*rows)] for rows in zip(*everyone)]
        return {"parts": list(self.parts), "sums": mean, "weights": list(self.weights)}

    def load(self, state: Mapping[str, Any], device: torch.device):
        """Go on from what `state` gave."""
        self.parts, self.weights = list(state["parts"]), list(state["weights"])
        self.sums_LK = (
            torch.tensor(state["sums"], dtype=torch.float64, device=device) if self.parts else None
        )

    def means(self) -> dict[str, float]:
        """{part: mean over all samples of all processes, part/loader: of one loader's}; every process must call it."""
        state = self.state()
        found = {}
        for k, part in enumerate(state["parts"]):
            column = [row[k] for row in state["sums"]]
            found[part] = sum(column) / max(1, sum(self.weights))
            if len(self.names) > 1:
                found |= {
                    f"{part}/{name}": column[i] / weight
                    for i, (name, weight) in enumerate(zip(self.names, self.weights))
                    if weight
                }
        return found
