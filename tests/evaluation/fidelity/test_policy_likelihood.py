"""Log-density of recorded actions, and its error, against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pgdiff import Episodes
from pgdiff.evaluation.fidelity.likelihoods import policy_likelihood


class Normal:
    """Actions about 0, of deviation 1."""

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        return (-0.5 * action.square() - 0.5 * math.log(2 * math.pi)).sum(dim=-1)


def recording(actions: np.ndarray, *, length: int) -> Episodes:
    """Return episodes of `length` rows."""
    rows = len(actions)
    return Episodes.from_arrays(
        observations=np.zeros((rows, 1)),
        actions=actions,
        rewards=np.zeros(rows),
        terminals=np.zeros(rows, bool),
        timeouts=np.arange(1, rows + 1) % length == 0,
    )


class Elsewhere(nn.Module):
    """An agent on another device, represented by the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, device="meta"))

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        assert observation.device == action.device == self.weight.device
        return torch.zeros(len(observation))


def test_an_agent_is_called_on_its_own_device() -> None:
    assert policy_likelihood(Elsewhere(), recording(np.zeros((4, 2)), length=2)).mean == 0


def test_mean_and_error_of_independent_rows() -> None:
    actions = np.random.default_rng(0).normal(size=(400, 2))
    each = (-0.5 * actions**2 - 0.5 * math.log(2 * math.pi)).mean(axis=1)
    found = policy_likelihood(Normal(), recording(actions, length=1))
    assert found.mean == pytest.approx(each.mean(), abs=1e-6)
    assert found.standard_error == pytest.approx(each.std(ddof=1) / 20, rel=1e-5)


def test_repeated_rows_of_an_episode_leave_the_error_unchanged() -> None:
    """Ten copies of a row have the error of a single row."""
    actions = np.random.default_rng(0).normal(size=(100, 2))
    once = policy_likelihood(Normal(), recording(actions, length=1))
    often = policy_likelihood(Normal(), recording(actions.repeat(10, axis=0), length=10))
    assert often.mean == pytest.approx(once.mean, abs=1e-6)
    assert often.standard_error == pytest.approx(once.standard_error, rel=1e-5)


def test_the_error_is_the_deviation_of_draws() -> None:
    """Over recordings of correlated rows, the mean varies by the reported error."""
    source = np.random.default_rng(0)
    found = []
    for _ in range(300):
        shared = source.normal(size=(30, 1)).repeat(8, axis=0)
        actions = shared + 0.5 * source.normal(size=(240, 1))
        found.append(policy_likelihood(Normal(), recording(actions, length=8)))
    spread = np.std([each.mean for each in found])
    assert np.mean([each.standard_error for each in found]) == pytest.approx(spread, rel=0.15)


def test_an_error_needs_two_episodes() -> None:
    found = policy_likelihood(Normal(), recording(np.zeros((5, 1)), length=5))
    assert found.mean == pytest.approx(-0.5 * math.log(2 * math.pi))
    assert math.isnan(found.standard_error)
