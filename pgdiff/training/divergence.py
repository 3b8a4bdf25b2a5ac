"""What stops a training whose numbers have left the finite, with the cause that can be named."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pgdiff.validation import PgdiffError


class TrainingDiverged(PgdiffError):
    """Something is NaN or infinite; no checkpoint holds it."""


def find_cause(
    module: nn.Module, batch: Any, losses: Mapping[str, float], norm: float
) -> tuple[str, bool]:
    """Say what is not finite, and the first place where it shows; and whether that is a weight.

    Weights are looked at first, then the batch, the losses and the gradients: the first of them
    that is not finite spoils those after it. Called before gradients are clipped, and only where
    something is wrong, so that its cost does not matter.

    Args:
        module: the learner, with its gradients.
        batch: the step's `NamedTuple` of tensors.
        losses: by name.
        norm: of all gradients.
    """
    bad = [
        f"the loss '{name}' is {value}"
        for name, value in losses.items()
        if not math.isfinite(value)
    ]
    symptom = ", ".join(bad) or f"the gradient norm is {norm} (loss {sum(losses.values()):.4g})"
    for name, weight in module.state_dict().items():
        if _spoiled(weight):
            return f"{symptom}, because the weight '{name}' is not finite", True
    for field in batch._fields:
        value = getattr(batch, field)
        if isinstance(value, Tensor) and _spoiled(value):
            rows = (~value.isfinite()).reshape(len(value), -1).any(dim=1).nonzero()
            example = int(rows[0])
            return (
                f"{symptom}, because `{field}` of the batch is not finite in example {example}",
                False,
            )
    if bad:
        return symptom, False
    names = [n for n, p in module.named_parameters() if p.grad is not None and _spoiled(p.grad)]
    if not names:
        return f"{symptom}, though every gradient is finite: they are too large", False
    return f"{symptom}; {len(names)} parameters have such a gradient, first '{names[0]}'", False


def diverged(step: int, cause: str, *, advice: str = "") -> TrainingDiverged:
    """Return the error for update number `step` (from 1), which was not made."""
    return TrainingDiverged(
        f"Training stopped at step {step}: {cause}. The weights are those of step {step - 1}. "
        f"{advice or 'Lower `learning_rate`, or check the data.'}"
    )


def check_held_out(step: int, losses: Mapping[str, float]) -> None:
    """Raise an error if a loss of the averaged weights on held-out episodes is not finite."""
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
    """Raise an error if anything that a checkpoint would hold is NaN or infinite.

    Losses and gradients are looked at in every step; this finds what has come in another way, from
    `after_step`, a callback or an update that overflowed.
    """
    for what, name, tensor in _state(learner, averaged, optimizer):
        if _spoiled(tensor):
            raise TrainingDiverged(
                f"Training stopped after step {step}: '{name}' of the {what} is not finite, though "
                "the losses and gradients were. An update has overflowed, or after_step() or a "
                "callback has changed it. It is in no checkpoint."
            )


def _state(
    learner: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, str, Tensor]]:
    for what, module in (("weights", learner), ("averaged weights", averaged)):
        for name, tensor in module.state_dict().items():
            yield what, name, tensor
    names: dict[Tensor, str] = {p: name for name, p in learner.named_parameters()}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            yield "optimiser", f"{names.get(parameter, '?')}.{key}", value


def _spoiled(tensor: Tensor) -> bool:
    inexact = tensor.is_floating_point() or tensor.is_complex()
    return inexact and not bool(tensor.isfinite().all())
