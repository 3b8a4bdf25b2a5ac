"""One optimiser step with checks for non-finite losses and gradients."""

import math
from typing import Any

import torch

from pgdiff.training.checkpoint import TrainingState
from pgdiff.training.divergence import find_cause
from pgdiff.training.learner import Learner, check_losses


class NonFiniteUpdate(Exception):
    """A loss or the gradient of a batch is not finite; no weight has been changed.

    Attributes:
        final: True if a weight is not finite, so that every other batch would fail too.
    """

    def __init__(self, cause: str, *, final: bool) -> None:
        super().__init__(cause)
        self.final = final


def update(
    learner: Learner,
    state: TrainingState,
    batch: Any,
    *,
    rate: float,
    generator: torch.Generator,
    clip_norm: float | None,
) -> tuple[dict[str, float], float]:
    """Take one optimiser step and update the averaged weights.

    Args:
        learner: the module of `state`.
        state: training state, updated in place.
        batch: a `NamedTuple` of tensors on the learner's device.
        rate: learning rate of this step.
        generator: source of the noise in the losses.
        clip_norm: largest norm of the gradient; None disables clipping.

    Returns:
        The losses by name, and the norm of the gradient before clipping.

    Raises:
        NonFiniteUpdate: a loss or the gradient is not finite; the message states the cause.
    """
    optimizer = state.optimizer
    for group in optimizer.param_groups:
        group["lr"] = rate
    losses = check_losses(learner.losses(batch, generator), learner)
    total = torch.stack(list(losses.values())).sum()
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    parameters = optimizer.param_groups[0]["params"]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    # The only synchronisation with the device per step, before any weight has changed.
    *values, norm_value = torch.stack([*losses.values(), norm]).detach().tolist()
    named = dict(zip(losses, values, strict=True))
    if not all(map(math.isfinite, (*values, norm_value))):
        cause, final = find_cause(state.learner, batch, named, norm_value)
        optimizer.zero_grad(set_to_none=True)
        raise NonFiniteUpdate(cause, final=final)
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    optimizer.step()
    learner.after_step()
    state.ema.update_parameters(state.learner)
    return named, norm_value
