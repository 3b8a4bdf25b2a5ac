"""An exponential moving average of a learner's weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class AveragedLearner(AveragedModel):
    """A copy of a learner whose trainable weights lag behind, `module`.

    The first update copies. From then on, with n updates done,
    `average = decay * average + (1 - decay) * weight`, `decay = min(limit, (1 + n) / (10 + n))`,
    so that an average over few steps does not remember the initial weights (the rule of
    TensorFlow's ExponentialMovingAverage). What is not trained, that is buffers, integer counters
    and target networks (`requires_grad=False`), is copied: averaging a count is meaningless, and a
    target network is an average already.

    Args:
        learner: the module to follow; its copy is in evaluation mode.
        decay: the limit, in [0, 1).
    """

    def __init__(self, learner: nn.Module, *, decay: float) -> None:
        # The counter stays on the CPU: reading it must not wait for a GPU.
        super().__init__(learner, multi_avg_fn=self._average)
        self.decay = decay
        self.module.requires_grad_(False)
        self.module.eval()

    def decay_at(self, updates: int) -> float:
        """Return the decay of the next update after `updates` of them."""
        return min(self.decay, (1 + updates) / (10 + updates))

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Follow `model` by one step."""
        super().update_parameters(model)
        for averaged, parameter in zip(self.module.parameters(), model.parameters(), strict=True):
            if not parameter.requires_grad:
                averaged.copy_(parameter)

    def _average(self, averaged: Any, current: Any, _: Tensor | int) -> None:
        if averaged[0].is_floating_point() or averaged[0].is_complex():
            weight = 1.0 - self.decay_at(int(self.n_averaged))
            torch._foreach_lerp_(averaged, current, weight)
