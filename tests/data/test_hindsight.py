"""Hindsight goals: the three kinds as documented, and labels by brute force."""

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from toys import record

from pgdiff import Episodes
from pgdiff.core.validation import PgdiffError
from pgdiff.data.hindsight import EXAMPLES, HindsightDataset, uniform

LENGTHS = [30, 5, 50]


def numbered(lengths: list[int] = LENGTHS, *, seed: int = 0) -> Episodes:
    """Random steps in the plane; the third feature is the number of the row."""
    rows = sum(lengths)
    way = np.cumsum(0.2 * np.random.default_rng(seed).normal(size=(rows, 2)), axis=0)
    observations = np.concatenate([way, np.arange(rows)[:, None]], axis=1)
    return record(observations, np.zeros((rows, 1)), np.zeros(rows), lengths=lengths)


def of_pair(dataset: HindsightDataset, pair: int, count: int) -> np.ndarray:
    """Return the numbers of `count` examples of one pair, which have different goals."""
    pairs = len(dataset._pairs)
    assert count * pairs <= len(dataset)
    return pair + pairs * np.arange(count)


def within(counts: np.ndarray, odds: np.ndarray) -> None:
    """Assert that counts of independent draws fit these odds within five standard deviations."""
    draws = counts.sum()
    spread = np.sqrt(draws * odds * (1 - odds))
    print(f"\n{draws} draws, largest deviation {(abs(counts - draws * odds) / (spread + 1)).max()}")
    assert (abs(counts - draws * odds) <= 5 * (spread + 1)).all()


# ----------------------------------------------------------------------------------------- labels


def test_every_label_is_that_of_brute_force() -> None:
    for stride, goal_features in ((1, (0, 1)), (4, (1, 0)), (4, (1,))):
        compare_with_brute_force(stride, goal_features)


def compare_with_brute_force(stride: int, goal_features: tuple[int, ...]) -> None:
    episodes = numbered()
    dataset = HindsightDataset(
        episodes, stride=stride, goal_features=goal_features, tolerance=0.5, discount=0.9
    )
    numbers = np.random.default_rng(1).integers(len(dataset), size=1000)
    batch = dataset.batch(numbers)
    ends = np.cumsum(LENGTHS)
    for k in range(len(numbers)):
        first, second = batch.observations[k, :, 2].astype(int)
        assert second == first + stride
        assert np.searchsorted(ends, first, "right") == np.searchsorted(ends, second, "right")
        assert np.array_equal(batch.observations[k], episodes.observations[[first, second]])
        reward = 0.0
        for j in range(stride):
            at = episodes.observations[first + j, list(goal_features)].astype(float)
            if math.dist(at, batch.goals[k].astype(float)) <= 0.5:
                reward += 0.9**j
        assert batch.rewards[k] == pytest.approx(reward, rel=1e-6, abs=0)
    paid = (batch.rewards > 0).mean()
    print(f"\nstride {stride}, goal features {goal_features}: {paid:.2f} are rewarded")
    assert 0.1 < paid < 0.9


def test_a_goal_at_the_tolerance_is_reached() -> None:
    episodes = record([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], np.zeros((3, 1)), [0] * 3, lengths=[3])
    for tolerance, at_both in ((5.0, 1.0), (4.999, 0.0)):
        dataset = HindsightDataset(episodes, stride=1, tolerance=tolerance, future=0.0, near=0.0)
        batch = dataset.batch(np.arange(200))
        away = (batch.goals != batch.observations[:, 0]).any(axis=1)
        assert 0 < away.sum() < 200
        assert (batch.rewards[away] == at_both).all() and (batch.rewards[~away] == 1).all()


# ------------------------------------------------------------------------------------------ goals


def test_future_goals_are_geometric_and_of_the_same_episode() -> None:
    """The position is the number of the row, which identifies the origin of a goal."""
    ends = np.cumsum(LENGTHS)
    for discount in (0.5, 0.95, 0.9999):
        dataset = HindsightDataset(
            numbered(), stride=3, goal_features=(2,), discount=discount, future=1.0, near=0.0
        )
        batch = dataset.batch(np.random.default_rng(0).integers(len(dataset), size=5000))
        first, goal = batch.observations[:, 0, 2], batch.goals[:, 0]
        assert (goal > first).all() and (goal < ends[np.searchsorted(ends, first, "right")]).all()

        # Row 4 of the first episode, which has 25 more rows: odds discount^k, truncated there.
        goals = dataset.batch(of_pair(dataset, 4, 20_000)).goals[:, 0]
        odds = discount ** np.arange(1.0, 26)
        within(np.bincount((goals - 5).astype(int), minlength=25), odds / odds.sum())


def test_random_goals_are_of_any_row_of_the_selected_episodes() -> None:
    episodes = numbered([30, 5, 50, 10]).select([0, 2])
    dataset = HindsightDataset(episodes, stride=3, goal_features=(2,), future=0.0, near=0.0)
    goals = dataset.batch(np.random.default_rng(0).integers(len(dataset), size=50_000)).goals[:, 0]
    odds = np.zeros(95)
    odds[:30] = odds[35:85] = 1 / 80
    within(np.bincount(goals.astype(int), minlength=95), odds)
    goals = dataset.batch(of_pair(dataset, 7, 40_000)).goals[:, 0]
    within(np.bincount(goals.astype(int), minlength=95), odds)


def test_near_goals_are_at_uniform_distances_in_every_direction() -> None:
    for size in (1, 2, 3):
        dataset = HindsightDataset(
            numbered(), stride=1, goal_features=range(size), tolerance=0.3, future=0.0, near=1.0
        )
        batch = dataset.batch(of_pair(dataset, 11, 20_000))
        offset = batch.goals - batch.observations[:, 0, :size]
        distance = np.linalg.norm(offset.astype(float), axis=1)
        assert distance.max() < 0.6 + 1e-5
        within(np.histogram(distance, bins=10, range=(0, 0.6 + 1e-5))[0], np.full(10, 0.1))
        assert abs(batch.rewards.mean() - 0.5) < 5 * 0.5 / np.sqrt(20_000)
        directions = offset / distance[:, None]
        mean, covariance = directions.mean(axis=0), directions.T @ directions / len(directions)
        print(f"\n{size} dimensions: mean direction {mean}, covariance {covariance.tolist()}")
        assert (abs(mean) < 5 / np.sqrt(20_000 * size)).all()
        assert (abs(covariance - np.eye(size) / size) < 0.02).all()


def test_near_goals_are_near_any_row_on_the_way() -> None:
    dataset = HindsightDataset(
        numbered(), stride=4, goal_features=(2,), tolerance=0.2, future=0.0, near=1.0
    )
    batch = dataset.batch(of_pair(dataset, 3, 8000))
    row = np.round(batch.goals[:, 0]).astype(int) - 3
    within(np.bincount(row, minlength=4), np.full(4, 0.25))


def test_the_shares_are_kept() -> None:
    """Near goals lie between rows; random ones of the short episode are in others, mostly."""
    dataset = HindsightDataset(
        numbered(), stride=3, goal_features=(2,), tolerance=0.1, future=0.3, near=0.25
    )
    goals = dataset.batch(of_pair(dataset, 27 + 1, 20_000)).goals[:, 0]  # row 31 of 30 to 34
    near = goals != np.round(goals)
    elsewhere = ~near & ((goals < 30) | (goals >= 35))
    counts = np.array([near.sum(), elsewhere.sum(), (~near & ~elsewhere).sum()])
    away = 0.45 * 80 / 85
    within(counts, np.array([0.25, away, 0.75 - away]))


# ---------------------------------------------------------------------------------- reproducible


def test_an_example_follows_from_its_number() -> None:
    dataset, again = (HindsightDataset(numbered(), stride=3) for _ in range(2))
    assert len(dataset) >= EXAMPLES
    numbers = np.random.default_rng(0).integers(len(dataset), size=64)
    batch = dataset.batch(numbers)
    order = np.random.default_rng(1).permutation(64)
    for other in (again.batch(numbers), dataset.batch(numbers)):
        assert all(np.array_equal(a, b) for a, b in zip(batch, other, strict=True))
    assert all(np.array_equal(a[order], b) for a, b in zip(batch, again.batch(numbers[order])))  # noqa: B905
    alone = dataset.batch(numbers[5:6])
    assert all(np.array_equal(a[5:6], b) for a, b in zip(batch, alone, strict=True))
    others = dataset.batch((numbers + len(dataset._pairs)) % len(dataset))
    assert np.array_equal(batch.observations, others.observations)
    assert (batch.goals != others.goals).any(axis=1).mean() > 0.9
    assert [field.dtype for field in batch] == [np.float32] * 3


def test_the_hash_gives_uniform_independent_numbers() -> None:
    draws = np.stack([uniform(np.arange(100_000), stream) for stream in range(5)])
    assert (draws >= 0).all() and (draws < 1).all() and np.unique(draws).size == draws.size
    for row in draws:
        within(np.histogram(row, bins=20, range=(0, 1))[0], np.full(20, 0.05))
    # Between streams, and between neighbouring numbers of one.
    for one, other in ((draws[0], draws[1]), (draws[3], draws[4]), (draws[0, 1:], draws[0, :-1])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(100_000)


def test_nothing_is_kept_for_each_row() -> None:
    rows = 400_000
    observations = np.zeros((rows, 3), np.float32)
    flags = np.zeros(rows, bool)
    episodes = record(observations, np.zeros((rows, 1)), flags, lengths=[rows])
    tracemalloc.start()
    try:
        dataset = HindsightDataset(episodes, stride=12)
        dataset.batch(np.random.default_rng(0).integers(len(dataset), size=64))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"\n{rows} rows: {peak} bytes at most")
    assert peak < rows / 2


# ------------------------------------------------------------------------------------ bad settings


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named() -> None:
    cases: dict[str, list[Any]] = {
        "stride": [0],
        "tolerance": [0.0, float("nan")],
        "discount": [1.0],
        "future": [-0.1, 1.5],
        "near": [0.7],
        "goal_features": [(), (0, 0), (0, 3), (-1,), (0.5,), "01"],
    }
    for name, values in cases.items():
        for wrong in values:
            with pytest.raises(PgdiffError, match=f"`{name}`.* must"):
                HindsightDataset(numbered(), **({"stride": 1} | {name: wrong}))


def test_bad_numbers_and_short_episodes_are_named() -> None:
    dataset = HindsightDataset(numbered(), stride=1)
    for bad in (-1, len(dataset)):
        with pytest.raises(PgdiffError, match=rf"`indices` must lie in .*Got {bad}"):
            dataset.batch(np.array([0, bad]))
    with pytest.raises(PgdiffError, match="longest of the 3 episodes has 50 rows"):
        HindsightDataset(numbered(), stride=50)
