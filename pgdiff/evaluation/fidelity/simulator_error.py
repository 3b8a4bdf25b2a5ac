"""Errors of recorded rows against the simulator: single steps and open-loop replays."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float, Int

from pgdiff.core.validation import PgdiffError, check_positive_int, check_seed
from pgdiff.data import Episodes
from pgdiff.data.transitions import TransitionDataset, rows_of, successors
from pgdiff.evaluation.checks import env_name


@dataclass(frozen=True)
class StepErrors:
    """Errors of rows against the simulator, by position in their trajectory.

    Errors of observations are divided by the standard deviation of a real recording's one-step
    changes, feature by feature; errors of rewards by the standard deviation of its rewards.

    Attributes:
        position: position of each entry, from 1.
        count: number of compared rows.
        observation: root mean square error over rows and features.
        feature: `[positions, obs]`, root mean square error over rows.
        reward: root mean square error over rows.
        terminal: share of rows whose terminal flag agrees with the simulator.
        standard_error: standard error of `observation`, from the rows' mean squares.
    """

    position: Int[np.ndarray, " positions"]
    count: Int[np.ndarray, " positions"]
    observation: Float[np.ndarray, " positions"]
    feature: Float[np.ndarray, "positions obs"]
    reward: Float[np.ndarray, " positions"]
    terminal: Float[np.ndarray, " positions"]
    standard_error: Float[np.ndarray, " positions"]

    def mean(self, low: int, high: int) -> float:
        """Return the root mean square of `observation` over the positions from `low` to `high`."""
        chosen = (self.position >= low) & (self.position <= high)
        if not chosen.any():
            raise PgdiffError(
                f"`low` and `high` must enclose a measured position. Got [{low}, {high}] and "
                f"positions up to {len(self.position)}."
            )
        return float(np.sqrt(_mean(self.observation[chosen & np.isfinite(self.observation)] ** 2)))


@dataclass(frozen=True)
class Units:
    """Units of errors, from a real recording.

    Attributes:
        scale: `[obs]`, standard deviation of one-step changes; 1 for a constant feature.
        reward: standard deviation of rewards; 1 for constant rewards.
    """

    scale: Float[np.ndarray, " obs"]
    reward: float


def error_units(episodes: Episodes) -> Units:
    """Compute the standard deviations of a recording's one-step changes and rewards."""
    change = TransitionDataset(episodes).changes().astype(np.float64)
    if not len(change):
        raise PgdiffError("A recording must hold a row with a next observation. Got none.")
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
    """Set the simulator to each row's observation, take the row's action, and compare the results.

    Args:
        env: environment with `set_observation(observation)`, such as the locomotion tasks of
            `pgdiff_envs`.
        episodes: trajectories. Long episodes are cut to `positions` rows from a random row, so
            recordings and generated trajectories are compared in the same way.
        units: error units of a real recording.
        positions: number of compared positions of each trajectory.
        rows: maximum number of rows compared at each position; rows that do not determine the
            simulator's state are left out.
        seed: seed of the choice of trajectories.

    Raises:
        PgdiffError: if the environment has no `set_observation`.
    """
    check_positive_int("positions", positions)
    starts, counts = _trajectories(episodes, positions=positions, rows=rows, seed=seed)
    errors = []
    for position in range(positions):
        chosen = starts[counts > position] + position
        if not len(chosen):
            break
        chosen = chosen[determines_state(env, episodes, chosen)]
        next_observations, rewards, ended = simulate_rows(env, episodes, chosen)
        errors.append(_compare(episodes, chosen, next_observations, rewards, ended, units))
    return _gather(errors)


def replay_errors(
    env: gym.Env[Any, Any],
    episodes: Episodes,
    *,
    units: Units,
    positions: int = 31,
    rows: int = 200,
    seed: int = 0,
) -> StepErrors:
    """Set the simulator to each trajectory's first row, and replay the trajectory's actions.

    The entry at position k compares the trajectory's observation after k actions with the
    simulator's. A replay counts only up to the step in which the simulator terminates. A replay
    from a row that does not determine the simulator's state is left out.

    Raises:
        PgdiffError: if the environment has no `set_observation`.
    """
    check_positive_int("positions", positions)
    starts, counts = _trajectories(episodes, positions=positions, rows=rows, seed=seed)
    task = _task(env)
    valid = determines_state(env, episodes, starts)
    starts, counts = starts[valid], counts[valid]
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
    errors = []
    for part in parts:
        if not part:
            break
        chosen, observations, rewards, ended = zip(*part, strict=True)
        errors.append(
            _compare(
                episodes,
                np.array(chosen),
                np.array(observations),
                np.array(rewards, np.float64),
                np.array(ended),
                units,
            )
        )
    return _gather(errors)


def simulate_rows(
    env: gym.Env[Any, Any], episodes: Episodes, rows: Int[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, "rows obs"], Float[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """Simulate one step from each row; return next observations, rewards and terminals."""
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


def determines_state(
    env: gym.Env[Any, Any], episodes: Episodes, rows: Int[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    """Return which rows determine the simulator's state, by the task's `tells_state`.

    All rows do if the task does not have this method.
    """
    task = _task(env)
    if not hasattr(task, "tells_state"):
        return np.ones(len(rows), np.bool_)
    result: np.ndarray = task.tells_state(episodes.observations[rows])
    return result


def _task(env: gym.Env[Any, Any]) -> Any:
    task = env.unwrapped
    if not hasattr(task, "set_observation"):
        raise PgdiffError(
            "`env` must have set_observation(observation), which sets its simulator exactly. Got "
            f"'{env_name(env)}' without it. Use a locomotion or maze task of pgdiff_envs, or no "
            "`env`."
        )
    return task


def _action(env: gym.Env[Any, Any], action: np.ndarray) -> np.ndarray:
    return np.asarray(action, env.action_space.dtype)


def _trajectories(
    episodes: Episodes, *, positions: int, rows: int, seed: int
) -> tuple[Int[np.ndarray, " chosen"], Int[np.ndarray, " chosen"]]:
    """Return first rows of random trajectories, and their numbers of rows with a successor."""
    check_positive_int("rows", rows)
    source = np.random.default_rng(check_seed("seed", seed))
    # A long episode starts at a random row, and is used again if there are few episodes. An episode
    # of a generator, which is as long as a trajectory, is used once.
    rounds = -(-rows // len(episodes))
    chosen = np.concatenate([source.permutation(len(episodes)) for _ in range(rounds)])
    spare = np.maximum(episodes.lengths[chosen] - positions - 1, 0)
    kept = (spare > 0) | (np.arange(len(chosen)) < len(episodes))
    chosen, spare = chosen[kept][:rows], spare[kept][:rows]
    first = episodes.starts[chosen] + (source.random(len(chosen)) * (spare + 1)).astype(np.int64)
    ends = episodes.ends[chosen]
    counts = ends - first
    if episodes.next_observations is None:
        counts = counts - ~episodes.terminals[ends - 1]
    return first, counts


def _compare(
    episodes: Episodes,
    rows: np.ndarray,
    observations: np.ndarray,
    rewards: np.ndarray,
    ended: np.ndarray,
    units: Units,
) -> tuple[Any, ...]:
    terminals = episodes.terminals[rows]
    offset = 0 if episodes.next_observations is not None else 1
    # A terminal row has no next observation.
    ongoing = ~terminals
    recorded = successors(episodes)[rows[ongoing] + offset]
    squared = ((np.asarray(recorded, np.float64) - observations[ongoing]) / units.scale) ** 2
    reward = (np.asarray(episodes.rewards[rows], np.float64) - rewards) / units.reward
    return squared, reward**2, terminals == ended, len(rows)


def _gather(errors: list[tuple[Any, ...]]) -> StepErrors:
    squares = [part[0] for part in errors]
    means = [part.mean(axis=1) if len(part) else np.array([np.nan]) for part in squares]
    error = np.array([np.sqrt(part.mean()) for part in means])
    spread = np.array([part.std() / np.sqrt(len(part)) for part in means])
    return StepErrors(
        position=np.arange(1, len(errors) + 1),
        count=np.array([part[3] for part in errors]),
        observation=error,
        feature=np.array(
            [
                np.sqrt(part.mean(axis=0)) if len(part) else np.full(part.shape[1], np.nan)
                for part in squares
            ]
        ),
        reward=np.array([np.sqrt(_mean(part[1])) for part in errors]),
        terminal=np.array([_mean(part[2]) for part in errors]),
        # Standard error of a root: the error of its square, divided by twice the root.
        standard_error=spread / np.maximum(2 * error, 1e-12),
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
