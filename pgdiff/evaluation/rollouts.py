"""Episodes of an agent in a Gymnasium environment, many side by side in one process."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from pgdiff.agents.live import of_raw_observations
from pgdiff.evaluation import checks
from pgdiff.evaluation.limits import check_length, check_limited
from pgdiff.evaluation.machine import machine
from pgdiff.evaluation.observations import flat_observation, goal_of, kept, stacked
from pgdiff.evaluation.own_rewards import OwnRewards
from pgdiff.evaluation.progress import Progress
from pgdiff.evaluation.results import Evaluation
from pgdiff.evaluation.scoring import Scores, Scoring
from pgdiff.evaluation.tally import Tally
from pgdiff.validation import PgdiffError, check_flag, check_positive_int, check_seed

MakeEnv = Callable[[], gym.Env[Any, Any]]


class Agent(Protocol):
    """Whatever acts by Stable-Baselines3's `predict` on a batch of observations.

    An agent may offer more, and `evaluate` uses it:

    - `initial_state(seeds)`: a state for a batch whose row i draws its noise from `seeds[i]` alone.
      The state must keep these seeds when `episode_start` is first True, which it is at once.
    - `wants_goal`: True for an agent that is to be told its goals. They come from the reset's
      `info["goal"]`, and `initial_state(seeds, goals)` gets them, `[environments, goal]`; an agent
      with an `observation_layout` that names a goal finds it in its observations instead.
    - `keep_rows(state, rows)`: the state of those rows of the batch alone. With it, environments
      whose episodes are over leave the batch; without it, they stay in it until all are over.
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
    together, and the agent sees their observations as one batch. One whose episode is over is never
    stepped again: it leaves the batch of an agent that offers `keep_rows`, and else keeps its last
    observation and is ignored until the others have ended too. An agent that offers `initial_state`
    gets the same seeds, so that an episode does not depend on its neighbours, but for the rounding
    of networks, which varies with the batch.

    A live model of Stable-Baselines3 that was trained in `VecNormalize` acts on observations that
    are scaled by its statistics; pass `model.policy` to have it act on them as they are.

    Args:
        agent: acts by `predict`; see `Agent` for what else it may offer.
        make_env: makes one environment with a time limit; called at most `parallel` times. Where
            no time limit is known, an episode may have 10,000 steps.
        episodes: how many episodes.
        seed: seed of the first episode.
        parallel: how many environments at most run side by side.
        deterministic: handed to `predict`.
        progress: whether to show a progress bar.
        record: how many of the first episodes keep their observations.

    Raises:
        PgdiffError: if the environment's spaces do not fit the agent, or its episodes do not end;
            an action has a wrong shape or is not finite; the environment gives an observation or
            reward that is not finite, keeps to Gym's older interface, or tells no goal to an agent
            that wants one.
    """
    episodes = check_positive_int("episodes", episodes)
    seed = check_seed("seed", seed)
    check_seed("seed + episodes", seed + episodes)
    parallel = check_positive_int("parallel", parallel)
    record = check_positive_int("record", record, minimum=0)
    deterministic = check_flag("deterministic", deterministic)
    envs: list[gym.Env[Any, Any]] = []
    own: list[OwnRewards] = []
    tallies: list[Tally] = []
    agent_seconds = 0.0
    begin = time.perf_counter()
    try:
        for _ in range(min(parallel, episodes)):
            envs.append(_made(make_env))
        acting = of_raw_observations(agent, envs[0])
        for env in envs:
            checks.check_fit(acting, env)
            own.append(OwnRewards(env))
        plans_before = _plans_made(acting)
        scoring = Scoring(envs[0])
        settings = _settings(agent, acting, envs[0], scoring) | {
            "episodes": episodes,
            "seed": seed,
            "parallel": parallel,
            "deterministic": deterministic,
        }
        with Progress(episodes=episodes, limit=scoring.limit, disable=not progress) as bar:
            for first in range(0, episodes, parallel):
                batch = _Batch(
                    acting,
                    envs,
                    own,
                    seeds=[seed + i for i in range(first, min(first + parallel, episodes))],
                    record=max(0, record - first),
                    touch_reward=scoring.touch_reward,
                )
                agent_seconds += batch.run(deterministic, bar)
                tallies += batch.tallies
        scores = scoring.scores(tallies)
    finally:
        for noted in own:
            noted.release()
        for env in envs:
            env.close()
    plans_after = _plans_made(acting)
    plans = None if plans_before is None or plans_after is None else plans_after - plans_before
    return _evaluation(
        tallies,
        scores,
        settings=settings,
        plans=plans,
        agent_seconds=agent_seconds,
        seconds=time.perf_counter() - begin,
    )


def _made(make_env: MakeEnv) -> gym.Env[Any, Any]:
    """Make an environment, checked; it is closed if it is refused."""
    env = make_env()
    checks.check_env(env)
    try:
        check_limited(env, name="make_env")
    except PgdiffError:
        env.close()
        raise
    return env


def _settings(agent: Any, acting: Any, env: gym.Env[Any, Any], scoring: Scoring) -> dict[str, Any]:
    """What an evaluation depends on, beside the caller's numbers."""
    options = checks.options_of(env)
    name = checks.name_of(env)
    settings: dict[str, Any] = {
        # With other arguments it is another task, for tables and comparisons.
        "env": f"{name} with {options}" if options else name,
        "wrappers": checks.wrappers_of(env),
        "reference_scores": scoring.reference,
        "agent": type(agent).__name__,
        "goal": "told at each reset" if _wants_goal(acting, env) else None,
    }
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
        goals=_stacked_goals(tallies),
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
    """One episode in every environment, side by side.

    Args:
        agent: the agent.
        envs: the environments; as many of them are used as there are seeds.
        own: notes the rewards below the wrappers, of each environment.
        seeds: of the episodes.
        record: how many of the first episodes keep their observations.
        touch_reward: see `Scoring`.
    """

    def __init__(
        self,
        agent: Agent,
        envs: Sequence[gym.Env[Any, Any]],
        own: Sequence[OwnRewards],
        *,
        seeds: Sequence[int],
        record: int,
        touch_reward: float | None,
    ) -> None:
        self.agent, self.envs, self.own, self.seeds = agent, envs, own, seeds
        self.flat = flat_observation(agent, envs[0])
        self.observations: list[Any] = []
        self.infos: list[dict[str, Any]] = []
        self.tallies: list[Tally] = []
        for i, seed in enumerate(seeds):
            observation, info = checks.reset(envs[i], seed)
            self.observations.append(kept(observation))
            self.infos.append({"goal": copy.deepcopy(info.get("goal"))})
            self.tallies.append(
                Tally(
                    goal=goal_of(agent, observation, info),
                    touch_reward=touch_reward,
                    trajectory=[self.flat(observation).copy()] if i < record else None,
                )
            )
            own[i].restart()

    def run(self, deterministic: bool, bar: Progress) -> float:
        """Run the episodes to their ends; return the seconds in `predict`."""
        agent: Any = self.agent
        state = _initial_state(agent, self.seeds, self.infos, self.envs[0])
        keep_rows = getattr(agent, "keep_rows", None)
        rows = list(range(len(self.seeds)))  # of the environments that are in the batch
        starts = np.ones(len(rows), dtype=bool)
        seconds, number = 0.0, 0
        while not all(tally.done for tally in self.tallies):
            number += 1
            observations = stacked([self.observations[row] for row in rows])
            begin = time.perf_counter()
            actions, state = agent.predict(
                observations, state=state, episode_start=starts, deterministic=deterministic
            )
            seconds += time.perf_counter() - begin
            actions = checks.checked_actions(actions, self.envs[0], len(rows))
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
        """Step one environment, and count the step."""
        env, tally, own, seed = self.envs[row], self.tallies[row], self.own[row], self.seeds[row]
        gaps = getattr(self.agent, "missing_level", None) is not None
        observation, reward, ended, info = checks.step(
            env, action, seed=seed, number=number, gaps=gaps
        )
        self.observations[row] = kept(observation)
        tally.add(reward, ended, info)
        if tally.trajectory is not None:
            tally.trajectory.append(self.flat(observation).copy())
        if not math.isfinite(tally.total):
            raise PgdiffError(
                "The environment's rewards must have a finite sum. That of "
                f"'{checks.name_of(env)}' is not finite after step {number} of the episode with "
                f"seed {seed}."
            )
        if not ended:
            episode = f"the episode with seed {seed}"
            check_length(env, tally.length, name="make_env", episode=episode)
        elif own.watching:
            tally.rewards_changed = not math.isclose(
                own.total, tally.total, rel_tol=1e-6, abs_tol=1e-9
            )
            tally.steps_changed = own.steps != tally.length


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


def _stacked_goals(tallies: Sequence[Tally]) -> Float[np.ndarray, "episodes goal"] | None:
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
