"""Episodes of an agent in a Gymnasium environment, many side by side in one process."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Shaped
from tqdm import tqdm

from pgdiff.evaluation.results import Evaluation, machine
from pgdiff.validation import PgdiffError, check_positive_int, check_seed

MakeEnv = Callable[[], gym.Env[Any, Any]]


class Agent(Protocol):
    """Whatever acts by Stable-Baselines3's `predict` on a batch of observations.

    An agent may offer more, and `evaluate` uses it:

    - `initial_state(seeds)`: a state for a batch whose row i draws its noise from `seeds[i]` alone.
      The state must keep these seeds when `episode_start` is first True, which it is at once.
    - `plans_made`: a running count of plans, for plans per second.
    - `observation_shape`, `action_shape`, or Gymnasium's `observation_space`, `action_space`: what
      it was made for, compared with the environment before the first step.
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
    done: bool = False
    trajectory: list[np.ndarray] | None = field(default=None, repr=False)

    def add(self, observation: Any, reward: Any, ended: bool, info: dict[str, Any]) -> None:
        self.total += float(reward)
        self.length += 1
        self.done = ended
        if "is_success" in info:
            self.success = bool(self.success) or bool(info["is_success"])
        if self.trajectory is not None:
            self.trajectory.append(np.array(observation))


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
    observation and is ignored until the others of its batch have ended too. An agent that offers
    `initial_state` gets the same seeds, so that an episode does not depend on its neighbours.

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
        PgdiffError: if the environment's spaces do not fit the agent, or an action has a wrong
            shape or is not finite.
    """
    check_positive_int("episodes", episodes)
    check_seed("seed", seed)
    check_positive_int("parallel", parallel)
    check_positive_int("record", record, minimum=0)
    plans_before = _plans_made(agent)
    envs: list[gym.Env[Any, Any]] = []
    tallies: list[_Tally] = []
    agent_seconds = 0.0
    begin = time.perf_counter()
    try:
        for _ in range(min(parallel, episodes)):
            envs.append(make_env())
            _check_fit(agent, envs[-1])
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
        env_name = envs[0].spec.id if envs[0].spec is not None else type(envs[0].unwrapped).__name__
    finally:
        for env in envs:
            env.close()
    successes = [tally.success for tally in tallies]
    plans_after = _plans_made(agent)
    plans = None if plans_before is None or plans_after is None else plans_after - plans_before
    return Evaluation(
        returns=np.array([tally.total for tally in tallies]),
        normalized_scores=scores,
        successes=None if None in successes else np.array(successes, dtype=bool),
        lengths=np.array([tally.length for tally in tallies]),
        seconds=time.perf_counter() - begin,
        agent_seconds=agent_seconds,
        plans=plans,
        trajectories=[np.stack(t.trajectory) for t in tallies if t.trajectory is not None],
        settings={
            "env": env_name,
            "agent": type(agent).__name__,
            "episodes": episodes,
            "seed": seed,
            "parallel": parallel,
            "deterministic": deterministic,
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
    observations = np.stack(
        [np.asarray(env.reset(seed=seed)[0]) for env, seed in zip(envs, seeds, strict=True)]
    )
    tallies = [
        _Tally(trajectory=[observations[i].copy()] if i < record else None)
        for i in range(len(envs))
    ]
    state = agent.initial_state(list(seeds)) if hasattr(agent, "initial_state") else None
    starts = np.ones(len(envs), dtype=bool)
    seconds = 0.0
    while not all(tally.done for tally in tallies):
        begin = time.perf_counter()
        # A copy: an agent may keep what it was given, and the rows are overwritten below.
        actions, state = agent.predict(
            observations.copy(), state=state, episode_start=starts, deterministic=deterministic
        )
        seconds += time.perf_counter() - begin
        actions = _checked_actions(actions, envs[0], len(envs))
        starts = np.zeros(len(envs), dtype=bool)
        for i, tally in enumerate(tallies):
            if tally.done:
                continue
            observation, reward, terminated, truncated, info = envs[i].step(actions[i])
            observations[i] = observation
            tally.add(observation, reward, bool(terminated or truncated), info)
            bar.update()
    return tallies, seconds


def _plans_made(agent: Agent) -> int | None:
    made = getattr(agent, "plans_made", None)
    return None if made is None else int(made)


def _check_fit(agent: Agent, env: gym.Env[Any, Any]) -> None:
    """Compare the shapes that the agent was made for with the environment's."""
    if isinstance(env, gym.vector.VectorEnv):
        raise PgdiffError(
            "`make_env` must return a single environment, because `evaluate` makes its own batch. "
            f"Got {type(env).__name__}."
        )
    for kind in ("observation", "action"):
        space = getattr(env, f"{kind}_space")
        own = getattr(agent, f"{kind}_space", None)
        wanted = getattr(agent, f"{kind}_shape", getattr(own, "shape", None))
        if space.shape is None:
            raise PgdiffError(
                f"`make_env` must return an environment whose {kind}s are arrays. Got {space}."
            )
        if wanted is not None and tuple(wanted) != tuple(space.shape):
            raise PgdiffError(
                f"`agent` must fit the environment: it was made for {kind}s of shape "
                f"{tuple(wanted)}. Got an environment with {kind}s of shape {tuple(space.shape)}."
            )


def _checked_actions(
    actions: Any, env: gym.Env[Any, Any], count: int
) -> Shaped[np.ndarray, "envs ..."]:
    array = np.asarray(actions)
    shape = (count, *(env.action_space.shape or ()))
    if array.shape != shape:
        raise PgdiffError(
            f"`agent.predict` must return one action per observation, shape {shape}. "
            f"Got shape {array.shape}."
        )
    finite: Bool[np.ndarray, "envs ..."] = np.isfinite(array)
    if not finite.all():
        row = int(np.argwhere(~finite)[0, 0])
        raise PgdiffError(
            f"`agent.predict` must return finite actions. Got NaN or Inf in row {row}."
        )
    return array


def _normalized(env: gym.Env[Any, Any], returns: Sequence[float]) -> np.ndarray | None:
    """Return the environment's own normalised scores, where it offers them."""
    normalized_score = getattr(env.unwrapped, "normalized_score", None)
    if normalized_score is None:
        return None
    return np.array([float(normalized_score(total)) for total in returns])
