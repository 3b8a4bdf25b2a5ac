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
        mask: `[batch or 1, tokens, features]`: what is known. A batch of 1 stands for all rows
            alike, and spares a denoiser the embedding of each row's levels.
        values: `[batch or 1, tokens, features]`, normalised; ignored where nothing is known.
    """

    mask: Bool[Tensor, "#batch tokens features"]
    values: Float[Tensor, "#batch tokens features"]

    def __post_init__(self) -> None:
        mask, values = self.mask.shape, self.values.shape
        if mask[1:] != values[1:] or mask[0] not in (1, values[0]):
            raise PgdiffError(
                "`mask` and `values` must have the same shape, but for a mask of batch 1. "
                f"Got {list(mask)} and {list(values)}."
            )
        if not torch.isfinite(self.values[self.mask.expand_as(self.values)]).all():
            raise PgdiffError("`values` must be finite where they are known. Got NaN or Inf.")

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
