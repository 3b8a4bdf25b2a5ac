"""Patterns of what is known of a segment, by name."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from pgdiff.validation import check_in

PATTERNS = ("none", "start", "start_goal", "start_arrival")
"""Nothing; the first token's observation; that and the goal features of the last token; or of any
one token, when a goal may be reached earlier than at the end."""


def pattern_masks(
    name: str, *, tokens: int, features: int, observation: Sequence[int], goal: Sequence[int]
) -> Bool[Tensor, "masks tokens features"]:
    """Masks of the features that a pattern gives; one mask, or one for each token of arrival.

    Args:
        name: see `PATTERNS`.
        tokens: tokens of a segment.
        features: features of a token.
        observation: indices of the features that an observation gives.
        goal: indices of the features that a goal gives.
    """
    check_in("known", name, PATTERNS)
    arrivals = {"start_goal": [tokens - 1], "start_arrival": list(range(1, tokens))}.get(name, [])
    masks = torch.zeros(max(len(arrivals), 1), tokens, features, dtype=torch.bool)
    if name != "none":
        masks[:, 0, list(observation)] = True
    for mask, arrival in zip(masks, arrivals, strict=False):
        mask[arrival, list(goal)] = True
    return masks
