"""Joined recordings: equal transitions and equal episodes."""

from itertools import product

import numpy as np
import pytest

from pgdiff import Episodes
from pgdiff.core.validation import PgdiffError
from pgdiff.data import join_episodes
from pgdiff.data.transitions import TransitionDataset


def recording(seed: int, *, following: bool = False, marked: bool = True) -> Episodes:
    """Episodes of 3, 1 and 4 rows, the second ended by a terminal; the last with a mark, or not."""
    rng = np.random.default_rng(seed)
    return Episodes.from_arrays(
        observations=rng.normal(size=(8, 3)),
        actions=rng.normal(size=(8, 2)),
        rewards=rng.normal(size=8),
        terminals=np.arange(8) == 3,
        timeouts=np.isin(np.arange(8), [2, 7] if marked else [2]),
        next_observations=rng.normal(size=(8, 3)) if following else None,
        infos={"goal": rng.normal(size=(8, 2))} if following else None,
    )


def transitions(episodes: Episodes) -> set[bytes]:
    """Return all transitions as bytes, without the arbitrary next observations of terminals."""
    data = TransitionDataset(episodes)
    batch = data.batch(np.arange(len(data)))
    following = batch.next_observation * batch.ongoing[..., None]
    columns = (batch.observation, batch.action, batch.reward[..., None], following)
    rows = np.concatenate([*columns, batch.ongoing[..., None]], axis=-1)[:, 0]
    return {row.tobytes() for row in rows}


def test_no_transition_is_lost_and_none_is_made() -> None:
    for *following, marked in product((False, True), repeat=3):
        parts = [recording(i, following=each, marked=marked) for i, each in enumerate(following)]
        joined = join_episodes(parts)
        assert transitions(joined) == transitions(parts[0]) | transitions(parts[1])
        assert (joined.next_observations is not None) == any(following)


def test_episodes_stay_whole_where_nothing_needs_filling() -> None:
    joined = join_episodes([recording(0), recording(1, marked=False), recording(2)])
    assert joined.lengths.tolist() == [3, 1, 4] * 3
    assert np.array_equal(joined.observations[8:16], recording(1).observations)


def test_a_row_without_a_known_successor_is_dropped() -> None:
    joined = join_episodes([recording(0), recording(1, following=True)])
    assert joined.lengths.tolist() == [2, 1, 3, 3, 1, 4]
    assert joined.timeouts.tolist()[:6] == [False, True, False, False, False, True]
    assert not joined.infos  # the first has none
    assert join_episodes([recording(0, following=True)] * 2).infos["goal"].shape == (16, 2)


def test_a_chosen_part_alone_is_joined() -> None:
    joined = join_episodes([recording(0).select([2]), recording(1).select([0, 1])])
    assert joined.lengths.tolist() == [4, 3, 1]
    assert np.array_equal(joined.rewards[:4], recording(0).rewards[4:])


def test_bad_recordings_are_refused() -> None:
    other = Episodes.from_arrays(
        observations=np.zeros((2, 4)),
        actions=np.zeros((2, 2)),
        rewards=np.zeros(2),
        terminals=np.zeros(2, bool),
        timeouts=np.arange(2) == 1,
    )
    with pytest.raises(PgdiffError, match="at least one"):
        join_episodes([])
    with pytest.raises(PgdiffError, match=r"must have 3 features.*Got 4 in record"):
        join_episodes([recording(0), other])
