"""Windows: all that fit, none across an end, and the contents of their tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgdiff.core.validation import PgdiffError
from pgdiff.data import Episodes, SegmentDataset, segments


def _numbered(lengths, stride_reward: float = 1.0) -> Episodes:
    """Observation = (row, episode), so that every token identifies its origin."""
    steps = sum(lengths)
    return Episodes.from_arrays(
        observations=np.stack([np.arange(steps), np.repeat(np.arange(len(lengths)), lengths)], 1),
        actions=np.arange(steps)[:, None] * 10,
        rewards=np.arange(steps) * stride_reward,
        terminals=np.zeros(steps),
        timeouts=np.isin(np.arange(steps), np.cumsum(lengths) - 1),
    )


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 25), min_size=1, max_size=8),
    horizon=st.integers(1, 6),
    stride=st.integers(1, 5),
)
def test_windows_are_all_that_fit(lengths: list[int], horizon: int, stride: int) -> None:
    episodes = _numbered(lengths)
    expected = [
        [start + k * stride for k in range(horizon)]
        for first, last in zip(episodes.starts, episodes.ends, strict=True)
        for start in range(first, last)
        if start + (horizon - 1) * stride < last
    ]
    if not expected:
        with pytest.raises(PgdiffError, match="longest"):
            segments(episodes, horizon, stride)
        return
    dataset = SegmentDataset(episodes, horizon, stride)
    batch = dataset.batch(np.arange(len(dataset)))
    np.testing.assert_array_equal(batch.observations[..., 0], expected)
    assert (batch.observations[..., 1] == batch.observations[:, :1, 1]).all()
    assert batch.mask.all()


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 25), min_size=1, max_size=8),
    horizon=st.integers(1, 6),
    stride=st.integers(1, 5),
    data=st.data(),
)
def test_padding_repeats_the_last_row(lengths, horizon: int, stride: int, data) -> None:
    min_tokens = data.draw(st.integers(1, horizon))
    episodes = _numbered(lengths)
    starts = [
        (start, last)
        for first, last in zip(episodes.starts, episodes.ends, strict=True)
        for start in range(first, last)
        if start + (min_tokens - 1) * stride < last
    ]
    if not starts:
        return
    dataset = SegmentDataset(
        episodes,
        horizon,
        stride,
        padding="repeat",
        min_tokens=min_tokens,
        fields=("observations", "rewards"),
    )
    batch = dataset.batch(np.arange(len(dataset)))
    wanted = [[start + k * stride for k in range(horizon)] for start, _ in starts]
    last = np.array([last for _, last in starts])[:, None] - 1
    np.testing.assert_array_equal(batch.mask, wanted <= last)
    np.testing.assert_array_equal(batch.observations[..., 0], np.minimum(wanted, last))
    assert (batch.rewards[~batch.mask] == 0).all()


def test_rewards_of_a_token() -> None:
    episodes = _numbered((30, 11, 25))
    for discount, stride in ((1.0, 1), (0.9, 1), (1.0, 4), (0.9, 4), (1.0, 7), (0.9, 7)):
        dataset = SegmentDataset(episodes, 2, stride, fields=("rewards",), discount=discount)
        indices = np.arange(len(dataset))
        rows, _ = dataset.index.rows(indices)
        expected = []
        for row in rows.ravel():
            end = episodes.ends[np.searchsorted(episodes.ends, row, side="right")]
            chunk = episodes.rewards[row : min(row + stride, end)]
            expected.append((discount ** np.arange(len(chunk)) * chunk).sum())
        np.testing.assert_allclose(dataset.batch(indices).rewards.ravel(), expected, rtol=1e-6)


def test_fields_that_were_not_requested_have_zero_width() -> None:
    batch = SegmentDataset(_numbered((9,)), 3, 2, fields=("actions",)).batch(np.array([0, 2]))
    assert batch.observations.shape == (2, 3, 0)
    assert batch.rewards.shape == (2, 0)
    np.testing.assert_array_equal(batch.actions[..., 0], [[0, 20, 40], [20, 40, 60]])
    assert {part.dtype.name for part in batch if part is not None} == {"float32", "bool"}


def test_held_out_episodes_give_windows_of_their_own() -> None:
    train, held_out = _numbered((5, 40, 6)).split(0.25, seed=0)
    rows = [SegmentDataset(part, 3, 2, fields=("rewards",)) for part in (train, held_out)]
    seen = [set(d.index.rows(np.arange(len(d)))[0].ravel().tolist()) for d in rows]
    assert not seen[0] & seen[1]
    assert all(np.isfinite(d.batch(np.arange(len(d))).rewards).all() for d in rows)


def test_bad_arguments_are_named() -> None:
    episodes = _numbered((9, 15, 2))
    for name in ("horizon", "stride"):
        for value in (0, -3, 1.5, True, None):
            with pytest.raises(PgdiffError, match=f"`{name}`"):
                SegmentDataset(episodes, **({"horizon": 3, "stride": 2} | {name: value}))
    with pytest.raises(PgdiffError, match=r"31 rows.*longest of the 3 .* 15 rows.*horizon of 3\."):
        segments(episodes, 6, 6)
    with pytest.raises(PgdiffError, match="`discount`"):
        SegmentDataset(episodes, 3, 2, discount=1.1)
    with pytest.raises(PgdiffError, match="observations"):
        SegmentDataset(episodes, 3, 2, fields=("observation",))
    with pytest.raises(PgdiffError, match="repeat"):
        segments(episodes, 3, 2, padding="repeta")
    with pytest.raises(PgdiffError, match="padding='repeat'"):
        segments(episodes, 3, 2, min_tokens=1)
    with pytest.raises(PgdiffError, match="at most `horizon` 3"):
        segments(episodes, 3, 2, padding="repeat", min_tokens=4)
    dataset = SegmentDataset(episodes, 3, 2)
    for bad in (-1, len(dataset)):
        with pytest.raises(PgdiffError, match=rf"Got {bad}\."):
            dataset.batch(np.array([0, bad]))
