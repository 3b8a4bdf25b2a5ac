"""Targets and losses of temporal-difference learning, and checks of segments."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.data import Episodes
from pgdiff.data.transitions import rows_of
from pgdiff.trajectory import Segment

MIN_TARGET = 1e-9
"""Smallest target in log space, in units of a mean reward."""


def read_value(raw: Tensor, *, log_space: bool) -> Tensor:
    """Return the value that a network's raw output stands for."""
    return raw.exp() if log_space else raw


def value_error(raw: Tensor, target: Tensor, *, log_space: bool) -> Tensor:
    """Return `target - estimate`, or the difference of their logarithms in log space."""
    return (target.clamp(min=MIN_TARGET).log() if log_space else target) - raw


def expectile_loss(error: Float[Tensor, " batch"], expectile: float) -> Float[Tensor, ""]:
    """Return the weighted mean square of `target - estimate`.

    Positive errors have the weight `expectile`, others `1 - expectile` (Kostrikov et al. 2022,
    eq. 5).
    """
    weight = torch.where(error > 0, expectile, 1 - expectile)
    return (weight * error.square()).mean()


def lambda_return(
    rewards: Float[Tensor, "batch transitions"],
    values: Float[Tensor, "batch transitions"],
    *,
    discount: float,
    td_lambda: float,
    in_episode: Float[Tensor, "batch states"] | None = None,
) -> Float[Tensor, " batch"]:
    """Return the lambda-return `G_0`, where `G_K = V_K`.

    `G_k = r_k + discount ((1 - td_lambda) V_k+1 + td_lambda G_k+1)`.

    Sutton & Barto (2018), eq. 12.2-3 and 12.20: a mixture of the returns after one, two, ...
    transitions, each completed by the value of its last state.

    Args:
        rewards: reward of each transition.
        values: value of each transition's next state.
        discount: discount of one transition (not of one environment step).
        td_lambda: lambda, in [0, 1]. With 1 only the last value counts, with 0 only the first.
        in_episode: weight, in [0, 1] and never rising, with which each of the transitions + 1
            states belongs to the episode (`Segment.in_episode`). States after the end of the task
            add no return. 1 everywhere if None.
    """
    count = rewards.shape[1]
    decay = discount * td_lambda
    power = torch.arange(count, device=rewards.device, dtype=rewards.dtype)
    if in_episode is None:
        cut = decay**power * (rewards + discount * (1 - td_lambda) * values)
        whole: Tensor = cut.sum(dim=1) + decay**count * values[:, -1]
        return whole
    before, after = in_episode[:, :-1], in_episode[:, 1:]
    parts = before * rewards + after * discount * (1 - td_lambda) * values
    total: Tensor = (decay**power * parts).sum(dim=1) + decay**count * after[:, -1] * values[:, -1]
    return total


def check_segment(
    segment: Segment, *, stride: int, features: int, horizon: int | None = None
) -> None:
    """Raise if a segment differs in stride, observation or horizon from the training data.

    Args:
        segment: input of the value.
        stride: environment steps between tokens in training.
        features: number of features of an observation in training.
        horizon: number of tokens in training; None for values of any number of tokens.
    """
    tokens, size = segment.observations.shape[-2:]
    for name, expected, given in (
        ("stride", stride, segment.stride),
        ("observation", features, size),
        ("horizon", horizon, tokens),
    ):
        if expected is not None and expected != given:
            raise PgdiffError(
                f"`{name}` of a segment must equal that of the value, {expected}. Got {given}. "
                "Train the value and the model on segments of equal shape."
            )


def check_rewards(episodes: Episodes) -> None:
    """Raise if a recorded reward is negative, since values in log space are positive."""
    rows = rows_of(episodes)
    row = int(rows[np.argmin(episodes.rewards[rows])])
    if episodes.rewards[row] < 0:
        raise PgdiffError(
            "`log_space` must be false if a reward is negative. Got "
            f"{float(episodes.rewards[row])} in row {row} of `rewards`."
        )
