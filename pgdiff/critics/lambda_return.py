"""The lambda-return of a plan: what it is worth, cut off after one token, two, and so on."""

import torch
from jaxtyping import Float
from torch import Tensor


def lambda_return(
    rewards: Float[Tensor, "batch transitions"],
    values: Float[Tensor, "batch transitions"],
    *,
    discount: float,
    trace: float,
    in_episode: Float[Tensor, "batch states"] | None = None,
) -> Float[Tensor, " batch"]:
    """Return `G_0` of `G_k = r_k + discount ((1 - trace) V_k+1 + trace G_k+1)`, `G_K = V_K`.

    Sutton & Barto (2018), eq. 12.2-3 and 12.20: a mixture of the returns after one, two, ...
    transitions, each ended by the value where it is cut. With `trace` 1 only the last value counts,
    with 0 only the first.

    Args:
        rewards: of each transition.
        values: of the state that each transition leads to.
        discount: of one transition (not of one environment step).
        trace: lambda, in [0, 1].
        in_episode: how far each of the transitions + 1 states belongs to the episode, in [0, 1],
            never rising (`Segment.in_episode`): nothing is earned from a state on that lies after
            the end of the task. 1 everywhere if None.
    """
    count = rewards.shape[1]
    decay = discount * trace
    power = torch.arange(count, device=rewards.device, dtype=rewards.dtype)
    if in_episode is None:
        cut = decay**power * (rewards + discount * (1 - trace) * values)
        whole: Tensor = cut.sum(dim=1) + decay**count * values[:, -1]
        return whole
    before, after = in_episode[:, :-1], in_episode[:, 1:]
    parts = before * rewards + after * discount * (1 - trace) * values
    total: Tensor = (decay**power * parts).sum(dim=1) + decay**count * after[:, -1] * values[:, -1]
    return total
