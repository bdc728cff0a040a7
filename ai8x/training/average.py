"""A running mean of a model's weights, which often does better than the weights themselves. Start at `WeightAverage`.

Source: issue 4 ("EMA").
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ai8x.nn.qat import QatPolicy, switch_to_qat


class WeightAverage:
    """The exponential moving average of everything that a model learns.

    Args:
        model: to follow; a copy of it holds the average.
        decay: share of the old average that stays in every step; less in the first steps, so that the random start
            is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model)
        self._decay = decay
        self._steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model; entries that are no real numbers are copied."""
        self._steps += 1
        decay = min(self._decay, self._steps / (self._steps + 9))
        current = model.state_dict()
        for name, mean in self.model.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(current[name].to(mean.dtype), 1 - decay)
            else:
                mean.copy_(current[name])

    def switch(self, policy: QatPolicy, batches: Iterable[Tensor]) -> None:
        """Quantise the average as the model is quantised.

        Args:
            policy: widths and generation.
            batches: training data, from which the second generation takes its statistics.
        """
        switch_to_qat(self.model, policy, batches)

    def follow(self, model: nn.Module) -> None:
        """Start anew from a model whose layers have changed."""
        self.model = copy.deepcopy(model)

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"steps": self._steps, "state": dict(self.model.state_dict())}

    def load_state(self, steps: int, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""
        self._steps = steps
        self.model.load_state_dict(dict(state))
