"""The lambda-return, as the mixture of n-step returns that defines it."""

import pytest
import torch
from toys import DOUBLE, generator

from pgdiff.critics.lambda_return import lambda_return


@pytest.mark.parametrize("trace", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("count", [1, 5])
def test_it_mixes_returns_cut_off_after_every_number_of_transitions(
    trace: float, count: int
) -> None:
    """Sutton & Barto 2018, eq. 12.1 and 12.3, for an end that is cut and not final."""
    rewards = torch.randn(3, count, generator=generator(0), dtype=DOUBLE)
    values = torch.randn(3, count, generator=generator(1), dtype=DOUBLE)
    discount = 0.9

    def cut_after(n: int) -> torch.Tensor:
        paid = [discount**k * rewards[:, k] for k in range(n)]
        return torch.stack(paid).sum(dim=0) + discount**n * values[:, n - 1]

    mixture = trace ** (count - 1) * cut_after(count)
    for n in range(1, count):
        mixture = mixture + (1 - trace) * trace ** (n - 1) * cut_after(n)
    found = lambda_return(rewards, values, discount=discount, trace=trace)
    torch.testing.assert_close(found, mixture, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("trace", [0.0, 0.4, 1.0])
def test_an_end_makes_later_rewards_and_values_zero(trace: float) -> None:
    rewards = torch.randn(5, 4, generator=generator(0), dtype=DOUBLE)
    values = torch.randn(5, 4, generator=generator(1), dtype=DOUBLE)
    # Row k belongs to the episode up to state k, so it has earned k rewards, or all of them.
    in_episode = torch.ones(5, 5, dtype=DOUBLE).tril()
    found = lambda_return(rewards, values, discount=0.9, trace=trace, in_episode=in_episode)
    earned, alive = in_episode[:, :-1] * rewards, in_episode[:, 1:] * values
    expected = lambda_return(earned, alive, discount=0.9, trace=trace)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
