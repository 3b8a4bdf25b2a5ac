"""Patterns of what is known of a segment, by name."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from pgdiff.validation import check_in

# For each pattern: whether the first token's observation is known, and whether the last one's goal.
PATTERNS = {"none": (False, False), "start": (True, False), "start_goal": (True, True)}


def pattern_mask(
    name: str, *, tokens: int, features: int, observation: Sequence[int], goal: Sequence[int]
) -> Bool[Tensor, "tokens features"]:
    """Mask of the features that a pattern gives.

    Args:
        name: "none"; "start", the observation of the first token; or "start_goal", and the goal
            features of the last.
        tokens: tokens of a segment.
        features: features of a token.
        observation: indices of the features that an observation gives.
        goal: indices of the features that a goal gives.
    """
    check_in("known", name, PATTERNS)
    start, end = PATTERNS[name]
    mask = torch.zeros(tokens, features, dtype=torch.bool)
    if start:
        mask[0, list(observation)] = True
    if end:
        mask[-1, list(goal)] = True
    return mask
