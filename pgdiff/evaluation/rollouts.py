"""Episodes of an agent in a Gymnasium environment, many side by side in one process."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from pgdiff.evaluation import checks
from pgdiff.evaluation.machine import machine
from pgdiff.evaluation.observations import flat_observation, goal_of, kept, stacked
from pgdiff.evaluation.results import Evaluation
from pgdiff.validation import check_positive_int, check_seed

MakeEnv = Callable[[], gym.Env[Any, Any]]


class Agent(Protocol):
    """Whatever acts by Stable-Baselines3's `predict` on a batch of observations.

    An agent may offer more, and `evaluate` uses it:

    - `initial_state(seeds)`: a state for a batch whose row i draws its noise from `seeds[i]` alone.
      The state must keep these seeds when `episode_start` is first True, which it is at once.
    - `wants_goal`: True for an agent that is to be told its goals. They come from the reset's
      `info["goal"]`, and `initial_state(seeds, goals)` gets them, `[environments, goal]`; an agent
      with an `observation_layout` that names a goal finds it in its observations instead.
    - `plans_made`: a running count of plans, for plans per second.
    - `missing_level`: not None for an agent that is ready for observations that are missing, NaN
      throughout, as `Disturbed` has them; else they are refused.
    - `observation_shape`, `action_shape`, or Gymnasium's `observation_space`, `action_space`: what
      it was made for, compared with the environment before the first step. A Dict of observations
      needs an `observation_layout`, or an `observation_space` that is a Dict; its arrays then get a
      batch axis each.
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


@dataclass
class _Tally:
    """Running numbers of one episode."""

    total: float = 0.0
    length: int = 0
    success: bool | None = None
    first_success: float = math.nan
    done: bool = False
    goal: Any = None
    trajectory: list[Any] | None = field(default=None, repr=False)

    def add(self, reward: float, ended: bool, info: dict[str, Any]) -> None:
        self.total += reward
        self.length += 1
        self.done = ended
        reported = info.get("is_success", info.get("success"))
        if reported is not None:
            if reported and not self.success:
                self.first_success = self.length
            self.success = bool(self.success) or bool(reported)


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
) -> Evaluation:
    """Run whole episodes and return their returns, scores, successes and speed.

    Episode i resets its environment with `seed + i`. Up to `parallel` environments are stepped
    together, and the agent sees their observations as one batch; one that has ended keeps its last
    observation, is never stepped again, and is ignored until the others of its batch have ended
    too. An agent that offers `initial_state` gets the same seeds, so that an episode does not
    depend on its neighbours, but for the rounding of networks, which varies with the batch.

    Args:
        agent: acts by `predict`; see `Agent` for what else it may offer.
        make_env: makes one environment with a time limit; called at most `parallel` times.
        episodes: how many episodes.
        seed: seed of the first episode.
        parallel: how many environments at most run side by side.
        deterministic: handed to `predict`.
        progress: whether to show a progress bar.
        record: how many of the first episodes keep their observations.

    Raises:
        PgdiffError: if the environment's spaces do not fit the agent; an action has a wrong shape
            or is not finite; the environment gives an observation or reward that is not finite,
            keeps to Gym's older interface, or tells no goal to an agent that wants one.
    """
    check_positive_int("episodes", episodes)
    check_seed("seed", seed)
    check_seed("seed + episodes", seed + episodes)
    check_positive_int("parallel", parallel)
    check_positive_int("record", record, minimum=0)
    plans_before = _plans_made(agent)
    envs: list[gym.Env[Any, Any]] = []
    tallies: list[_Tally] = []
    agent_seconds = 0.0
    begin = time.perf_counter()
    try:
        for _ in range(min(parallel, episodes)):
            env = make_env()
            checks.check_env(env)
            envs.append(env)
            checks.check_fit(agent, env)
        reference = _reference(envs[0])
        limit = getattr(envs[0].spec, "max_episode_steps", None)
        bar = tqdm(
            total=None if limit is None else episodes * limit,
            desc="evaluate",
            unit="step",
            unit_scale=True,
            disable=not progress,
        )
        with bar:
            for first in range(0, episodes, parallel):
                seeds = [seed + i for i in range(first, min(first + parallel, episodes))]
                kept = max(0, record - first)
                batch, spent = _batch(agent, envs[: len(seeds)], seeds, deterministic, kept, bar)
                tallies += batch
                agent_seconds += spent
        scores = _normalized(envs[0], [tally.total for tally in tallies])
        env_name, wrappers = checks.name_of(envs[0]), checks.wrappers_of(envs[0])
        told = _wants_goal(agent, envs[0])
    finally:
        for env in envs:
            env.close()
    successes = [tally.success for tally in tallies]
    reported = None not in successes
    plans_after = _plans_made(agent)
    plans = None if plans_before is None or plans_after is None else plans_after - plans_before
    return Evaluation(
        returns=np.array([tally.total for tally in tallies]),
        normalized_scores=scores,
        successes=np.array(successes, dtype=bool) if reported else None,
        steps_to_goal=np.array([tally.first_success for tally in tallies]) if reported else None,
        goals=_stacked_goals(tallies),
        lengths=np.array([tally.length for tally in tallies]),
        seconds=time.perf_counter() - begin,
        agent_seconds=agent_seconds,
        plans=plans,
        trajectories=[np.stack(t.trajectory) for t in tallies if t.trajectory is not None],
        settings={
            "env": env_name,
            "wrappers": wrappers,
            "reference_scores": reference,
            "agent": type(agent).__name__,
            "episodes": episodes,
            "seed": seed,
            "parallel": parallel,
            "deterministic": deterministic,
            "goal": "told at each reset" if told else None,
        },
        machine=machine(),
    )


def _batch(
    agent: Agent,
    envs: Sequence[gym.Env[Any, Any]],
    seeds: Sequence[int],
    deterministic: bool,
    record: int,
    bar: Any,
) -> tuple[list[_Tally], float]:
    """Run one episode in every environment; return their tallies and the seconds in `predict`."""
    # Copies: environments may share an array, or write the next observation into the last one.
    resets = [kept(checks.reset(env, seed)) for env, seed in zip(envs, seeds, strict=True)]
    observations = [observation for observation, _ in resets]
    infos = [info for _, info in resets]
    flat = flat_observation(agent, envs[0])
    tallies = [
        _Tally(
            goal=goal_of(agent, observation, info),
            trajectory=[flat(observation).copy()] if i < record else None,
        )
        for i, (observation, info) in enumerate(resets)
    ]
    state = _initial_state(agent, seeds, infos, envs[0])
    starts = np.ones(len(envs), dtype=bool)
    gaps = getattr(agent, "missing_level", None) is not None
    seconds = 0.0
    number = 0
    while not all(tally.done for tally in tallies):
        number += 1
        batch = stacked(observations)
        begin = time.perf_counter()
        actions, state = agent.predict(
            batch, state=state, episode_start=starts, deterministic=deterministic
        )
        seconds += time.perf_counter() - begin
        actions = checks.checked_actions(actions, envs[0], len(envs))
        starts = np.zeros(len(envs), dtype=bool)
        for i, tally in enumerate(tallies):
            if tally.done:
                continue
            observation, reward, ended, info = checks.step(
                envs[i], actions[i], seed=seeds[i], number=number, gaps=gaps
            )
            observations[i] = kept(observation)
            tally.add(reward, ended, info)
            if tally.trajectory is not None:
                tally.trajectory.append(flat(observations[i]).copy())
            bar.update()
    return tallies, seconds


def _initial_state(
    agent: Any, seeds: Sequence[int], infos: Sequence[dict[str, Any]], env: gym.Env[Any, Any]
) -> Any:
    if not hasattr(agent, "initial_state"):
        return None
    if _wants_goal(agent, env):
        return agent.initial_state(list(seeds), checks.goals_of(infos, seeds, env))
    return agent.initial_state(list(seeds))


def _wants_goal(agent: Any, env: gym.Env[Any, Any]) -> bool:
    """Whether the agent is to be told the goals of the resets.

    One with a layout of a Dict's fields that names a goal finds it in the observations.
    """
    layout = getattr(agent, "observation_layout", None)
    finds = isinstance(env.observation_space, gym.spaces.Dict) and (
        getattr(layout, "goal", None) is not None
    )
    return bool(getattr(agent, "wants_goal", False)) and not finds


def _stacked_goals(tallies: Sequence[_Tally]) -> Float[np.ndarray, "episodes goal"] | None:
    """The goals of all episodes, where every reset told one and all are numbers alike."""
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


def _normalized(env: gym.Env[Any, Any], returns: Sequence[float]) -> np.ndarray | None:
    """Return the environment's own normalised scores; None where it has none to offer."""
    normalized_score = getattr(env.unwrapped, "normalized_score", None)
    if normalized_score is None:
        return None
    try:
        return np.array([float(normalized_score(total)) for total in returns])
    except ValueError:  # a maze of one's own, without reference scores
        return None


def _reference(env: gym.Env[Any, Any]) -> list[float] | None:
    """The returns whose scores are 0 and 100, where the environment tells them."""
    try:
        low, high = env.unwrapped.reference_scores  # type: ignore[attr-defined]
        return [float(low), float(high)]
    except (AttributeError, TypeError, ValueError):
        return None
