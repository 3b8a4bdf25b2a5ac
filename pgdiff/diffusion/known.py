"""What is given of a trajectory: the present observation, a goal, a history."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.validation import PgdiffError


@dataclass(frozen=True)
class Known:
    """Features that sampling holds at given values.

    A token all of whose features are known has level 0. In a partly known token the known features
    are held at their value after every step (Janner et al. 2022, in-painting), and the token keeps
    its level.

    Attributes:
        mask: `[batch, tokens, features]`, or with batch 1: what is known.
        values: same shape, normalised; ignored where nothing is known.
    """

    mask: Bool[Tensor, "batch tokens features"]
    values: Float[Tensor, "batch tokens features"]

    def __post_init__(self) -> None:
        if self.mask.shape != self.values.shape:
            raise PgdiffError(
                "`mask` and `values` must have the same shape. "
                f"Got {list(self.mask.shape)} and {list(self.values.shape)}."
            )
        if not torch.isfinite(self.values[self.mask]).all():
            raise PgdiffError("`values` must be finite where they are known. Got NaN or Inf.")

    @property
    def tokens(self) -> Bool[Tensor, "batch tokens"]:
        """Tokens all of whose features are known."""
        return self.mask.all(dim=-1)

    def hold(self, x: Float[Tensor, "batch tokens features"]) -> Tensor:
        """Put the known values into `x`."""
        return torch.where(self.mask, self.values, x)

    def levels(self, level: Float[Tensor, "#batch tokens"]) -> Float[Tensor, "#batch tokens"]:
        """Level 0 for tokens that are known as a whole."""
        return torch.where(self.tokens, 0.0, level)
