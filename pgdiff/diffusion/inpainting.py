"""In-painting: features with given values, and named patterns of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.core.validation import PgdiffError, check_in, check_part


@dataclass(frozen=True)
class Inpainting:
    """Features that sampling fixes at given values.

    A token whose features are all given has level 0. In a token that is given in part, the given
    features are reset to their values after every step (Janner et al. 2022, in-painting), and the
    token keeps its level.

    Attributes:
        mask: `[batch or 1, tokens, features]`, True at given features. A batch of 1 applies to all
            rows, and lets a denoiser embed the levels once for all of them.
        values: `[batch or 1, tokens, features]`, normalised; ignored where the mask is False.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import Inpainting
        >>> mask = torch.tensor([[[True, True], [True, False]]])
        >>> inpainting = Inpainting(mask, torch.full((1, 2, 2), 3.0))
        >>> inpainting.hold(torch.zeros(1, 2, 2)).tolist(), inpainting.tokens.tolist()
        ([[[3.0, 3.0], [3.0, 0.0]]], [[True, False]])
    """

    mask: Bool[Tensor, "#batch tokens features"]
    values: Float[Tensor, "#batch tokens features"]

    def __post_init__(self) -> None:
        check_given(self.mask, self.values, how="are given")

    @property
    def tokens(self) -> Bool[Tensor, "#batch tokens"]:
        """Tokens whose features are all given."""
        return self.mask.all(dim=-1)

    def hold(self, x: Float[Tensor, "*futures batch tokens features"]) -> Tensor:
        """Return `x` with the given values in place."""
        return torch.where(self.mask, self.values, x)

    def levels(self, level: Float[Tensor, "#batch tokens"]) -> Float[Tensor, "#batch tokens"]:
        """Return the levels, set to 0 at tokens that are given as a whole."""
        return torch.where(self.tokens, 0.0, level)


def check_given(mask: Tensor, values: Tensor, *, how: str) -> None:
    """Raise if a mask and values do not fit each other, or if a used value is not finite.

    Args:
        mask: `[batch or 1, tokens, features]`.
        values: `[batch, tokens, features]`.
        how: verb of the masked values in the message, such as "are given".
    """
    check_part("mask", mask, Tensor)
    check_part("values", values, Tensor)
    if mask.dtype != torch.bool:
        raise PgdiffError(f"`mask` must have dtype bool. Got {mask.dtype}.")
    if values.ndim != 3:
        raise PgdiffError(
            f"`values` must have shape [batch, tokens, features]. Got {list(values.shape)}."
        )
    if mask.shape[1:] != values.shape[1:] or len(mask) not in (1, len(values)):
        raise PgdiffError(
            "`mask` and `values` must have the same shape, or the mask a batch of 1. "
            f"Got {list(mask.shape)} and {list(values.shape)}."
        )
    if not torch.isfinite(values[mask.expand_as(values)]).all():
        raise PgdiffError(f"`values` must be finite where they {how}. Got NaN or Inf.")


PATTERNS = ("none", "start", "start_goal", "start_arrival")
"""Names of the patterns. "none" gives no feature, "start" the first token's observation.
"start_goal" also gives the goal features of the last token, "start_arrival" those of any one token,
for goals that may be reached before the end."""


def pattern_masks(
    name: str, *, tokens: int, features: int, observation: Sequence[int], goal: Sequence[int]
) -> Bool[Tensor, "masks tokens features"]:
    """Return the masks of a pattern's given features: one, or one for each token of arrival.

    Args:
        name: one of `PATTERNS`.
        tokens: number of tokens of a segment.
        features: number of features of a token.
        observation: indices of the features that an observation gives.
        goal: indices of the features that a goal gives.
    """
    check_in("pattern", name, PATTERNS)
    arrivals = {"start_goal": [tokens - 1], "start_arrival": list(range(1, tokens))}.get(name, [])
    masks = torch.zeros(max(len(arrivals), 1), tokens, features, dtype=torch.bool)
    if name != "none":
        masks[:, 0, list(observation)] = True
    for mask, arrival in zip(masks, arrivals, strict=False):
        mask[arrival, list(goal)] = True
    return masks
