import numpy as np
import pytest

from pgdiff.core.validation import PgdiffError
from pgdiff.evaluation import bootstrap, interval, paired_difference


def test_interval_holds_the_true_mean_at_about_its_level() -> None:
    rng = np.random.default_rng(3)
    trials, covered = 400, {0.8: 0, 0.95: 0}
    for seed in range(trials):
        values = rng.normal(loc=5.0, scale=2.0, size=60)
        for level in covered:
            low, high = interval(values, level=level, resamples=500, seed=seed)
            covered[level] += low <= 5.0 <= high
    # Three standard errors of a binomial share, and a little for the percentile rule's bias.
    for level, count in covered.items():
        error = 3 * (level * (1 - level) / trials) ** 0.5 + 0.02
        assert count / trials == pytest.approx(level, abs=error)


def test_interval_agrees_with_the_normal_formula() -> None:
    values = np.random.default_rng(0).normal(size=2_000)
    half = 1.96 * values.std() / len(values) ** 0.5
    low, high = interval(values)
    assert low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_same_seed_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert interval(values, seed=1) == interval(values, seed=1)
    assert interval(values, seed=1) != interval(values, seed=2)


def test_blocks_of_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=37)
    whole = interval(values, resamples=1_000)
    monkeypatch.setattr(bootstrap, "_BLOCK", 500)
    assert interval(values, resamples=1_000) == whole


def test_constant_values_have_an_interval_of_no_width() -> None:
    assert interval([2.5] * 7) == (2.5, 2.5)
    assert interval([4.0]) == (4.0, 4.0)


def test_booleans_are_rates() -> None:
    low, high = interval([True] * 80 + [False] * 20)
    assert 0.70 < low < 0.8 < high < 0.90


def test_paired_difference_of_equal_arrays_is_zero() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert paired_difference(values, values) == (0.0, 0.0, 0.0)


def test_paired_difference_ignores_what_both_share() -> None:
    rng = np.random.default_rng(0)
    starts = rng.normal(scale=100.0, size=200)
    gain = 1.0 + 0.1 * rng.normal(size=200)
    mean, low, high = paired_difference(starts + gain, starts)
    assert 0.9 < low < mean < high < 1.1
    assert paired_difference(starts, starts + gain)[0] == pytest.approx(-mean)


def test_bad_input_is_named() -> None:
    for values, message in (
        ([], "one number per episode"),
        ([[1.0, 2.0]], r"shape \(1, 2\)"),
        ([1.0, float("nan")], "row 1"),
        ([float("inf"), 1.0], "row 0"),
    ):
        with pytest.raises(PgdiffError, match=message):
            interval(values)  # type: ignore[arg-type]
    with pytest.raises(PgdiffError, match="`level`"):
        interval([1.0], level=1.0)
    with pytest.raises(PgdiffError, match="`resamples`"):
        interval([1.0], resamples=0)
    with pytest.raises(PgdiffError, match="same episodes"):
        paired_difference([1.0], [1.0, 2.0])
