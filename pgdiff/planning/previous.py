"""What is left of the plan that is being followed: to keep it, or to start the next one from it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Tokens = Float[np.ndarray, "environments tokens observation"]
Actions = Float[np.ndarray, "environments steps action"]


class Previous(NamedTuple):
    """Plans that begin now, made of those that are being followed; raw units.

    Attributes:
        observations: `[environments, tokens, observation]`.
        actions: `[environments, steps, action]`, for a model that generates actions; or
            `[environments, tokens, action]`, where its tokens hold one each.
        there: `[environments]`, whether there is such a plan.
        valid: which tokens it really has; the others repeat its last.
    """

    observations: Tokens
    actions: Actions | None
    there: Bool[np.ndarray, " environments"]
    valid: Bool[np.ndarray, "environments tokens"]


def shifted(
    observations: Tokens,
    actions: Actions | None,
    age: Int[np.ndarray, " environments"],
    stride: int,
    *,
    action_stride: int = 1,
) -> Previous:
    """Cut off what is past, so that the first token is where the plan wanted to be now.

    Between two tokens a plan is taken for a straight line; past its end its last token and its last
    action stay. Where `age` is negative there is no plan.

    Args:
        observations: the plans when they were made.
        actions: their actions.
        age: environment steps since then.
        stride: environment steps between tokens.
        action_stride: environment steps between actions.
    """
    tokens = observations.shape[1]
    environments = np.arange(len(observations))[:, None]
    there = age >= 0
    at = np.maximum(age, 0)[:, None] / stride + np.arange(tokens)
    valid = there[:, None] & (at <= tokens - 1)
    at = np.minimum(at, tokens - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, tokens - 1)
    share = (at - low)[..., None].astype(observations.dtype)
    moved = (1 - share) * observations[environments, low] + share * observations[environments, high]
    left = None
    if actions is not None:
        steps = np.maximum(age, 0)[:, None] // action_stride + np.arange(actions.shape[1])
        left = actions[environments, np.minimum(steps, actions.shape[1] - 1)]
    return Previous(moved, left, there, valid)
