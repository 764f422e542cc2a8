"""Mean losses, weighted by samples and kept on the device. K losses of a step, L loaders."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.distributed import gather_objects


class Meter:
    """Weighted sums of losses, for each loader by itself; nothing is read from the device before `means`.

    Not every step has every loss: a mean is over the samples of the steps that have it.

    Args:
        loader_names: a name for each loader
    """

    def __init__(self, loader_names: Sequence[str]) -> None:
        self.loader_names = list(loader_names)
        self.sums_L: dict[str, Tensor] = {}
        self.weights_L: dict[str, list[int]] = {}

    def add(
        self, loader: int, loss_names: Sequence[str], values_K: Tensor, weight: int
    ) -> None:
        """Add the losses of one step of `loader` with `weight` samples."""
        for loss_name, value in zip(loss_names, values_K, strict=True):
            if loss_name not in self.sums_L:
                self.sums_L[loss_name] = torch.zeros(
                    len(self.loader_names), dtype=torch.float64, device=value.device
                )
                self.weights_L[loss_name] = [0] * len(self.loader_names)
            self.sums_L[loss_name][loader] += value * weight
            self.weights_L[loss_name][loader] += weight

    def state(self) -> dict[str, Any]:
        """{loss: {"sums", "weights"}} by loader as plain data, sums averaged over the processes.

        Every process must call it.
        """
        sums = {name: sums_L.tolist() for name, sums_L in self.sums_L.items()}
        processes = gather_objects(sums)
        state = {}
        for name in sums:
            rows = zip(*(process[name] for process in processes))
            means = [sum(values) / len(processes) for values in rows]
            state[name] = {"sums": means, "weights": list(self.weights_L[name])}
        return state

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from what `state` returned, now or before losses could differ between loaders."""
        if "parts" in state:
            state = _from_older_state(state)
        self.weights_L = {name: list(loss["weights"]) for name, loss in state.items()}
        self.sums_L = {
            name: torch.tensor(loss["sums"], dtype=torch.float64, device=device)
            for name, loss in state.items()
        }

    def means(self) -> dict[str, float]:
        """Mean losses over the samples of all processes that have them; every process must call it.

        Returns {loss: mean over all loaders}, and with several loaders {loss/loader: mean of that loader}.
        """
        means = {}
        for name, loss in self.state().items():
            means[name] = sum(loss["sums"]) / max(1, sum(loss["weights"]))
            if len(self.loader_names) == 1:
                continue
            for loader_name, loss_sum, weight in zip(
                self.loader_names, loss["sums"], loss["weights"], strict=True
            ):
                if weight:
                    means[f"{name}/{loader_name}"] = loss_sum / weight
        return means


def _from_older_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Of checkpoints whose losses had one list of weights: {"parts", "sums" (L, K), "weights" (L)}."""
    return {
        name: {
            "sums": [sums[k] for sums in state["sums"]],
            "weights": list(state["weights"]),
        }
        for k, name in enumerate(state["parts"])
    }
