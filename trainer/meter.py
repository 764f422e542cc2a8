"""Mean losses, weighted by samples and kept on the device. K losses, L loaders."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.distributed import gather_objects


class Meter:
    """Weighted sums of losses, for each loader by itself; nothing is read from the device before `means`.

    Args:
        loader_names: a name for each loader
    """

    def __init__(self, loader_names: Sequence[str]) -> None:
        self.loader_names = list(loader_names)
        self.loss_names: list[str] = []
        self.sums_LK: Tensor | None = None
        self.weights = [0] * len(self.loader_names)

    def add(
        self, loader: int, loss_names: Sequence[str], values_K: Tensor, weight: int
    ) -> None:
        """Add the losses of one step of `loader` with `weight` samples."""
        if self.sums_LK is None:
            self.loss_names = list(loss_names)
            self.sums_LK = torch.zeros(
                len(self.loader_names),
                len(loss_names),
                dtype=torch.float64,
                device=values_K.device,
            )
        self.sums_LK[loader] += values_K * weight
        self.weights[loader] += weight

    def state(self) -> dict[str, Any]:
        """The sums as plain data, averaged over the processes; every process must call it."""
        sums = self.sums_LK.tolist() if self.sums_LK is not None else []
        sums_of_processes = gather_objects(sums)
        mean_sums = [
            [sum(values) / len(sums_of_processes) for values in zip(*rows)]
            for rows in zip(*sums_of_processes)
        ]
        return {
            "parts": list(self.loss_names),
            "sums": mean_sums,
            "weights": list(self.weights),
        }

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from what `state` returned."""
        self.loss_names = list(state["parts"])
        self.weights = list(state["weights"])
        self.sums_LK = None
        if self.loss_names:
            self.sums_LK = torch.tensor(
                state["sums"], dtype=torch.float64, device=device
            )

    def means(self) -> dict[str, float]:
        """Mean losses over all samples of all processes; every process must call it.

        Returns {loss: mean over all loaders}, and with several loaders {loss/loader: mean of that loader}.
        """
        state = self.state()
        means = {}
        for k, loss_name in enumerate(state["parts"]):
            sums_of_loaders = [sums[k] for sums in state["sums"]]
            means[loss_name] = sum(sums_of_loaders) / max(1, sum(self.weights))
            if len(self.loader_names) == 1:
                continue
            for i, loader_name in enumerate(self.loader_names):
                if self.weights[i]:
                    means[f"{loss_name}/{loader_name}"] = (
                        sums_of_loaders[i] / self.weights[i]
                    )
        return means
