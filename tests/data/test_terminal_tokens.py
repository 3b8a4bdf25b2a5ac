"""Segments with terminals and next observations, and their tokens past an end."""

from typing import Any

import numpy as np
import pytest

from pgdiff import Episodes, PgdiffError
from pgdiff.data import SegmentDataset, segments

LENGTHS = (5, 3, 6)
FIELDS = ("observations", "actions", "rewards", "terminals", "next_observations")


def recording(*, ended: tuple[bool, ...] = (True, False, True), following: bool = False) -> Any:
    """Observations are the numbers of the rows; next observations add one half."""
    steps = sum(LENGTHS)
    last = np.cumsum(LENGTHS) - 1
    terminals, timeouts = np.zeros(steps, bool), np.zeros(steps, bool)
    terminals[last], timeouts[last] = ended, ~np.array(ended)
    rows = np.arange(steps, dtype=np.float32)[:, None]
    return Episodes.from_arrays(
        observations=rows,
        actions=-rows,
        rewards=rows[:, 0],
        terminals=terminals,
        timeouts=timeouts,
        next_observations=rows + 0.5 if following else None,
    )


def test_an_ended_episode_goes_on_as_its_last_row_and_one_that_was_cut_does_not() -> None:
    data = SegmentDataset(recording(), 4, 1, fields=FIELDS[:4], padding="terminal")
    batch = data.batch(np.arange(len(data)))
    # Windows start at every row of the ended episodes, and at none of the cut-off episode.
    assert batch.observations[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13]
    assert batch.observations[3, :, 0].tolist() == [3, 4, 4, 4]
    assert batch.actions[3, :, 0].tolist() == [-3, -4, -4, -4]
    assert batch.terminals[3].tolist() == [0, 1, 1, 1]
    assert batch.terminals[0].tolist() == [0, 0, 0, 0]
    assert batch.rewards[3].tolist() == [3, 4, 0, 0]
    assert batch.mask.all()


def test_a_segment_earns_what_its_episode_still_pays() -> None:
    """An episode that ends earlier earns less, and nothing is earned after the end."""
    for stride in (1, 2):
        data = SegmentDataset(recording(), 4, stride, fields=FIELDS[:4], padding="terminal")
        batch = data.batch(np.arange(5))
        paid = [sum(range(row, min(row + 4 * stride, 5))) for row in range(5)]
        assert batch.rewards.sum(axis=1).tolist() == paid


def test_an_ended_episode_goes_on_as_the_observation_it_ended_in_where_that_was_recorded() -> None:
    data = SegmentDataset(recording(following=True), 4, 1, fields=FIELDS, padding="terminal")
    batch = data.batch(np.arange(len(data)))
    assert batch.observations[3, :, 0].tolist() == [3, 4, 4.5, 4.5]
    assert batch.observations[4, :, 0].tolist() == [4, 4.5, 4.5, 4.5]
    assert batch.actions[3, :, 0].tolist() == [-3, -4, -4, -4]
    assert batch.terminals[3].tolist() == [0, 1, 1, 1]
    assert batch.observations[0, :, 0].tolist() == [0, 1, 2, 3]
    repeated = SegmentDataset(recording(following=True), 4, 1, padding="repeat")
    assert repeated.batch(np.array([4])).observations[0, :, 0].tolist() == [4, 4, 4, 4]


def test_terminals_alone_pad_nothing() -> None:
    data = SegmentDataset(recording(), 4, 1, fields=FIELDS[:4])
    assert data.batch(np.arange(len(data))).observations[:, 0, 0].tolist() == [0, 1, 8, 9, 10]


def test_next_observations_are_those_recorded() -> None:
    for stride in (1, 2):
        data = SegmentDataset(recording(following=True), 2, stride, fields=FIELDS)
        batch = data.batch(np.arange(len(data)))
        assert np.array_equal(batch.next_observations, batch.observations + np.float32(0.5))
        assert len(data) == sum(max(length - stride, 0) for length in LENGTHS)


def test_without_a_record_the_next_observation_is_the_next_row() -> None:
    data = SegmentDataset(recording(), 1, 1, fields=FIELDS)
    batch = data.batch(np.arange(len(data)))
    first, then = batch.observations[:, 0, 0], batch.next_observations[:, 0, 0]
    # The last row of the cut-off episode, 7, has no transition; nothing follows a terminal.
    assert 7 not in first
    assert len(first) == sum(LENGTHS) - 1
    ends = batch.terminals[:, 0] == 1
    assert first[ends].tolist() == [4, 13]
    assert np.array_equal(then, np.where(ends, first, first + 1))


def test_unknown_successors_are_padding() -> None:
    data = SegmentDataset(recording(), 4, 1, fields=FIELDS, padding="repeat")
    batch = data.batch(np.arange(len(data)))
    cut = batch.observations[..., 0] == 7  # the last row of the cut-off episode
    assert cut.any() and not batch.mask[cut].any()
    window = batch.observations[:, 0, 0] == 3  # of one that ended
    assert batch.mask[window][0].tolist() == [True, True, False, False]


def test_a_window_without_a_following_row_is_named() -> None:
    cut = recording(ended=(False, False, False))
    with pytest.raises(PgdiffError, match=r"needs 7 rows .* enough for a horizon of 5"):
        segments(cut, 6, 1, ahead=1)


def test_unrequested_fields_are_empty() -> None:
    data = SegmentDataset(recording(), 2, 1)
    batch = data.batch(np.arange(3))
    assert batch.terminals.shape == (3, 0)
    assert batch.next_observations.shape == (3, 2, 0)
