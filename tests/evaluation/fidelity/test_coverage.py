"""Density, coverage, precision, recall, copies and marginals, against laws and plain loops."""

import numpy as np
import pytest

from pgdiff import Episodes, PgdiffError
from pgdiff.evaluation.fidelity.density_coverage import (
    Space,
    coverage,
    find_copies,
    nearest_distances,
)
from pgdiff.evaluation.fidelity.marginals import marginals


def normal(rows: int, features: int = 4, *, seed: int, shift: float = 0.0) -> np.ndarray:
    source = np.random.default_rng(seed)
    return (source.normal(size=(rows, features)) + shift).astype(np.float32)


def test_equal_laws_have_the_coverage_of_the_paper() -> None:
    """It is 1 - ((n-1)...(n-k)) / ((2n-1)...(2n-k)) (Naeem et al. 2020) in expectation."""
    n, k = 400, 5
    found = [coverage(normal(n, seed=2 * s), normal(n, seed=2 * s + 1)) for s in range(12)]
    places = np.arange(1, k + 1)
    expected = 1 - np.prod((n - places) / (2 * n - places))
    for name, wanted in (("coverage", expected), ("density", 1.0)):
        values = np.array([getattr(one, name) for one in found])
        error = values.std() / np.sqrt(len(values))
        print(f"\n{name} {values.mean():.4f} +- {error:.4f}, expected {wanted:.4f}")
        assert abs(values.mean() - wanted) < 4.5 * error


def test_they_are_what_plain_loops_give() -> None:
    real, made = normal(60, seed=0), normal(50, seed=1, shift=0.4)
    found = coverage(real, made, neighbours=3)

    def radius(points: np.ndarray) -> np.ndarray:
        distance = np.linalg.norm(points[:, None] - points, axis=2)
        return np.sort(distance, axis=1)[:, 3]

    between = np.linalg.norm(real[:, None] - made, axis=2)
    within = between <= radius(real)[:, None]
    assert found.density == pytest.approx(within.sum(axis=0).mean() / 3, abs=1e-6)
    assert found.coverage == pytest.approx(within.any(axis=1).mean(), abs=1e-6)
    assert found.precision == pytest.approx(within.any(axis=0).mean(), abs=1e-6)
    recalled = (between <= radius(made)).any(axis=1).mean()
    assert found.recall == pytest.approx(recalled, abs=1e-6)
    assert np.allclose(nearest_distances(real, made), between.min(axis=1), atol=1e-5)


def test_a_mode_that_is_left_out_is_seen_by_recall_and_coverage_alone() -> None:
    left, right = normal(500, seed=0), normal(500, seed=1, shift=20.0)
    found = coverage(np.concatenate([left, right]), normal(1000, seed=2))
    assert found.precision > 0.9
    assert found.recall < 0.55
    assert found.coverage < 0.55
    far = coverage(left, normal(500, seed=3, shift=20.0))
    assert (far.precision, far.density, far.coverage) == (0, 0, 0)


def test_copies_are_found() -> None:
    training, held_out = normal(3000, seed=0), normal(1000, seed=1)
    fresh = find_copies(normal(1000, seed=2), training, held_out)
    # As many as of the held-out rows, within the error of a binomial of 1000.
    assert fresh.held_out == pytest.approx(0.01, abs=1e-3)
    assert fresh.generated < 0.01 + 4.5 * np.sqrt(0.01 * 0.99 / 1000) * 2**0.5
    assert fresh.median == pytest.approx(1.0, abs=0.1)
    half = np.concatenate([training[:500] + np.float32(1e-4), normal(500, seed=3)])
    assert find_copies(half, training, held_out).generated > 0.5


def test_marginals_are_of_each_feature() -> None:
    real = normal(4000, 2, seed=0)
    made = normal(4000, 2, seed=1)
    made[:, 1] += 1
    found = marginals(real, made)
    # Between N(0, 1) and N(1, 1): 2 Phi(1/2) - 1, and a move of 1.
    assert found.kolmogorov_smirnov == pytest.approx([0, 0.3829], abs=0.045)
    assert found.wasserstein == pytest.approx([0, 1], abs=0.08)
    assert found.correlation < 0.08
    tied = np.column_stack([made[:, 0], made[:, 0]])
    assert marginals(real, tied).correlation == pytest.approx(1, abs=0.05)


def test_rows_are_standardised_by_the_real_recording() -> None:
    source = np.random.default_rng(0)
    steps = 3000
    episodes = Episodes.from_arrays(
        observations=source.normal(5, 3, (steps, 2)),
        actions=source.normal(-1, 0.1, (steps, 1)),
        rewards=source.normal(100, 50, steps),
        terminals=np.arange(steps) % 100 == 99,
    )
    space = Space.fit(episodes)
    rows = space.rows(episodes, rows=10_000)
    assert rows.shape == (steps - steps // 100, 6)
    assert np.abs(rows.mean(axis=0)).max() < 1e-3
    assert np.abs(rows.std(axis=0) - 1).max() < 1e-3
    few, again = (space.rows(episodes, rows=50, seed=3) for _ in range(2))
    assert np.array_equal(few, again)
    assert len(np.unique(few, axis=0)) == 50


def test_wrong_points_are_named() -> None:
    with pytest.raises(PgdiffError, match=r"`generated` must hold more than 5 points. Got 3"):
        coverage(normal(20, seed=0), normal(3, seed=1))
    with pytest.raises(PgdiffError, match="`neighbours` must be"):
        coverage(normal(20, seed=0), normal(20, seed=1), neighbours=0)
    with pytest.raises(PgdiffError, match="`quantile` must be"):
        find_copies(normal(9, seed=0), normal(9, seed=1), normal(9, seed=2), quantile=0.0)
    one = {"actions": np.zeros((9, 1)), "rewards": np.zeros(9), "terminals": np.arange(9) == 8}
    wide, narrow = (
        Episodes.from_arrays(observations=np.zeros((9, size)), **one) for size in (3, 2)
    )
    with pytest.raises(PgdiffError, match=r"must be of one task, with 8 features per row. Got 6"):
        Space.fit(wide).rows(narrow, rows=5)
