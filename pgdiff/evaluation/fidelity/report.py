"""Report that compares generated data with the simulator, real rows and policies."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from pgdiff.core.validation import PgdiffError, check_positive_int
from pgdiff.data import Episodes
from pgdiff.data.transitions import rows_of
from pgdiff.evaluation.fidelity.density_coverage import Coverage, Space, coverage, find_copies
from pgdiff.evaluation.fidelity.likelihoods import (
    ModelLikelihood,
    PolicyLikelihood,
    model_likelihood,
    policy_likelihood,
)
from pgdiff.evaluation.fidelity.marginals import marginals
from pgdiff.evaluation.fidelity.simulator_error import (
    StepErrors,
    determines_state,
    error_units,
    replay_errors,
    step_errors,
)

HELD_OUT = "real, held out"


@dataclass(frozen=True)
class Column:
    """Measures of one data set.

    Attributes:
        rows: number of rows.
        trajectories: number of trajectories.
        steps: one-step errors by position; None without a simulator.
        replay: errors of open-loop replays by position; None without a simulator.
        determined: share of rows whose observation determines the simulator's state; the errors
            leave out all other rows. None without a simulator.
        coverage: density, coverage, precision and recall against held-out real rows.
        copied: share of rows closer to a training row than all but 1 % of the held-out rows.
        nearest: median distance to a training row, divided by the held-out rows' median.
        kolmogorov_smirnov: greatest Kolmogorov-Smirnov distance of a feature.
        wasserstein: mean Wasserstein distance of the features, in their standard deviations.
        correlation: greatest difference of a correlation of two features.
        spread: see `spread_by_start`.
        terminals: share of rows that are terminal.
        likelihood: log-likelihood of actions by policy name; see `policy_likelihood`.
        model_likelihood: see `model_likelihood`; None without a model.
    """

    rows: int
    trajectories: int
    steps: StepErrors | None
    replay: StepErrors | None
    determined: float | None
    coverage: Coverage
    copied: float
    nearest: float
    kolmogorov_smirnov: float
    wasserstein: float
    correlation: float
    spread: float
    terminals: float
    likelihood: Mapping[str, PolicyLikelihood]
    model_likelihood: ModelLikelihood | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all measures as JSON values; None for a number that is not finite."""
        content: dict[str, Any] = _json_value(asdict(self))
        return content


@dataclass(frozen=True)
class Fidelity:
    """Measures of several data sets, as `fidelity` returns them.

    Attributes:
        columns: measures by name of the data set; the first are of held-out real rows.
        features: description of the features that rows are compared by.
        exact: True if the rows were compared with the simulator.

    Example:
        >>> from pgdiff.testing import example_episodes
        >>> real, generated = example_episodes(seed=0), example_episodes(seed=1)
        >>> result = fidelity(real, {"generated": generated}, held_out=0.25, points=50)
        >>> list(result.columns), result.exact
        (['real, held out', 'generated'], False)
    """

    columns: Mapping[str, Column]
    features: str
    exact: bool

    def to_dict(self) -> dict[str, Any]:
        """Return all measures as JSON values."""
        return {
            "features": self.features,
            "exact": self.exact,
            "columns": {name: column.to_dict() for name, column in self.columns.items()},
        }

    def table(self) -> str:
        """Return a text table with a row for each measure and a column for each data set."""
        lines: list[tuple[str, Callable[[Column], str]]] = [
            ("rows", lambda c: f"{c.rows}"),
            ("trajectories", lambda c: f"{c.trajectories}"),
            ("one-step error", lambda c: _error(c.steps, lambda s: s.mean(1, len(s.position)))),
            ("one-step error, positions 10 to 31", lambda c: _error(c.steps, _later)),
            (
                "replay error, last position",
                lambda c: _error(c.replay, lambda s: _mean(s.observation[-1:])),
            ),
            ("reward error", lambda c: _error(c.steps, lambda s: float(_root(s.reward)))),
            ("terminals agree", lambda c: _error(c.steps, lambda s: _mean(s.terminal))),
            (
                "rows that determine the state",
                lambda c: "-" if c.determined is None else f"{c.determined:.3f}",
            ),
            ("terminal rows", lambda c: f"{c.terminals:.4f}"),
            ("density", lambda c: f"{c.coverage.density:.3f}"),
            ("coverage", lambda c: f"{c.coverage.coverage:.3f}"),
            ("precision", lambda c: f"{c.coverage.precision:.3f}"),
            ("recall", lambda c: f"{c.coverage.recall:.3f}"),
            ("near a training row", lambda c: f"{c.copied:.4f}"),
            ("nearest training row, relative", lambda c: f"{c.nearest:.2f}"),
            ("greatest KS distance", lambda c: f"{c.kolmogorov_smirnov:.3f}"),
            ("mean Wasserstein distance", lambda c: f"{c.wasserstein:.3f}"),
            ("greatest difference of correlations", lambda c: f"{c.correlation:.3f}"),
            ("spread from similar starts", lambda c: f"{c.spread:.3f}"),
        ]
        first = next(iter(self.columns.values()))
        for policy in first.likelihood:
            lines.append(
                (f"log-likelihood, {policy}", lambda c, p=policy: _likely(c.likelihood[p]))  # type: ignore[misc]
            )
        if first.model_likelihood is not None:
            lines.append(("log-likelihood, model", lambda c: _likely(c.model_likelihood)))
        width = max(len(name) for name, _ in lines)
        heads = " | ".join(f"{name:>14}" for name in self.columns)
        body = [
            f"{name.ljust(width)} | "
            + " | ".join(
                f"{measure(column):>{max(14, len(head))}}" for head, column in self.columns.items()
            )
            for name, measure in lines
        ]
        return "\n".join([f"{' ' * width} | {heads}", *body])


def fidelity(
    real: Episodes,
    generated: Mapping[str, Episodes],
    *,
    env: gym.Env[Any, Any] | None = None,
    policies: Mapping[str, Any] | None = None,
    model: Any = None,
    held_out: float = 0.05,
    positions: int = 31,
    rows: int = 200,
    points: int = 5000,
    neighbours: int = 5,
    seed: int = 0,
) -> Fidelity:
    """Compare generated data sets with a real recording and with the simulator.

    A share of the recording's episodes is held out. With the trainer's `validation` share and seed,
    these are the episodes that the trainer held out. They form the first column, as a reference for
    the values that real rows have.

    Args:
        real: the recording that the model was trained on.
        generated: data sets by name.
        env: environment with `set_observation`, for the simulator errors; None to leave them out.
        policies: policies with `log_prob(observation, action)`, by name.
        model: a `TrajectoryDiffusion` for the log-likelihood of segments; None to leave it out.
        held_out: share of the real episodes that is held out; the trainer's default `validation` is
            0.05 too.
        positions: number of first steps of each trajectory that are simulated.
        rows: maximum number of rows simulated at each position.
        points: maximum number of rows drawn from each data set for the comparison of rows, limited
            by the smallest data set; 20 times as many are drawn from the training rows.
        neighbours: k of density and coverage.
        seed: seed of the split and of all draws.

    Raises:
        PgdiffError: if the data sets have different spaces, or the environment has no
            `set_observation`.

    Example:
        >>> from pgdiff.testing import example_episodes
        >>> real, generated = example_episodes(seed=0), example_episodes(seed=1)
        >>> result = fidelity(real, {"generated": generated}, held_out=0.25, points=50)
        >>> result.columns["generated"].rows, result.columns["generated"].trajectories
        (320, 8)
    """
    check_positive_int("points", points)
    if not generated:
        raise PgdiffError("`generated` must hold at least one data set. Got none.")
    if HELD_OUT in generated:
        raise PgdiffError(
            f"`generated` must not use the reserved name '{HELD_OUT}'. Got {list(generated)}. "
            "Choose another name."
        )
    for name, episodes in generated.items():
        _check_space(name, episodes, real)
    training, validation = real.split(held_out, seed=seed)
    space = Space.fit(training, seed=seed)
    unit = error_units(training)
    training_rows = space.rows(training, rows=20 * points, seed=seed)
    every = {HELD_OUT: validation, **generated}
    # The same number of points for all: density and coverage depend on it.
    points = min(len(space.rows(episodes, rows=points)) for episodes in [training, *every.values()])
    reference = space.rows(validation, rows=points, seed=seed)
    columns: dict[str, Column] = {}
    for name, episodes in every.items():
        drawn = space.rows(episodes, rows=points, seed=seed + 1)
        against = reference
        if name == HELD_OUT:  # compared with training rows
            against = training_rows[np.linspace(0, len(training_rows) - 1, points).astype(int)]
        differences = marginals(against, drawn)
        near = find_copies(drawn, training_rows, reference)
        chosen: dict[str, Any] = {"units": unit, "positions": positions, "rows": rows, "seed": seed}
        ends = int(episodes.terminals[episodes.ends - 1].sum())
        columns[name] = Column(
            rows=int(episodes.lengths.sum()),
            trajectories=len(episodes),
            steps=None if env is None else step_errors(env, episodes, **chosen),
            replay=None if env is None else replay_errors(env, episodes, **chosen),
            determined=None
            if env is None
            else float(
                determines_state(env, episodes, _rows(episodes, rows=20_000, seed=seed)).mean()
            ),
            coverage=coverage(against, drawn, neighbours=neighbours),
            copied=near.generated,
            nearest=near.median,
            kolmogorov_smirnov=float(differences.kolmogorov_smirnov.max()),
            wasserstein=float(differences.wasserstein.mean()),
            correlation=differences.correlation,
            spread=spread_by_start(episodes, training, steps=min(positions, 10), seed=seed),
            terminals=ends / int(episodes.lengths.sum()),
            likelihood={
                policy: policy_likelihood(agent, episodes, rows=points, seed=seed)
                for policy, agent in (policies or {}).items()
            },
            model_likelihood=None
            if model is None
            else model_likelihood(model, episodes, seed=seed),
        )
    words = (
        "observation, action, reward and next observation, each feature standardised by the "
        "training rows"
    )
    return Fidelity(columns, words, env is not None)


def spread_by_start(
    episodes: Episodes, real: Episodes, *, steps: int = 10, starts: int = 200, seed: int = 0
) -> float:
    """Measure how far trajectories from similar starts diverge, in real standard deviations.

    For each of several random real observations, the five trajectories with the nearest starts are
    selected. The spread is the root mean square deviation of their observations from the mean of
    the five after `steps` rows. It is NaN if fewer than five trajectories are long enough.

    Args:
        episodes: trajectories.
        real: recording of the random observations and the unit.
        steps: rows after the start at which the spread is measured.
        starts: number of random observations.
        seed: seed of the draw.
    """
    long = np.flatnonzero(episodes.lengths > steps)
    if len(long) < 5:
        return float("nan")
    source = np.random.default_rng(seed)
    # Long episodes start at random rows, as in the simulator errors.
    spare = episodes.lengths[long] - steps
    repeats = max(2000 // len(long), 1)
    first = np.concatenate(
        [
            episodes.starts[long] + (source.random(len(long)) * spare).astype(np.int64)
            for _ in range(repeats)
        ]
    )[:5000]
    owner = np.tile(np.arange(len(long)), repeats)[:5000]
    places = _rows(real, rows=starts, seed=seed)
    scale = np.asarray(real.observations[_rows(real, rows=20_000, seed=seed)], np.float64).std(0)
    scale = np.where(scale > 0, scale, 1.0)
    candidates = torch.from_numpy((episodes.observations[first] / scale).astype(np.float32))
    queries = torch.from_numpy((real.observations[places] / scale).astype(np.float32))
    order = torch.cdist(queries, candidates).argsort(dim=1).numpy()
    # The nearest start of each trajectory.
    places_in = [np.unique(owner[row], return_index=True)[1] for row in order]
    near = np.stack([row[np.sort(i)[:5]] for row, i in zip(order, places_in, strict=True)])
    later = np.asarray(episodes.observations[first[near] + steps], np.float64) / scale
    return float(np.sqrt(((later - later.mean(axis=1, keepdims=True)) ** 2).mean()))


def _rows(episodes: Episodes, *, rows: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(rows_of(episodes))[:rows])


def _check_space(name: str, episodes: Episodes, real: Episodes) -> None:
    for field in ("observations", "actions"):
        size, expected = (getattr(e, field).shape[1] for e in (episodes, real))
        if size != expected:
            raise PgdiffError(
                f"The data set '{name}' must have as many features in `{field}` as the real "
                f"recording, {expected}. Got {size}. Compare data sets of one task."
            )


def _error(errors: StepErrors | None, measure: Callable[[StepErrors], float]) -> str:
    return "-" if errors is None else f"{measure(errors):.3f}"


def _later(errors: StepErrors) -> float:
    return errors.mean(10, 31) if len(errors.position) >= 10 else float("nan")


def _root(values: np.ndarray) -> float:
    return float(np.sqrt(_mean(values**2)))


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _likely(likelihood: PolicyLikelihood | ModelLikelihood | None) -> str:
    if likelihood is None:
        return "-"
    return f"{likelihood.mean:.2f} +- {likelihood.standard_error:.2f}"


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_value(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return [_json_value(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
