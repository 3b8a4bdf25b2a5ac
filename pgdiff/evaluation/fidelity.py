"""How true generated experience is: against the simulator, the real rows, and the policies."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from pgdiff.data import Episodes
from pgdiff.data.transitions import rows_of
from pgdiff.evaluation.coverage import Coverage, Space, copies, coverage
from pgdiff.evaluation.marginals import marginals
from pgdiff.evaluation.model_likelihood import ModelLikelihood, model_likelihood
from pgdiff.evaluation.policy_likelihood import PolicyLikelihood, policy_likelihood
from pgdiff.evaluation.simulated import StepErrors, replay_errors, step_errors, told_state, units
from pgdiff.validation import PgdiffError, check_positive_int

HELD_OUT = "real, held out"


@dataclass(frozen=True)
class Column:
    """What was found of one data set.

    Attributes:
        rows: of the data set.
        trajectories: of the data set.
        steps: one-step errors by position; None where the simulator cannot be set.
        replay: errors of open-loop replays by position, likewise.
        told: share of rows that tell the simulator's state; the others are left out of the errors.
        coverage: density, coverage, precision and recall against held-out real rows.
        copied: share of rows nearer to a training row than all but 1 % of the held-out rows are.
        nearest: median distance to a training row, over the held-out rows'.
        kolmogorov_smirnov: of the features of a row, the greatest.
        wasserstein: of the features, the mean, in their standard deviations.
        correlation: greatest difference of a correlation of two features.
        spread: see `spread_by_start`.
        terminals: share of rows that are terminal.
        likelihood: of actions, by the name of a policy; see `policy_likelihood`.
        model_likelihood: see `model_likelihood`; None without a model.
    """

    rows: int
    trajectories: int
    steps: StepErrors | None
    replay: StepErrors | None
    told: float | None
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
        """Plain values, ready for JSON; None for what is no number."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


@dataclass(frozen=True)
class Fidelity:
    """Data sets side by side.

    Attributes:
        columns: by name; the first is of real rows that were held out.
        features: what a row is compared by, in words.
        exact: whether the simulator was set to observations.
    """

    columns: Mapping[str, Column]
    features: str
    exact: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "features": self.features,
            "exact": self.exact,
            "columns": {name: column.to_dict() for name, column in self.columns.items()},
        }

    def table(self) -> str:
        """A row of words and figures for each measure, a column for each data set."""
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
            ("rows that tell the state", lambda c: "-" if c.told is None else f"{c.told:.3f}"),
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
            ("spread from like starts", lambda c: f"{c.spread:.3f}"),
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
                f"{say(column):>{max(14, len(head))}}" for head, column in self.columns.items()
            )
            for name, say in lines
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

    Of the recording a share of whole episodes is set apart: with the share and the seed of its
    `validation` those that the trainer set apart. They are a column of their own, which says what
    the measures are of real rows.

    Args:
        real: the recording that the model learned from.
        generated: data sets by name.
        env: whose simulator is set to observations; None to leave that out.
        policies: have `log_prob(observation, action)`, by name; the target, the behaviour.
        model: a `TrajectoryDiffusion` whose density of segments is asked; None for none.
        held_out: share of the real episodes; the trainer's `validation` is 0.05 too.
        positions: steps of a trajectory that go into the errors.
        rows: simulated at each position, at most.
        points: drawn from each data set to compare rows with, as many as the smallest has at most;
            from the training rows 20 times as many.
        neighbours: k of density and coverage.
        seed: of the split and of all draws.

    Raises:
        PgdiffError: data sets of different spaces, or an environment that cannot be set.
    """
    check_positive_int("points", points)
    if not generated:
        raise PgdiffError("`generated` must hold at least one data set. Got none.")
    if HELD_OUT in generated:
        raise PgdiffError(f"`generated` must not use the name '{HELD_OUT}'.")
    for name, episodes in generated.items():
        _check_space(name, episodes, real)
    training, apart = real.split(held_out, seed=seed)
    space = Space.fit(training, seed=seed)
    unit = units(training)
    known = space.rows(training, rows=20 * points, seed=seed)
    every = {HELD_OUT: apart, **generated}
    # Of equally many each: density and coverage depend on how many there are.
    points = min(len(space.rows(episodes, rows=points)) for episodes in [training, *every.values()])
    reference = space.rows(apart, rows=points, seed=seed)
    columns: dict[str, Column] = {}
    for name, episodes in every.items():
        drawn = space.rows(episodes, rows=points, seed=seed + 1)
        against = reference
        if name == HELD_OUT:  # compared with other real rows, of the training
            against = known[np.linspace(0, len(known) - 1, points).astype(int)]
        alike = marginals(against, drawn)
        near = copies(drawn, known, reference)
        chosen: dict[str, Any] = {"units": unit, "positions": positions, "rows": rows, "seed": seed}
        ends = int(episodes.terminals[episodes.ends - 1].sum())
        columns[name] = Column(
            rows=int(episodes.lengths.sum()),
            trajectories=len(episodes),
            steps=None if env is None else step_errors(env, episodes, **chosen),
            replay=None if env is None else replay_errors(env, episodes, **chosen),
            told=None
            if env is None
            else float(told_state(env, episodes, _rows(episodes, rows=20_000, seed=seed)).mean()),
            coverage=coverage(against, drawn, neighbours=neighbours),
            copied=near.generated,
            nearest=near.median,
            kolmogorov_smirnov=float(alike.kolmogorov_smirnov.max()),
            wasserstein=float(alike.wasserstein.mean()),
            correlation=alike.correlation,
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
    """How different trajectories from like starts become, in the real observations' deviations.

    For random real observations the five trajectories that start nearest are taken, and the root
    mean square of their observations' deviation from their own mean is read `steps` rows on. NaN
    where fewer than five trajectories are that long.

    Args:
        episodes: trajectories.
        real: gives the random observations and the unit.
        steps: after which it is read.
        starts: random observations.
        seed: of the draw.
    """
    long = np.flatnonzero(episodes.lengths > steps)
    if len(long) < 5:
        return float("nan")
    source = np.random.default_rng(seed)
    # Long episodes are entered anywhere, as the simulator's checks do.
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
    begun = torch.from_numpy((episodes.observations[first] / scale).astype(np.float32))
    asked = torch.from_numpy((real.observations[places] / scale).astype(np.float32))
    order = torch.cdist(asked, begun).argsort(dim=1).numpy()
    # Of each trajectory where it is entered nearest.
    places_in = [np.unique(owner[row], return_index=True)[1] for row in order]
    near = np.stack([row[np.sort(i)[:5]] for row, i in zip(order, places_in, strict=True)])
    then = np.asarray(episodes.observations[first[near] + steps], np.float64) / scale
    return float(np.sqrt(((then - then.mean(axis=1, keepdims=True)) ** 2).mean()))


def _rows(episodes: Episodes, *, rows: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(rows_of(episodes))[:rows])


def _check_space(name: str, episodes: Episodes, real: Episodes) -> None:
    for field in ("observations", "actions"):
        found, wanted = (getattr(e, field).shape[1] for e in (episodes, real))
        if found != wanted:
            raise PgdiffError(
                f"The data set '{name}' must have the {wanted} features of the real {field}. "
                f"Got {found}."
            )


def _error(errors: StepErrors | None, say: Callable[[StepErrors], float]) -> str:
    return "-" if errors is None else f"{say(errors):.3f}"


def _later(errors: StepErrors) -> float:
    return errors.mean(10, 31) if len(errors.position) >= 10 else float("nan")


def _root(values: np.ndarray) -> float:
    return float(np.sqrt(_mean(values**2)))


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _likely(found: PolicyLikelihood | ModelLikelihood | None) -> str:
    return "-" if found is None else f"{found.mean:.2f} +- {found.standard_error:.2f}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
