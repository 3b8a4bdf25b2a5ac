"""Rollouts of an agent in a Gymnasium environment, many episodes in parallel in one process."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from pgdiff.agents.sb3.live import of_raw_observations
from pgdiff.core.validation import (
    PgdiffError,
    check_flag,
    check_part,
    check_positive_int,
    check_seed,
)
from pgdiff.evaluation import checks
from pgdiff.evaluation.plain import json_value
from pgdiff.evaluation.progress import Progress
from pgdiff.evaluation.results import GOAL_FROM_RESET, Evaluation, machine
from pgdiff.evaluation.scoring import Scores, Scoring
from pgdiff.evaluation.tally import Tally
from pgdiff.evaluation.time_limits import check_length, check_limited
from pgdiff.evaluation.wrappers import TaskRewards


def stack_observations(observations: Sequence[Any]) -> Any:
    """Stack observations into a new batch; for Dict observations, each of their arrays."""
    first = observations[0]
    if isinstance(first, dict):
        return {
            key: stack_observations([observation[key] for observation in observations])
            for key in first
        }
    return np.stack([np.asarray(observation) for observation in observations])


def copy_arrays(value: Any) -> Any:
    """Copy the arrays in a value, which an environment may overwrite in its next step.

    Mappings, lists and tuples are copied recursively; other objects are returned unchanged.
    """
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {key: copy_arrays(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(copy_arrays(inner) for inner in value)
    return value


def flat_observation(agent: Any, env: gym.Env[Any, Any]) -> Callable[[Any], np.ndarray]:
    """Return a function that flattens an observation: a Dict to one vector, an array unchanged."""
    space = env.observation_space
    if not isinstance(space, gym.spaces.Dict):
        return np.asarray
    layout = getattr(agent, "observation_layout", None)
    if layout is not None:
        return lambda observation: np.asarray(layout.flatten(observation)[0])
    return lambda observation: np.asarray(gym.spaces.flatten(space, observation))


def reset_goal(agent: Any, observation: Any, info: Mapping[str, Any]) -> Any:
    """Return a copy of a reset's goal, from its info or its Dict observation; None without a goal.

    It is a copy because environments may overwrite the goal in place.
    """
    layout = getattr(agent, "observation_layout", None)
    if info.get("goal") is None and layout is not None and isinstance(observation, Mapping):
        return copy.deepcopy(layout.flatten(observation)[1])
    return copy.deepcopy(info.get("goal"))


def reset_values(agent: Any, observation: Any, info: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of a reset's values of the agent's `condition_keys`; None if missing."""
    keys = getattr(agent, "condition_keys", ())
    values = {key: copy.deepcopy(info.get(key)) for key in keys}
    return values | ({"goal": reset_goal(agent, observation, info)} if "goal" in keys else {})


MakeEnv = Callable[[], gym.Env[Any, Any]]


class Agent(Protocol):
    """Protocol of agents: `predict` on a batch of observations, as in Stable-Baselines3.

    `evaluate` also uses these optional attributes and methods:

    - `initial_state(seeds)`: returns a state for a batch whose row i draws its noise from
      `seeds[i]` alone. The state must keep these seeds when `episode_start` is True in the first
      call.
    - `condition_keys`: names of the values that the agent needs from each episode, such as
      "goal". They come from the reset's info and are passed as `initial_state(seeds, condition)`,
      a mapping of names to arrays of shape `[environments, ...]`. An agent with an
      `observation_layout` that names a goal reads the goal from its observations instead.
    - `keep_rows(state, rows)`: returns the state of these rows of the batch. With it, environments
      whose episodes have ended leave the batch; without it, they stay until all have ended.
    - `plans_made`: running count of plans, for plans per second.
    - `missing_level`: not None if the agent accepts missing observations (all entries NaN), as
      `NoisyObservations` returns them; otherwise they raise an error.
    - `observation_shape`, `action_shape`, or Gymnasium's `observation_space`, `action_space`:
      compared with the environment before the first step. Dict observations need an
      `observation_layout`, or an `observation_space` that is a Dict; each array then has a batch
      axis.

    Example:
        >>> from pgdiff.evaluation import Agent
        >>> class PushLeft:
        ...     def predict(self, observation, state=None, episode_start=None, deterministic=False):
        ...         return np.zeros(len(observation), int), state
        >>> agent: Agent = PushLeft()
        >>> agent.predict(np.zeros((2, 4)))[0]
        array([0, 0])
    """

    def predict(
        self,
        observation: Any,
        /,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """Return actions [batch, ...] and the next state for observations [batch, obs]."""
        ...


def evaluate(
    agent: Agent,
    make_env: MakeEnv,
    *,
    episodes: int,
    seed: int = 0,
    parallel: int = 50,
    deterministic: bool = True,
    progress: bool = True,
    record: int = 0,
    reset_options: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Run complete episodes and return their returns, scores, successes and speed.

    Episode i resets its environment with `seed + i`. Up to `parallel` environments are stepped
    together, and their observations are passed to the agent as one batch. An environment whose
    episode has ended is not stepped again: it leaves the batch if the agent has `keep_rows`, else
    its last observation stays in the batch until all episodes have ended. An agent with
    `initial_state` gets the same seeds, so an episode does not depend on the others in its batch,
    except for the rounding of networks, which varies with the batch size.

    The observations of a Stable-Baselines3 model that was trained with `VecNormalize` are scaled
    by its statistics. Pass `model.policy` to evaluate it on raw observations.

    Args:
        agent: the agent; see `Agent` for its optional methods.
        make_env: makes one environment with a time limit; called at most `parallel` times. If the
            time limit is unknown, an episode may have 10,000 steps.
        episodes: number of episodes.
        seed: seed of the first episode.
        parallel: maximum number of environments at a time. Larger values are faster and need more
            memory.
        deterministic: passed to `predict`.
        progress: True to show a progress bar.
        record: number of first episodes whose observations are kept.
        reset_options: passed to every `env.reset(options=...)`, such as the cell of a goal.

    Raises:
        PgdiffError: if the environment's spaces do not fit the agent, episodes do not end, an
            action has a wrong shape or is not finite, or the environment returns an observation or
            reward that is not finite, uses Gym's older interface, or lacks a value of the
            agent's `condition_keys`.

    Example:
        >>> from types import SimpleNamespace
        >>> from pgdiff.evaluation import evaluate
        >>> idle = SimpleNamespace(predict=lambda obs, state, **_: (np.zeros(len(obs), int), state))
        >>> make_env = lambda: gym.make("CartPole-v1")
        >>> result = evaluate(idle, make_env, episodes=5, progress=False)
        >>> result.returns.shape, result.plans
        ((5,), None)
    """
    episodes = check_positive_int("episodes", episodes)
    seed = check_seed("seed", seed)
    check_seed("seed + episodes", seed + episodes)
    parallel = check_positive_int("parallel", parallel)
    record = check_positive_int("record", record, minimum=0)
    options: dict[str, Any] = {
        "episodes": episodes,
        "seed": seed,
        "parallel": parallel,
        "deterministic": check_flag("deterministic", deterministic),
    }
    if reset_options is not None:
        check_part("reset_options", reset_options, Mapping)
        options["reset_options"] = json_value(reset_options)
    envs: list[gym.Env[Any, Any]] = []
    task_rewards: list[TaskRewards] = []
    tallies: list[Tally] = []
    agent_seconds = 0.0
    begin = time.perf_counter()
    try:
        for _ in range(min(parallel, episodes)):
            envs.append(_make_env(make_env))
        acting = of_raw_observations(agent, envs[0])
        for env in envs:
            checks.check_spaces(acting, env)
            task_rewards.append(TaskRewards(env))
        plans_before = _plans_made(acting)
        scoring = Scoring(envs[0])
        settings = _settings(agent, acting, envs[0], scoring) | options
        with Progress(episodes=episodes, limit=scoring.limit, disable=not progress) as bar:
            for first in range(0, episodes, parallel):
                batch = _Batch(
                    acting,
                    envs,
                    task_rewards,
                    seeds=range(seed + first, seed + min(first + parallel, episodes)),
                    record=max(0, record - first),
                    touch_reward=scoring.touch_reward,
                    reset_options=reset_options,
                )
                agent_seconds += batch.run(options["deterministic"], bar)
                tallies += batch.tallies
        scores = scoring.scores(tallies)
        plans_after = _plans_made(acting)
    finally:
        for recorder in task_rewards:
            recorder.release()
        for env in envs:
            env.close()
    plans = None if plans_before is None or plans_after is None else plans_after - plans_before
    return _evaluation(
        tallies,
        scores,
        settings=settings,
        plans=plans,
        agent_seconds=agent_seconds,
        seconds=time.perf_counter() - begin,
    )


def _make_env(make_env: MakeEnv) -> gym.Env[Any, Any]:
    """Make and check an environment; close it if a check fails."""
    env = make_env()
    checks.check_env(env)
    try:
        check_limited(env, name="make_env")
    except PgdiffError:
        env.close()
        raise
    return env


def _settings(agent: Any, acting: Any, env: gym.Env[Any, Any], scoring: Scoring) -> dict[str, Any]:
    """Return the settings that an evaluation depends on, besides the caller's numbers."""
    options = checks.changed_options(env)
    name = checks.env_name(env)
    settings: dict[str, Any] = {
        # Other arguments make it a different task in tables and comparisons.
        "env": f"{name} with {options}" if options else name,
        "wrappers": checks.wrapper_settings(env),
        "reference_scores": scoring.reference,
        "agent": type(agent).__name__,
        "goal": GOAL_FROM_RESET if "goal" in _condition_keys(acting, env) else None,
    }
    others = [key for key in _condition_keys(acting, env) if key != "goal"]
    if others:
        settings["condition_keys"] = others
    if options:
        settings["env_options"] = options
    if acting is not agent:
        settings["agent_observations"] = "scaled by the agent's VecNormalize"
    return settings


def _evaluation(
    tallies: Sequence[Tally],
    scores: Scores,
    *,
    settings: dict[str, Any],
    plans: int | None,
    agent_seconds: float,
    seconds: float,
) -> Evaluation:
    successes = [tally.success for tally in tallies]
    reported = None not in successes
    return Evaluation(
        returns=np.array([tally.total for tally in tallies]),
        normalized_scores=scores.normalized,
        successes=np.array(successes, dtype=bool) if reported else None,
        steps_to_goal=np.array([tally.first_success for tally in tallies]) if reported else None,
        goals=_stack_goals(tallies),
        lengths=np.array([tally.length for tally in tallies]),
        seconds=seconds,
        agent_seconds=agent_seconds,
        plans=plans,
        trajectories=[np.stack(t.trajectory) for t in tallies if t.trajectory is not None],
        settings=settings,
        machine=machine(),
        scores_if_stay=scores.if_stay,
        first_touch=scores.first_touch,
        notes=scores.notes,
    )


class _Batch:
    """One episode in every environment, stepped together.

    Args:
        agent: the agent.
        envs: the environments; one for each seed is used.
        task_rewards: rewards below the wrappers of each environment.
        seeds: seeds of the episodes.
        record: number of first episodes whose observations are kept.
        touch_reward: see `Scoring`.
        reset_options: options of every reset.
    """

    def __init__(
        self,
        agent: Agent,
        envs: Sequence[gym.Env[Any, Any]],
        task_rewards: Sequence[TaskRewards],
        *,
        seeds: Sequence[int],
        record: int,
        touch_reward: float | None,
        reset_options: Mapping[str, Any] | None,
    ) -> None:
        self.agent, self.envs, self.task_rewards, self.seeds = agent, envs, task_rewards, seeds
        self.flat = flat_observation(agent, envs[0])
        self.observations: list[Any] = []
        self.infos: list[dict[str, Any]] = []
        self.tallies: list[Tally] = []
        for i, seed in enumerate(seeds):
            observation, info = checks.reset(envs[i], seed, reset_options)
            self.observations.append(copy_arrays(observation))
            keys = _condition_keys(agent, envs[0])
            self.infos.append({key: copy.deepcopy(info.get(key)) for key in keys})
            self.tallies.append(
                Tally(
                    goal=reset_goal(agent, observation, info),
                    touch_reward=touch_reward,
                    trajectory=[self.flat(observation).copy()] if i < record else None,
                )
            )
            task_rewards[i].restart()

    def run(self, deterministic: bool, bar: Progress) -> float:
        """Run the episodes until all have ended; return the seconds spent in `predict`."""
        agent: Any = self.agent
        state = _initial_state(agent, self.seeds, self.infos, self.envs[0])
        keep_rows = getattr(agent, "keep_rows", None)
        rows = list(range(len(self.seeds)))  # environments that are in the batch
        starts = np.ones(len(rows), dtype=bool)
        seconds, number = 0.0, 0
        while not all(tally.done for tally in self.tallies):
            number += 1
            observations = stack_observations([self.observations[row] for row in rows])
            begin = time.perf_counter()
            actions, state = agent.predict(
                observations, state=state, episode_start=starts, deterministic=deterministic
            )
            seconds += time.perf_counter() - begin
            actions = checks.validate_actions(actions, self.envs[0], len(rows))
            stepped = [row for row in rows if not self.tallies[row].done]
            for row, action in zip(rows, actions, strict=True):
                if not self.tallies[row].done:
                    self._step(row, action, number)
            ended = [self.tallies[row].length for row in stepped if self.tallies[row].done]
            bar.advance(len(stepped), ended=ended)
            if keep_rows is not None and 0 < len(ended) < len(rows):
                going = [place for place, row in enumerate(rows) if not self.tallies[row].done]
                state = keep_rows(state, going)
                rows = [rows[place] for place in going]
            starts = np.zeros(len(rows), dtype=bool)
        return seconds

    def _step(self, row: int, action: Any, number: int) -> None:
        """Step one environment and count the step."""
        env, tally, seed = self.envs[row], self.tallies[row], self.seeds[row]
        task_rewards = self.task_rewards[row]
        gaps = getattr(self.agent, "missing_level", None) is not None
        observation, reward, ended, info = checks.step(
            env, action, seed=seed, number=number, gaps=gaps
        )
        self.observations[row] = copy_arrays(observation)
        tally.add(reward, ended, info)
        if tally.trajectory is not None:
            tally.trajectory.append(self.flat(observation).copy())
        if not math.isfinite(tally.total):
            raise PgdiffError(
                "The environment's rewards must have a finite sum. The sum of "
                f"'{checks.env_name(env)}' is not finite after step {number} of the episode with "
                f"seed {seed}."
            )
        if not ended:
            episode = f"the episode with seed {seed}"
            check_length(env, tally.length, name="make_env", episode=episode)
        elif task_rewards.active:
            tally.rewards_changed = not math.isclose(
                task_rewards.total, tally.total, rel_tol=1e-6, abs_tol=1e-9
            )
            tally.steps_changed = task_rewards.steps != tally.length


def _initial_state(
    agent: Any, seeds: Sequence[int], infos: Sequence[dict[str, Any]], env: gym.Env[Any, Any]
) -> Any:
    if not hasattr(agent, "initial_state"):
        return None
    keys = _condition_keys(agent, env)
    if keys:
        condition = checks.stack_condition(infos, seeds, env, keys)
        return agent.initial_state(list(seeds), condition)
    return agent.initial_state(list(seeds))


def _condition_keys(agent: Any, env: gym.Env[Any, Any]) -> tuple[str, ...]:
    """Return the names of the values that the resets must pass to the agent.

    An agent whose layout of a Dict observation names a goal reads it from the observations.
    """
    layout = getattr(agent, "observation_layout", None)
    in_observations = isinstance(env.observation_space, gym.spaces.Dict) and (
        getattr(layout, "goal", None) is not None
    )
    keys = getattr(agent, "condition_keys", ())
    return tuple(key for key in keys if key != "goal" or not in_observations)


def _stack_goals(tallies: Sequence[Tally]) -> Float[np.ndarray, "episodes goal"] | None:
    """Return the goals of all episodes; None if one is missing or their shapes differ."""
    if any(tally.goal is None for tally in tallies):
        return None
    try:
        goals = np.stack([np.asarray(tally.goal, dtype=np.float64).ravel() for tally in tallies])
    except (TypeError, ValueError):
        return None
    return goals if np.isfinite(goals).all() else None


def _plans_made(agent: Agent) -> int | None:
    made = getattr(agent, "plans_made", None)
    return None if made is None else int(made)
