"""Detection of NaN and infinite values in training, and the error that names the cause."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pgdiff.core.validation import PgdiffError
from pgdiff.training.learner import tensors


class TrainingDiverged(PgdiffError):
    """A loss, gradient or weight is NaN or infinite; no checkpoint contains it.

    Example:
        >>> from pgdiff import PgdiffError
        >>> from pgdiff.training import TrainingDiverged
        >>> issubclass(TrainingDiverged, PgdiffError)
        True
    """


def find_cause(
    module: nn.Module, batch: Any, losses: Mapping[str, float], norm: float
) -> tuple[str, bool]:
    """Return a description of the non-finite value, and True if a weight is the cause.

    The search goes through weights, batch, losses and gradients, in the order in which a non-finite
    value spreads. It runs before gradients are clipped, and only after a failure.

    Args:
        module: the learner with its gradients.
        batch: the `NamedTuple` of tensors of this step.
        losses: loss values by name.
        norm: norm of all gradients.
    """
    bad = [
        f"the loss '{name}' is {value}"
        for name, value in losses.items()
        if not math.isfinite(value)
    ]
    symptom = ", ".join(bad) or f"the gradient norm is {norm} (loss {sum(losses.values()):.4g})"
    for name, weight in module.state_dict().items():
        if _is_not_finite(weight):
            return f"{symptom}, because the weight '{name}' is not finite", True
    for field, value in tensors(batch):
        if _is_not_finite(value):
            rows = (~value.isfinite()).reshape(len(value), -1).any(dim=1).nonzero()
            example = int(rows[0])
            return (
                f"{symptom}, because `{field}` of the batch is not finite in example {example}",
                False,
            )
    if bad:
        return symptom, False
    names = [
        n for n, p in module.named_parameters() if p.grad is not None and _is_not_finite(p.grad)
    ]
    if not names:
        return f"{symptom}, although every gradient is finite: they are too large", False
    return f"{symptom}; {len(names)} parameters have such a gradient, first '{names[0]}'", False


def diverged(step: int, cause: str, *, advice: str = "") -> TrainingDiverged:
    """Return the error for update number `step` (from 1), which was not applied."""
    return TrainingDiverged(
        f"Training stopped at step {step}: {cause}. The weights are those of step {step - 1}. "
        f"{advice or 'Lower `learning_rate`, or check the data.'}"
    )


def check_held_out(step: int, losses: Mapping[str, float]) -> None:
    """Raise if a loss of the averaged weights on held-out episodes is not finite."""
    bad = [
        f"the loss '{name}' is {value}"
        for name, value in losses.items()
        if not math.isfinite(value)
    ]
    if bad:
        raise TrainingDiverged(
            f"Training stopped at step {step}: {', '.join(bad)} on held-out episodes. The weights "
            f"are those of step {step}. Lower `learning_rate`, or check the data."
        )


def check_finite_state(
    step: int, learner: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Raise if any value of a checkpoint is NaN or infinite.

    Losses and gradients are checked at every step. This check finds values that come from
    `after_step`, from a callback, or from an update that overflowed.
    """
    for group, name, tensor in _iter_state(learner, averaged, optimizer):
        if _is_not_finite(tensor):
            raise TrainingDiverged(
                f"Training stopped after step {step}: '{name}' of the {group} is not finite, but "
                "the losses and gradients were. An update overflowed, or after_step() or a "
                "callback changed it. No checkpoint contains it. Lower `learning_rate`, or check "
                "the callbacks."
            )


def _iter_state(
    learner: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, str, Tensor]]:
    for group, module in (("weights", learner), ("averaged weights", averaged)):
        for name, tensor in module.state_dict().items():
            yield group, name, tensor
    names: dict[Tensor, str] = {p: name for name, p in learner.named_parameters()}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            yield "optimiser", f"{names.get(parameter, '?')}.{key}", value


def _is_not_finite(tensor: Tensor) -> bool:
    inexact = tensor.is_floating_point() or tensor.is_complex()
    return inexact and not bool(tensor.isfinite().all())
