"""Aggregates and comparisons against rliable, closed forms, and coverage in simulated experiments.

The oracle is rliable, the authors' own library of Agarwal et al. 2021.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgdiff.core.validation import PgdiffError
from pgdiff.evaluation import Evaluation, aggregate, compare, interval, paired_difference
from pgdiff.evaluation import bootstrap as drawing


def made(
    scores: Any, *, env: str = "maze", training_seed: int = 0, seed: int | None = 0, **settings: Any
) -> Evaluation:
    """Return an evaluation of these scores, one for each episode."""
    values = np.asarray(scores, dtype=np.float64)
    return Evaluation(
        returns=values / 10,
        normalized_scores=values,
        successes=values > 0,
        steps_to_goal=np.where(values > 0, 1.0, np.nan),
        goals=None,
        lengths=np.full(len(values), 5),
        seconds=1.0,
        agent_seconds=0.5,
        plans=10,
        trajectories=[],
        settings={"env": env, "seed": seed, "training_seed": training_seed, **settings},
        machine={},
    )


def runs_of(matrix: np.ndarray, **settings: Any) -> list[Evaluation]:
    """Return one evaluation for each row."""
    return [made(row, training_seed=number, **settings) for number, row in enumerate(matrix)]


def by_rliable(scores: np.ndarray, gamma: float) -> dict[str, tuple[float, float, float]]:
    """Return rliable's results from another process, because importing it changes logging."""
    script = Path(__file__).with_name("rliable_oracle.py")
    request = json.dumps({"scores": scores.tolist(), "gamma": gamma})
    found = subprocess.run(
        [sys.executable, str(script)], input=request, capture_output=True, text=True, check=True
    )
    return {name: tuple(values) for name, values in json.loads(found.stdout).items()}


def normal_scores() -> np.ndarray:
    """Return scores of 24 runs of one episode in 3 tasks."""
    rng = np.random.default_rng(0)
    return rng.normal([50.0, 120.0, 200.0], [10.0, 30.0, 60.0], size=(24, 3))


RLIABLE = {
    "mean": (129.15625436480545, 122.39827439897019, 136.27917185186584),
    "iqm": (118.26787710394521, 111.3321960092202, 126.28925554133106),
    "optimality_gap": (17.502195771949218, 15.766556228778535, 19.22079735045296),
}
"""Value and interval of `normal_scores` by rliable, with a gamma of 100."""


@pytest.mark.slow
def test_the_numbers_of_the_oracle_are_rliables() -> None:
    found = by_rliable(normal_scores(), 100.0)
    assert found.keys() == RLIABLE.keys()
    for name, numbers in found.items():
        assert numbers == pytest.approx(RLIABLE[name], rel=1e-9)


def test_it_is_rliables_stratified_bootstrap() -> None:
    """With one number for a run, or one run for a task, runs and episodes are equivalent."""
    scores = normal_scores()
    # Each run has its own start: no part is shared.
    runs = [
        made([scores[row, task]], env=f"task {task}", training_seed=row, seed=row)
        for task in range(3)
        for row in range(24)
    ]
    episodes = [made(scores[:, task], env=f"task {task}") for task in range(3)]
    for unit, given in (("run", runs), ("episode", episodes)):
        found = aggregate(given, target=100.0, resamples=8000)
        assert found.unit == unit
        assert (found.tasks, found.episodes) == (("task 0", "task 1", "task 2"), 72)
        for name, (value, low, high) in RLIABLE.items():
            ours = getattr(found, name)
            assert ours.value == pytest.approx(value, rel=1e-12)
            # Both ends are quantiles of some thousand draws: 4 standard errors of that, generously.
            assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_one_run_of_one_task_is_the_interval_of_its_episodes() -> None:
    scores = np.random.default_rng(0).normal(100, 50, size=200)
    found = aggregate([made(scores)])
    low, high = interval(scores)
    assert found.mean.value == pytest.approx(scores.mean())
    assert (found.mean.low, found.mean.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def simulated(
    rng: np.random.Generator, runs: int, episodes: int, spread: tuple[float, float, float]
) -> np.ndarray:
    """Return run effects plus start effects plus noise, around 0; [runs, episodes]."""
    of_run, of_start, noise = spread
    return (
        of_run * rng.normal(size=(runs, 1))
        + of_start * rng.normal(size=(1, episodes))
        + noise * rng.normal(size=(runs, episodes))
    )


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    for spread in ((0.0, 5.0, 1.0), (1.0, 5.0, 1.0)):
        _check_coverage(spread, trials=60)


@pytest.mark.slow
def test_the_interval_holds_the_truth_in_many_experiments() -> None:
    for spread in ((0.0, 5.0, 1.0), (1.0, 0.0, 0.1), (1.0, 5.0, 1.0), (0.0, 0.0, 1.0)):
        _check_coverage(spread, trials=200)


def _check_coverage(spread: tuple[float, float, float], *, trials: int) -> None:
    rng = np.random.default_rng(5)
    level = 0.9
    held = {"shared": 0, "apart": 0}
    for _ in range(trials):
        scores = simulated(rng, 20, 30, spread)
        for name in held:
            # Equal scores, as of common starts and as of starts of each run.
            given = [
                made(row, training_seed=number, seed=0 if name == "shared" else 1000 * number)
                for number, row in enumerate(scores)
            ]
            mean = aggregate(given, level=level, resamples=300).mean
            held[name] += mean.low <= 0.0 <= mean.high
    error = 3 * (level * (1 - level) / trials) ** 0.5
    # At least as often: the pigeonhole bootstrap is cautious. 0.03: percentiles of 20 runs.
    assert held["shared"] / trials > level - error - 0.03
    if spread == (0.0, 5.0, 1.0):
        # The reason: with separate draws, the effect of starts seems to average out over runs.
        assert held["apart"] / trials < level - 2 * error


def test_variance_of_crossed_draws_is_owens() -> None:
    """The variance equals Owen 2007, theorem 1, worked out for one row-by-column table."""
    rng = np.random.default_rng(2)
    scores = simulated(rng, 4, 6, (1.0, 2.0, 0.5))
    runs, episodes = scores.shape
    which = drawing.draw_indices(rng, 200_000, runs)
    drawn = drawing.resample_means(list(scores), which, rng, shared=True).mean(axis=1)
    centred = scores - scores.mean()
    # Counts of rows and of columns are multinomial and independent: exact, by enumeration of the
    # covariances Cov(n_i, n_j) = delta_ij - 1/n.
    rows = np.eye(runs) - 1 / runs + 1.0
    columns = np.eye(episodes) - 1 / episodes + 1.0
    expected = np.einsum("ij,kl,ik,jl->", centred, centred, rows, columns) / scores.size**2
    assert drawn.mean() == pytest.approx(scores.mean(), abs=5 * (expected / 200_000) ** 0.5)
    assert drawn.var() == pytest.approx(expected, rel=0.02)


def test_another_order_of_runs_or_of_memory_changes_nothing_but_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = np.random.default_rng(0).normal(100, 30, size=(3, 40))
    whole = aggregate(runs_of(scores))
    assert aggregate(runs_of(scores)) == whole
    assert aggregate(runs_of(scores), seed=1).mean != whole.mean
    assert aggregate(runs_of(scores[::-1])).mean.value == pytest.approx(whole.mean.value)
    monkeypatch.setattr(drawing, "_BLOCK", 500)
    split = aggregate(runs_of(scores)).mean
    width = whole.mean.high - whole.mean.low
    assert (split.low, split.high) == pytest.approx(
        (whole.mean.low, whole.mean.high), abs=0.06 * width
    )


def test_iqm_leaves_out_the_outer_quarters() -> None:
    assert aggregate([made([-1e6, 1.0, 2.0, 1e6])]).iqm.value == 1.5
    assert aggregate(runs_of(np.array([[1.0], [2.0], [9.0]]))).iqm.value == 4.0


def test_metrics() -> None:
    scores = np.array([10.0, -10.0, 30.0, 50.0])
    assert aggregate([made(scores)]).mean.value == 20.0
    assert aggregate([made(scores)], metric="return").mean.value == 2.0
    rate = aggregate([made(scores)], metric="success")
    assert rate.mean.value == 0.75 and "mean  0.750 [" in str(rate)
    gap = compare([made(scores)], [made(scores - 20)], metric="success")
    assert "+0.250 [" in str(gap)


def test_other_settings_are_other_planners() -> None:
    for key in ("td_lambda", "spacing", "plausibility", "horizon", "recipe"):
        runs = [made([1.0, 2.0], training_seed=seed, **{key: seed}) for seed in (0, 1)]
        with pytest.raises(PgdiffError, match=f"must all come from one planner.*`{key}` 0 and 1"):
            aggregate(runs)


def test_without_a_seed_the_summary_has_none() -> None:
    assert made([1.0, 2.0], seed=None).summary()["seeds"] is None
    assert made([1.0, 2.0], seed=7).summary()["seeds"] == [7, 8]


def test_paired_comparison_is_free_of_the_starts() -> None:
    rng = np.random.default_rng(0)
    starts = rng.normal(scale=100.0, size=200)
    gain = 1.0 + 0.1 * rng.normal(size=200)
    found = compare(made(starts + gain, candidates=8), made(starts, candidates=1))
    value, low, high = paired_difference(starts + gain, starts)
    assert found.difference.value == pytest.approx(value)
    assert (found.difference.low, found.difference.high) == pytest.approx(
        (low, high), abs=0.05 * (high - low)
    )
    assert found.pairing == "paired by environment seed"
    other = compare(made(starts + gain), made(starts, seed=1000))
    assert other.pairing == "no common environment seeds, not paired"
    assert other.difference.high - other.difference.low > 20 * (high - low)


def test_only_common_episodes_are_compared() -> None:
    found = compare(made([1.0, 2.0, 3.0, 99.0]), made([77.0, 0.0, 0.0, 0.0], seed=-1 + 0))
    assert found.episodes == 3  # seeds 0 to 2, of 0 to 3 and -1 to 2
    assert found.difference.value == pytest.approx(2.0)


def test_runs_of_the_same_training_seeds_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    base = simulated(rng, 6, 50, (20.0, 30.0, 1.0))
    better = base + 1.0 + 0.1 * rng.normal(size=base.shape)
    together = compare(runs_of(better), runs_of(base)[::-1])
    assert together.pairing == "paired by environment seed, training seeds resampled together"
    assert 0.8 < together.difference.low < together.difference.high < 1.2
    others = [made(row, training_seed=10 + number) for number, row in enumerate(base)]
    apart = compare(runs_of(better), others)
    assert apart.pairing.endswith("training seeds resampled separately")
    assert apart.runs == (6, 6)
    assert apart.difference.high - apart.difference.low > 10


def test_the_comparisons_interval_holds_the_truth_as_often_as_it_says() -> None:
    for paired in (False, True):
        rng = np.random.default_rng(8)
        trials, level, held = 200, 0.9, 0
        for _ in range(trials):
            starts = 5.0 * rng.normal(size=60)
            first = starts + 1.0 + rng.normal(size=60)
            second = (starts if paired else 5.0 * rng.normal(size=60)) + rng.normal(size=60)
            found = compare(
                made(first), made(second, seed=0 if paired else 500), level=level, resamples=300
            )
            held += found.difference.low <= 1.0 <= found.difference.high
        assert held / trials == pytest.approx(
            level, abs=3 * (level * (1 - level) / trials) ** 0.5 + 0.02
        )


def test_files_serve_as_well_as_evaluations(tmp_path: Path) -> None:
    evaluations = runs_of(np.random.default_rng(0).normal(size=(2, 9)))
    files = [e.to_json(tmp_path / f"{i}.json") for i, e in enumerate(evaluations)]
    assert aggregate(files) == aggregate(evaluations)
    assert compare(files[0], str(files[1])) == compare(*evaluations)


def test_bad_input_is_named() -> None:
    given: Any
    for given, arguments, message in (
        ([], {}, "at least one evaluation"),
        ([made([1.0])], {"level": 1.0}, "`level`"),
        ([made([1.0])], {"resamples": 0}, "`resamples`"),
        ([made([1.0])], {"seed": -1}, "`seed`"),
        ([made([1.0])], {"metric": "succes"}, "Did you mean 'success'"),
        ([made([1.0])], {"target": float("nan")}, "`target`"),
        ([made([1.0], run="r"), made([2.0], run="r")], {}, "each run once. Got 'r' twice"),
        ([made([1.0], candidates=8), made([2.0], candidates=1)], {}, "`candidates` 8 and 1"),
        ([made([1.0]), made([1.0]), made([1.0], env="b")], {}, "{'maze': 2, 'b': 1}"),
        ([made([1.0]), made([1.0, 2.0], env="b")], {}, "same number of episodes for every task"),
    ):
        with pytest.raises(PgdiffError) as error:
            aggregate(given, **arguments)  # type: ignore[arg-type]
        assert message in str(error.value)


def test_other_tasks_are_not_compared() -> None:
    with pytest.raises(PgdiffError, match=r"same tasks. Got \['maze'\] and \['other'\]"):
        compare(made([1.0]), made([1.0], env="other"))
    two = [made([1.0], training_seed=seed) for seed in (0, 1)]
    with pytest.raises(PgdiffError, match=r"same number of runs for every task. Got .*\[2, 1\]"):
        compare([*two, made([1.0], env="b")], [two[0], made([1.0], env="b")])
