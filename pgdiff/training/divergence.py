"""The error that stops a training whose numbers have left the finite."""

import math

from pgdiff.validation import PgdiffError


class TrainingDiverged(PgdiffError):
    """A loss or the gradient is NaN or infinite; the weights are those before that step."""


def diverged(
    step: int, named: dict[str, float], norm: float, *, held_out: bool = False
) -> TrainingDiverged:
    """Return the error for step `step` (from 1), naming each loss that is not finite.

    Args:
        step: the update that would have been made, or the last one done if `held_out`.
        named: losses by name.
        norm: norm of the gradient.
        held_out: whether the losses are those on held-out episodes.
    """
    bad = [f"loss '{name}' is {value}" for name, value in named.items() if not math.isfinite(value)]
    what = ", ".join(bad) if bad else f"gradient norm is {norm} (loss {sum(named.values()):.4g})"
    where = " on held-out episodes" if held_out else ""
    return TrainingDiverged(
        f"Training stopped at step {step}: the {what}{where}. The weights are those of step "
        f"{step if held_out else step - 1}. Lower `learning_rate`, or check the data."
    )
