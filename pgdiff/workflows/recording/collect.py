"""Recording of an agent in a Gymnasium environment to a D4RL HDF5 file."""

import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

from pgdiff.agents.sb3.live import of_raw_observations
from pgdiff.core.pretrained import seeded_torch
from pgdiff.core.validation import PgdiffError, check_positive_int, check_seed, user_path
from pgdiff.evaluation.checks import step_values
from pgdiff.evaluation.time_limits import check_length, check_limited
from pgdiff.workflows.recording.recorder import Agent, Recording, check_new


def collect(
    env: gymnasium.Env[Any, Any],
    path: str | os.PathLike[str],
    *,
    steps: int,
    seed: int,
    expert: Agent | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Record `steps` steps of an agent in D4RL's HDF5 fields, as an atomic file.

    A recorder (an agent with a `goal`, such as `env.unwrapped.expert(seed)`) makes one long walk in
    `env.unwrapped`, without time limits: a change of its goal does not end an episode, and only the
    last row is marked in `timeouts`. As in D4RL, which relabels its maze2d recordings
    (`scripts/generation/relabel_maze2d_rewards.py`), `rewards[t]` is the reward of
    `observations[t]`, the state in which action t is taken, for the goal of the environment. It is
    the reward of the previous step, so the first step after the reset is made but not recorded.
    (D4RL's recorder also repeats the old observation after each change of goal; this one does not.)
    An environment that draws a goal at every reset (`env.unwrapped.random_goal`) gets the goal of
    the recorder instead; `rewards[t]` then belongs to the goal in `infos/goal[t - 1]`, which was
    pursued in the previous step.

    Any other agent acts in `env` itself, episode by episode. `rewards[t]` is then the reward of
    the step from row t, `next_observations[t]` its resulting observation, `terminals` and
    `timeouts` are Gymnasium's terminated and truncated, and the last row is marked as a timeout
    unless it ends an episode. The file's attribute `reward_of` is "observation" for a recorder and
    "transition" for any other agent.

    Args:
        env: environment with flat observation and action spaces; a recorder ignores its wrappers.
        path: the HDF5 file to write.
        steps: number of rows to record.
        seed: seed of the environment and the expert; equal seeds give equal bytes.
        expert: the agent; by default `env.unwrapped.expert(seed)`.
        progress: show a progress bar.
        overwrite: replace an existing file.

    Returns:
        The path of the file.

    Raises:
        PgdiffError: an argument is out of range, the file exists, the environment has no expert or
            its spaces are not flat, or it returns values that are not finite.
    """
    steps = check_positive_int("steps", steps)
    seed = check_seed("seed", seed)
    path = user_path(path)
    check_new(path, overwrite=overwrite)
    if expert is None:
        if not hasattr(env.unwrapped, "expert"):
            raise PgdiffError("`env` does not provide a recording expert. Pass `expert`.")
        expert = env.unwrapped.expert(seed)
    if not callable(getattr(expert, "predict", None)):
        raise PgdiffError(f"`expert` must have a method `predict`. Got {type(expert).__name__}.")
    walk = hasattr(expert, "goal")
    if not walk:
        check_limited(env, name="env")
        expert = of_raw_observations(expert, env)
    recording = Recording(env, steps, goal=getattr(expert, "goal", None))
    # Stable-Baselines3's policies draw from torch's global generator.
    with (
        seeded_torch(seed=seed),
        tqdm(total=steps, desc="recording", unit="step", disable=not progress) as bar,
    ):
        record = _record_walk if walk else _record_episodes
        record(env, expert, recording, seed, bar)
    return recording.write(
        path, {"reward_of": "observation" if walk else "transition", "seed": seed}
    )


_REPORT = 1000


def _record_walk(
    env: gymnasium.Env[Any, Any], expert: Any, rows: Recording, seed: int, bar: "tqdm[Any]"
) -> None:
    """Fill the rows with one uninterrupted walk of a recorder."""
    task = env.unwrapped
    follow = bool(getattr(task, "random_goal", False))
    observation, _ = task.reset(seed=seed)
    state, reward = None, 0.0
    pursued: tuple[float, ...] = ()
    start = np.ones(1, np.bool_)
    for row in range(-1, len(rows)):  # row -1 is the reset state, which has no reward
        # A copy, because an agent may scale its input in place.
        action, state = expert.predict(np.array(observation), state=state, episode_start=start)
        start = np.zeros(1, np.bool_) if row == -1 else start
        if follow and (goal := tuple(expert.goal)) != pursued:
            task.set_goal(expert.goal)  # type: ignore[attr-defined]
            pursued = goal
        if row >= 0:
            rows.put(row, observation, action)
            rows.rewards[row] = reward
            rows.goal[row] = expert.goal  # type: ignore[index]
            if row % _REPORT == _REPORT - 1:
                bar.update(_REPORT)
        observation, reward, terminated, _, _ = step_values(task, action, f"in step {row + 1}")
        if terminated:
            raise PgdiffError(
                f"The environment must not terminate during a recorder's walk. It did at step "
                f"{row + 1}. Pass an `expert` without the attribute `goal`."
            )
    rows.timeouts[-1] = True
    bar.update(len(rows) % _REPORT)


def _record_episodes(
    env: gymnasium.Env[Any, Any], agent: Agent, rows: Recording, seed: int, bar: "tqdm[Any]"
) -> None:
    """Fill the rows with the episodes of the environment."""
    observation, _ = env.reset(seed=seed)
    state: Any = None
    start = np.ones(1, np.bool_)
    length = 0
    for row in range(len(rows)):
        # A copy, because an agent may scale its input in place.
        action, state = agent.predict(np.array(observation), state=state, episode_start=start)
        rows.put(row, observation, action)
        observation, reward, terminated, truncated, _ = step_values(
            env, action, f"in step {row + 1} of the recording"
        )
        assert rows.next_observations is not None
        rows.next_observations[row] = observation
        rows.rewards[row] = reward
        rows.terminals[row] = terminated
        rows.timeouts[row] = truncated
        start = np.array([terminated or truncated])
        length = 0 if start[0] else length + 1
        check_length(env, length, name="env", episode=f"the episode of row {row}")
        if start[0]:
            observation, _ = env.reset()
            state = None
        if row % _REPORT == _REPORT - 1:
            bar.update(_REPORT)
    rows.timeouts[-1] |= not rows.terminals[-1]
    bar.update(len(rows) % _REPORT)
