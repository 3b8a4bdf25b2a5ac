"""Transitions against a naive loop over the rows of every episode."""

from typing import Any

import numpy as np
import pytest

from pgdiff import Episodes
from pgdiff.core.validation import PgdiffError
from pgdiff.data.transitions import TransitionDataset, rows_of, spread

DISCOUNT = 0.9


def recording(*, following: bool = False, seed: int = 0) -> Episodes:
    """Seven episodes of 1 to 7 rows; every other one ends in a terminal."""
    rng = np.random.default_rng(seed)
    lengths = np.array([3, 1, 7, 2, 1, 5, 4])
    ends = np.zeros(lengths.sum(), bool)
    ends[np.cumsum(lengths) - 1] = True
    odd = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return Episodes.from_arrays(
        observations=rng.normal(size=(len(ends), 3)),
        actions=rng.normal(size=(len(ends), 2)),
        rewards=rng.normal(size=len(ends)),
        terminals=ends & odd,
        timeouts=ends & ~odd,
        next_observations=rng.normal(size=(len(ends), 3)) if following else None,
    )


def naive(episodes: Episodes, steps: int) -> list[tuple[int, float, np.ndarray | None]]:
    """Row, reward and next observation (None after a terminal) of every transition."""
    result = []
    for start, end in zip(episodes.starts, episodes.ends, strict=True):
        for row in range(start, end):
            total, ended, last = 0.0, False, row
            for number in range(steps):
                last = row + number
                if last >= end:
                    break
                total += DISCOUNT**number * episodes.rewards[last]
                ended = bool(episodes.terminals[last])
                if ended:
                    break
            if ended:
                result.append((row, total, None))
            elif last < end:
                if episodes.next_observations is not None:
                    result.append((row, total, episodes.next_observations[last]))
                elif last + 1 < end:
                    result.append((row, total, episodes.observations[last + 1]))
    return result


def test_transitions_are_those_of_a_naive_loop() -> None:
    for following in (False, True):
        episodes = recording(following=following)
        for part in (episodes, episodes.select([1, 2, 5]), episodes.select([3])):
            for steps in (1, 2, 3, 9):
                compare_with_loop(part, steps)


def compare_with_loop(episodes: Episodes, steps: int) -> None:
    expected = naive(episodes, steps)
    source = TransitionDataset(episodes, steps=steps, discount=DISCOUNT)
    assert len(source) == len(expected) > 0
    batch = source.batch(np.arange(len(source)))
    assert all(part.shape[1] == 1 and part.dtype == np.float32 for part in batch[:5])
    for number, (row, reward, after) in enumerate(expected):
        assert np.array_equal(batch.observation[number, 0], episodes.observations[row])
        assert np.array_equal(batch.action[number, 0], episodes.actions[row])
        assert batch.reward[number, 0] == pytest.approx(reward, abs=1e-6)
        assert batch.ongoing[number, 0] == (after is not None)
        if after is not None:
            assert np.array_equal(batch.next_observation[number, 0], after)
    assert np.isfinite(batch.next_observation).all()


def test_a_held_out_row_is_nobodys_successor() -> None:
    """Fewer than 10 episodes are split within one: the row after the cut must not be used."""
    train, held_out = recording().split(0.3, seed=0)
    seen = TransitionDataset(train).batch(np.arange(len(TransitionDataset(train))))
    behind = held_out.observations[rows_of(held_out)]
    assert len(behind)
    for row in behind:
        assert not (seen.next_observation == row).all(axis=-1).any()
        assert not (seen.observation == row).all(axis=-1).any()


def test_next_actions_belong_to_the_next_observations() -> None:
    for following in (False, True):
        episodes = recording(following=following)
        states = episodes.next_observations if following else episodes.observations
        actions = np.stack([states, -states], axis=1)  # two policies that return their observation
        source = TransitionDataset(episodes, next_actions=actions, copies=2)
        batch = source.batch(np.arange(len(source)))
        assert batch.next_action.shape == (len(source), 2, 2, 3)
        going = batch.ongoing == 1
        assert np.array_equal(batch.next_action[:, :, 0][going], batch.next_observation[going])
        assert np.array_equal(batch.next_action[:, :, 1][going], -batch.next_observation[going])
    assert TransitionDataset(episodes).batch(np.arange(3)).next_action is None


def test_every_copy_sees_every_transition_once_in_another_order() -> None:
    episodes = recording()
    alone = TransitionDataset(episodes)
    many = TransitionDataset(episodes, copies=4)
    indices = np.arange(len(alone))
    whole = alone.batch(indices).reward[:, 0]
    rewards = many.batch(indices).reward
    for copy in range(4):
        assert np.array_equal(np.sort(rewards[:, copy]), np.sort(whole))
        assert np.array_equal(rewards[:, copy], np.roll(whole, -(copy * len(alone) // 4)))
        for other in range(copy):
            assert not np.array_equal(rewards[:, copy], rewards[:, other])
    assert np.array_equal(rewards[:, 0], whole)


def test_more_copies_than_transitions() -> None:
    numbers = spread(np.arange(3), 3, copies=7)
    assert numbers.shape == (3, 7)
    assert np.array_equal(np.sort(numbers, axis=0), np.repeat(np.arange(3)[:, None], 7, axis=1))


def test_bad_settings_are_named() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"copies": 0}, r"`copies` must be .* Got 0"),
        ({"steps": 0}, r"`steps` must be .* Got 0"),
        ({"steps": 1.5}, r"`steps` must be .* Got 1.5"),
        ({"discount": 0.0}, r"`discount` must be .* Got 0.0"),
        ({"discount": float("nan")}, r"`discount` must be"),
        ({"next_actions": np.zeros((3, 2))}, r"`next_actions` must have 23 rows, .* Got 3"),
    ]
    for options, message in cases:
        with pytest.raises(PgdiffError, match=message):
            TransitionDataset(recording(), **options)


def test_bad_numbers_are_named() -> None:
    source = TransitionDataset(recording())
    for wrong in (-1, len(source)):
        with pytest.raises(PgdiffError, match=rf"`indices` must lie in \[0, .*\)\. Got {wrong}"):
            source.batch(np.array([0, wrong]))


def test_episodes_without_a_transition() -> None:
    """An episode of one row that was cut off has no transition."""
    with pytest.raises(PgdiffError, match=r"The 1 episodes hold no transition of 1 steps"):
        TransitionDataset(recording().select([4]))
    assert len(TransitionDataset(recording(following=True).select([4]))) == 1
