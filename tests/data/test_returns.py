"""Discounted returns against the naive loop."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pgdiff.data.returns as returns_module
from pgdiff.core.validation import PgdiffError
from pgdiff.data import Episodes, discounted_returns
from pgdiff.data.returns import chunk_rewards


def _naive(episodes: Episodes, discount: float) -> np.ndarray:
    returns = np.full(episodes.steps, np.nan)
    for start, end in zip(episodes.starts, episodes.ends, strict=True):
        total = 0.0
        for row in range(end - 1, start - 1, -1):
            total = returns[row] = float(episodes.rewards[row]) + discount * total
    return returns


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    discount=st.one_of(st.just(1.0), st.floats(1e-3, 1.0)),
)
def test_equals_the_naive_loop(lengths: list[int], discount: float) -> None:
    steps = sum(lengths)
    episodes = Episodes.from_arrays(
        observations=np.zeros((steps, 1)),
        actions=np.zeros((steps, 1)),
        rewards=np.random.default_rng(0).normal(size=steps),
        terminals=np.isin(np.arange(steps), np.cumsum(lengths) - 1),
    )
    returns = discounted_returns(episodes, discount)
    np.testing.assert_allclose(returns, _naive(episodes, discount), rtol=1e-5, atol=1e-6)


def test_selection_leaves_other_rows_nan(recording) -> None:
    train, held_out = Episodes.from_arrays(**recording((6,) * 15)).split(0.3, seed=0)
    for part in (train, held_out):
        np.testing.assert_allclose(
            discounted_returns(part, 0.97), _naive(part, 0.97), rtol=1e-5, atol=1e-6
        )


def test_discount_out_of_range(recording) -> None:
    for discount in (0.0, -0.5, 1.0001, float("nan"), "high"):
        with pytest.raises(PgdiffError, match="`discount`"):
            discounted_returns(Episodes.from_arrays(**recording()), discount)


def test_blocks_give_the_same(monkeypatch) -> None:
    """Returns and windows of any length do not depend on the number of rows in a block."""
    rng = np.random.default_rng(0)
    lengths = (5, 1, 40, 2, 17, 30, 1, 9)
    steps = sum(lengths)
    episodes = Episodes.from_arrays(
        observations=np.zeros((steps, 1)),
        actions=np.zeros((steps, 1)),
        rewards=rng.normal(size=steps),
        terminals=np.isin(np.arange(1, steps + 1), np.cumsum(lengths)),
    )
    for part in (episodes, episodes.select([0, 1, 4, 7]), episodes.select([5, 2])):
        for block, discount in product([1, 2, 7, 64], [1.0, 0.9]):
            monkeypatch.setattr(returns_module, "_BLOCK_ROWS", block)
            np.testing.assert_allclose(
                discounted_returns(part, discount), _naive(part, discount), rtol=1e-5, atol=1e-6
            )
            for window in (1, 3, 12, 99):
                expected = np.full(steps, np.nan)
                for start, end in zip(part.starts, part.ends, strict=True):
                    for row in range(start, end):
                        rewards = part.rewards[row : min(row + window, end)].astype(float)
                        expected[row] = (discount ** np.arange(len(rewards)) * rewards).sum()
                sums = chunk_rewards(part, window, discount)
                np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-6)
