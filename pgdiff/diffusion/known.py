"""What is given of a trajectory: the present observation, a goal, a history."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.validation import PgdiffError, check_part


@dataclass(frozen=True)
class Known:
    """Features that sampling holds at given values.

    A token all of whose features are known has level 0. In a partly known token the known features
    are held at their value after every step (Janner et al. 2022, in-painting), and the token keeps
    its level.

    Attributes:
        mask: `[batch or 1, tokens, features]`: what is known. A batch of 1 stands for all rows
            alike, and spares a denoiser the embedding of each row's levels.
        values: `[batch or 1, tokens, features]`, normalised; ignored where nothing is known.
    """

    mask: Bool[Tensor, "#batch tokens features"]
    values: Float[Tensor, "#batch tokens features"]

    def __post_init__(self) -> None:
        check_given(self.mask, self.values, how="are known")

    @property
    def tokens(self) -> Bool[Tensor, "#batch tokens"]:
        """Tokens all of whose features are known."""
        return self.mask.all(dim=-1)

    def hold(self, x: Float[Tensor, "*futures batch tokens features"]) -> Tensor:
        """Put the known values into `x`."""
        return torch.where(self.mask, self.values, x)

    def levels(self, level: Float[Tensor, "#batch tokens"]) -> Float[Tensor, "#batch tokens"]:
        """Level 0 for tokens that are known as a whole."""
        return torch.where(self.tokens, 0.0, level)


def check_given(mask: Tensor, values: Tensor, *, how: str) -> None:
    """Refuse a mask and values that do not fit each other, or mean nothing.

    Args:
        mask: `[batch or 1, tokens, features]`.
        values: `[batch, tokens, features]`.
        how: by which the values are there where the mask is true, for the message.
    """
    check_part("mask", mask, Tensor)
    check_part("values", values, Tensor)
    if mask.dtype != torch.bool:
        raise PgdiffError(f"`mask` must be of bool. Got {mask.dtype}.")
    if values.ndim != 3:
        raise PgdiffError(
            f"`values` must have shape [batch, tokens, features]. Got {list(values.shape)}."
        )
    if mask.shape[1:] != values.shape[1:] or len(mask) not in (1, len(values)):
        raise PgdiffError(
            "`mask` and `values` must have the same shape, but for a mask of batch 1. "
            f"Got {list(mask.shape)} and {list(values.shape)}."
        )
    if not torch.isfinite(values[mask.expand_as(values)]).all():
        raise PgdiffError(f"`values` must be finite where they {how}. Got NaN or Inf.")
