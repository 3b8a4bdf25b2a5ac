"""Rows against the simulator: each step from its own row, and whole replays."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float, Int

from pgdiff.data import Episodes
from pgdiff.data.transitions import TransitionDataset, rows_of, successors
from pgdiff.evaluation.checks import name_of
from pgdiff.validation import PgdiffError, check_positive_int, check_seed


@dataclass(frozen=True)
class StepErrors:
    """How far rows are from what the simulator makes of them, by position in their trajectory.

    Errors of observations are in units of `scale`, the standard deviation of a real recording's
    one-step changes, feature by feature; those of rewards in its rewards' standard deviations.

    Attributes:
        position: of each entry, from 1.
        count: rows compared there.
        observation: root mean square over rows and features.
        feature: `[positions, obs]`, root mean square over rows.
        reward: root mean square over rows.
        terminal: share of the rows whose terminal the simulator says too.
        standard_error: of `observation`, by the rows' mean squares.
    """

    position: Int[np.ndarray, " positions"]
    count: Int[np.ndarray, " positions"]
    observation: Float[np.ndarray, " positions"]
    feature: Float[np.ndarray, "positions obs"]
    reward: Float[np.ndarray, " positions"]
    terminal: Float[np.ndarray, " positions"]
    standard_error: Float[np.ndarray, " positions"]

    def mean(self, low: int, high: int) -> float:
        """Root mean square of `observation` over the positions from `low` to `high`."""
        chosen = (self.position >= low) & (self.position <= high)
        if not chosen.any():
            raise PgdiffError(f"There must be a position in [{low}, {high}]. Got none.")
        return float(np.sqrt(_mean(self.observation[chosen & np.isfinite(self.observation)] ** 2)))


@dataclass(frozen=True)
class Units:
    """What errors are measured in, of a real recording.

    Attributes:
        scale: `[obs]`, standard deviation of one-step changes; 1 where nothing changes.
        reward: standard deviation of rewards.
    """

    scale: Float[np.ndarray, " obs"]
    reward: float


def units(episodes: Episodes) -> Units:
    """Measure a recording's one-step changes and its rewards."""
    change = TransitionDataset(episodes).changes().astype(np.float64)
    if not len(change):
        raise PgdiffError("A recording must hold a row that another follows. Got none.")
    scale = change.std(axis=0)
    reward = float(np.asarray(episodes.rewards[rows_of(episodes)], np.float64).std())
    return Units(np.where(scale > 0, scale, 1.0), reward if reward > 0 else 1.0)


def step_errors(
    env: gym.Env[Any, Any],
    episodes: Episodes,
    *,
    units: Units,
    positions: int = 31,
    rows: int = 200,
    seed: int = 0,
) -> StepErrors:
    """Reset the simulator to each row's observation, take its action, and compare.

    Args:
        env: has `set_observation(observation)`, as `pgdiff_envs`' locomotion tasks do.
        episodes: trajectories; a recording's episodes are cut to `positions` rows from random rows
            on, so that they are compared alike.
        units: of a real recording.
        positions: how far into a trajectory.
        rows: compared at each position, at most; those that do not tell their state are left out.
        seed: of the choice of trajectories.

    Raises:
        PgdiffError: an environment that cannot be reset to an observation.
    """
    check_positive_int("positions", positions)
    starts, counts = _trajectories(episodes, positions=positions, rows=rows, seed=seed)
    found = []
    for position in range(positions):
        there = starts[counts > position] + position
        if not len(there):
            break
        there = there[told_state(env, episodes, there)]
        next_observations, rewards, ended = simulated(env, episodes, there)
        found.append(_compared(episodes, there, next_observations, rewards, ended, units))
    return _gathered(found)


def replay_errors(
    env: gym.Env[Any, Any],
    episodes: Episodes,
    *,
    units: Units,
    positions: int = 31,
    rows: int = 200,
    seed: int = 0,
) -> StepErrors:
    """Reset the simulator to each trajectory's first row, and let its actions run on from there.

    The entry at position k compares the trajectory's observation after k actions with the
    simulator's. A replay that the simulator ends before counts no further, and one from a row that
    does not tell its state is left out.

    Raises:
        PgdiffError: an environment that cannot be reset to an observation.
    """
    check_positive_int("positions", positions)
    starts, counts = _trajectories(episodes, positions=positions, rows=rows, seed=seed)
    task = _task(env)
    told = told_state(env, episodes, starts)
    starts, counts = starts[told], counts[told]
    parts: list[list[tuple[Any, ...]]] = [[] for _ in range(positions)]
    for start, count in zip(starts, counts, strict=True):
        env.reset(seed=0)
        task.set_observation(episodes.observations[start])
        for position in range(min(count, positions)):
            row = start + position
            after, reward, over, _, _ = env.step(_action(env, episodes.actions[row]))
            parts[position].append((row, np.array(after), reward, over))
            if over:
                break
    found = []
    for part in parts:
        if not part:
            break
        there, observations, rewards, ended = zip(*part, strict=True)
        found.append(
            _compared(
                episodes,
                np.array(there),
                np.array(observations),
                np.array(rewards, np.float64),
                np.array(ended),
                units,
            )
        )
    return _gathered(found)


def simulated(
    env: gym.Env[Any, Any], episodes: Episodes, rows: Int[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, "rows obs"], Float[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """What the simulator makes of rows: next observations, rewards and terminals."""
    task = _task(env)
    env.reset(seed=0)
    observations = np.empty((len(rows), episodes.observations.shape[1]))
    rewards, ended = np.empty(len(rows)), np.empty(len(rows), bool)
    for number, row in enumerate(rows):
        task.set_observation(episodes.observations[row])
        observations[number], rewards[number], ended[number], truncated, _ = env.step(
            _action(env, episodes.actions[row])
        )
        if truncated:
            env.reset(seed=0)
    return observations, rewards, ended


def told_state(
    env: gym.Env[Any, Any], episodes: Episodes, rows: Int[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    """Whether rows tell the simulator's state, by the task's `tells_state`, where it has that."""
    task = _task(env)
    if not hasattr(task, "tells_state"):
        return np.ones(len(rows), np.bool_)
    told: np.ndarray = task.tells_state(episodes.observations[rows])
    return told


def _task(env: gym.Env[Any, Any]) -> Any:
    task = env.unwrapped
    if not hasattr(task, "set_observation"):
        raise PgdiffError(
            "`env` must have set_observation(observation), which resets its simulator exactly. Got "
            f"'{name_of(env)}' without it; pgdiff_envs' locomotion and maze tasks have it."
        )
    return task


def _action(env: gym.Env[Any, Any], action: np.ndarray) -> np.ndarray:
    return np.asarray(action, env.action_space.dtype)


def _trajectories(
    episodes: Episodes, *, positions: int, rows: int, seed: int
) -> tuple[Int[np.ndarray, " chosen"], Int[np.ndarray, " chosen"]]:
    """First rows of some trajectories, and how many of their rows are told the next observation."""
    check_positive_int("rows", rows)
    source = np.random.default_rng(check_seed("seed", seed))
    # A long episode is entered anywhere, and again where there are few; one of a generator, which
    # is as long as a trajectory, once.
    rounds = -(-rows // len(episodes))
    chosen = np.concatenate([source.permutation(len(episodes)) for _ in range(rounds)])
    spare = np.maximum(episodes.lengths[chosen] - positions - 1, 0)
    kept = (spare > 0) | (np.arange(len(chosen)) < len(episodes))
    chosen, spare = chosen[kept][:rows], spare[kept][:rows]
    first = episodes.starts[chosen] + (source.random(len(chosen)) * (spare + 1)).astype(np.int64)
    ends = episodes.ends[chosen]
    told = ends - first
    if episodes.next_observations is None:
        told = told - ~episodes.terminals[ends - 1]
    return first, told


def _compared(
    episodes: Episodes,
    rows: np.ndarray,
    observations: np.ndarray,
    rewards: np.ndarray,
    ended: np.ndarray,
    units: Units,
) -> tuple[Any, ...]:
    terminals = episodes.terminals[rows]
    ahead = 0 if episodes.next_observations is not None else 1
    # A terminal row is told no next observation.
    ongoing = ~terminals
    said = successors(episodes)[rows[ongoing] + ahead]
    squared = ((np.asarray(said, np.float64) - observations[ongoing]) / units.scale) ** 2
    reward = (np.asarray(episodes.rewards[rows], np.float64) - rewards) / units.reward
    return squared, reward**2, terminals == ended, len(rows)


def _gathered(found: list[tuple[Any, ...]]) -> StepErrors:
    squares = [part[0] for part in found]
    means = [part.mean(axis=1) if len(part) else np.array([np.nan]) for part in squares]
    error = np.array([np.sqrt(part.mean()) for part in means])
    spread = np.array([part.std() / np.sqrt(len(part)) for part in means])
    return StepErrors(
        position=np.arange(1, len(found) + 1),
        count=np.array([part[3] for part in found]),
        observation=error,
        feature=np.array(
            [
                np.sqrt(part.mean(axis=0)) if len(part) else np.full(part.shape[1], np.nan)
                for part in squares
            ]
        ),
        reward=np.array([np.sqrt(_mean(part[1])) for part in found]),
        terminal=np.array([_mean(part[2]) for part in found]),
        # Of a root: the error of its square, over twice the root.
        standard_error=spread / np.maximum(2 * error, 1e-12),
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
