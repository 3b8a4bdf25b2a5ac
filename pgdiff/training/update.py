"""One update of the weights, or the reason why there is none."""

import math
from typing import Any

import torch

from pgdiff.training.checkpoint import TrainingState
from pgdiff.training.divergence import find_cause
from pgdiff.training.learner import Learner, check_losses


class Unsound(Exception):
    """A loss or the gradient of a batch is not finite; nothing has been changed.

    Attributes:
        final: whether the weights themselves are not finite, so that no other batch will do.
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
    """Move the weights by one batch and the averages after them.

    Args:
        learner: the module of `state`.
        state: what is changed.
        batch: a `NamedTuple` of tensors on the learner's device.
        rate: the learning rate.
        generator: where the losses' noise comes from.
        clip_norm: largest norm of the gradient, or None.

    Returns:
        The losses by name, and the norm of the gradient before clipping.

    Raises:
        Unsound: with the cause.
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
    # One look at the device per step, before anything has changed.
    *values, norm_value = torch.stack([*losses.values(), norm]).detach().tolist()
    named = dict(zip(losses, values, strict=True))
    if not all(map(math.isfinite, (*values, norm_value))):
        cause, final = find_cause(state.learner, batch, named, norm_value)
        optimizer.zero_grad(set_to_none=True)
        raise Unsound(cause, final=final)
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    optimizer.step()
    learner.after_step()
    state.ema.update_parameters(state.learner)
    return named, norm_value
