"""Exponential moving average of a learner's weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class AveragedLearner(AveragedModel):
    """Copy of a learner (`module`) with exponentially averaged weights.

    The first update copies the weights. After n updates,
    `average = decay * average + (1 - decay) * weight` with `decay = min(limit, (1 + n) / (10 + n))`
    (the rule of TensorFlow's ExponentialMovingAverage), so that the initial weights do not dominate
    a short run. Values that are not trained (buffers, integer counters and target networks with
    `requires_grad=False`) are copied.

    Args:
        learner: the module to average; its copy is in evaluation mode.
        decay: limit of the decay, in [0, 1); larger values average over more steps.

    Example:
        >>> import torch
        >>> from pgdiff.training import AveragedLearner
        >>> layer = torch.nn.Linear(2, 1)
        >>> average = AveragedLearner(layer, decay=0.999)
        >>> average.update_parameters(layer)
        >>> torch.equal(average.module.weight, layer.weight)
        True
    """

    def __init__(self, learner: nn.Module, *, decay: float) -> None:
        # The counter stays on the CPU: reading it must not wait for a GPU.
        super().__init__(learner, multi_avg_fn=self._average)
        self.decay = decay
        self.module.requires_grad_(False)
        self.module.eval()

    def decay_at(self, updates: int) -> float:
        """Return the decay of the update that follows `updates` updates."""
        return min(self.decay, (1 + updates) / (10 + updates))

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the average with the present weights of `model`."""
        super().update_parameters(model)
        for averaged, parameter in zip(self.module.parameters(), model.parameters(), strict=True):
            if not parameter.requires_grad:
                averaged.copy_(parameter)

    def _average(self, averaged: Any, current: Any, _: Tensor | int) -> None:
        if averaged[0].is_floating_point() or averaged[0].is_complex():
            weight = 1.0 - self.decay_at(int(self.n_averaged))
            torch._foreach_lerp_(averaged, current, weight)
