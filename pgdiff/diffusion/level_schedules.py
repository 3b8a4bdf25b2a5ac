"""Level schedules: the noise level of every token at every row of the sampling.

A schedule is a matrix `[rows, tokens]`, or `[rows, batch, tokens]`: sampling goes from row m to row
m + 1. The first row is where it starts, the last is 0, and no entry rises.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.validation import PgdiffError, check_positive_int

LevelMatrix = Float[Tensor, "rows tokens"] | Float[Tensor, "rows #batch tokens"]


def full_sequence(*, steps: int, tokens: int) -> Float[Tensor, "rows tokens"]:
    """All tokens together, from level 1 to 0 in `steps` equal steps."""
    check_positive_int("steps", steps)
    check_positive_int("tokens", tokens)
    column = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64).float()
    return column[:, None].expand(-1, tokens)


def check_levels(levels: LevelMatrix, *, batch: int, tokens: int) -> None:
    """Raise an error that names the place if `levels` is no valid level schedule.

    Args:
        levels: the matrix.
        batch: batch size that is to be sampled.
        tokens: tokens that are to be sampled.
    """
    shape = tuple(levels.shape)
    if levels.ndim not in (2, 3) or shape[-1] != tokens or shape[0] < 2:
        raise PgdiffError(
            f"`levels` must have shape [rows >= 2, {tokens}] or [rows >= 2, {batch}, {tokens}]. "
            f"Got {list(shape)}."
        )
    if levels.ndim == 3 and shape[1] not in (1, batch):
        raise PgdiffError(f"`levels` must have batch size {batch} or 1. Got {shape[1]}.")
    outside = ~((levels >= 0) & (levels <= 1))
    _refuse("in [0, 1]", levels, outside)
    rises = torch.zeros_like(outside)
    rises[1:] = levels[1:] > levels[:-1]
    _refuse("never rising from row to row", levels, rises)
    ends = torch.zeros_like(outside)
    ends[-1] = levels[-1] != 0
    _refuse("0 in the last row", levels, ends)


def _refuse(rule: str, levels: Tensor, wrong: Tensor) -> None:
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        where = f"row {place[0]}, column {place[-1]}"
        raise PgdiffError(f"`levels` must be {rule}. Got {float(levels[tuple(place)])} at {where}.")
