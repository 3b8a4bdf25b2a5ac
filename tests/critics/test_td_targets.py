"""The lambda-return, as the mixture of n-step returns that defines it."""

import itertools

import torch
from toys import DOUBLE, generator

from pgdiff.critics.td_targets import lambda_return


def test_it_mixes_returns_cut_off_after_every_number_of_transitions() -> None:
    """It equals Sutton & Barto 2018, eq. 12.1 and 12.3, for an end that is cut and not final."""
    discount = 0.9
    for td_lambda, count in itertools.product((0.0, 0.4, 1.0), (1, 5)):
        rewards = torch.randn(3, count, generator=generator(0), dtype=DOUBLE)
        values = torch.randn(3, count, generator=generator(1), dtype=DOUBLE)
        cut = []  # the return cut off after n transitions
        for n in range(1, count + 1):
            paid = [discount**k * rewards[:, k] for k in range(n)]
            cut.append(torch.stack(paid).sum(dim=0) + discount**n * values[:, n - 1])
        mixture = td_lambda ** (count - 1) * cut[-1]
        for n in range(1, count):
            mixture = mixture + (1 - td_lambda) * td_lambda ** (n - 1) * cut[n - 1]
        found = lambda_return(rewards, values, discount=discount, td_lambda=td_lambda)
        torch.testing.assert_close(found, mixture, rtol=1e-12, atol=1e-12)


def test_an_end_makes_later_rewards_and_values_zero() -> None:
    rewards = torch.randn(5, 4, generator=generator(0), dtype=DOUBLE)
    values = torch.randn(5, 4, generator=generator(1), dtype=DOUBLE)
    # Row k is the episode up to state k, with k rewards, or all of them.
    in_episode = torch.ones(5, 5, dtype=DOUBLE).tril()
    earned, alive = in_episode[:, :-1] * rewards, in_episode[:, 1:] * values
    for td_lambda in (0.0, 0.4, 1.0):
        options = {"discount": 0.9, "td_lambda": td_lambda}
        found = lambda_return(rewards, values, in_episode=in_episode, **options)
        expected = lambda_return(earned, alive, **options)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
