"""Episodes of one agent in several environments that step together, for speed."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

from pgdiff.evaluation.checks import step_values
from pgdiff.evaluation.limits import check_length
from pgdiff.workflows.recording import Agent, Recording, physics_of


class _Episode:
    """The steps of an episode in one of the environments.

    Attributes:
        observation: the present one.
        steps: a tuple of all that is kept of each step.
        ended: whether there are no more to come.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], *, seed: int) -> None:
        self._env = env
        self._physics = physics_of(env)
        self._seed = seed
        self.observation = np.array(env.reset(seed=seed)[0])
        self.steps: list[tuple[Any, ...]] = []
        self.ended = False

    def step(self, action: np.ndarray) -> None:
        physics = self._physics
        state = () if physics is None else (physics.qpos.copy(), physics.qvel.copy())
        # Copies: environments and agents may write what comes next into the same arrays.
        action = np.array(action)
        observation, reward, terminated, truncated, _ = step_values(
            self._env,
            action.copy(),
            f"in step {len(self.steps) + 1} of the episode with seed {self._seed}",
        )
        observation = np.array(observation)
        self.steps.append(
            (self.observation, action, reward, terminated, truncated, observation, *state)
        )
        self.observation = observation
        self.ended = bool(terminated or truncated)
        if not self.ended:
            length = len(self.steps)
            check_length(self._env, length, name="env", episode="an episode of the recording")

    def is_ready(self, rows: int) -> bool:
        """Whether it can be written where there is room for so many rows."""
        return self.ended or len(self.steps) >= rows


def record_lockstep(
    envs: Sequence[gymnasium.Env[Any, Any]],
    agent: Agent,
    rows: Recording,
    *,
    start: int,
    stop: int,
    starts: np.random.Generator,
    bar: "tqdm[Any]",
) -> int:
    """Fill the rows from `start` to `stop` with episodes, each in one piece.

    The agent sees the environments' observations as one batch. Episodes are kept in the order in
    which they began, not in that in which they ended: the recording is the one that a single
    environment would make, and short episodes do not crowd out long ones. The last one is marked as
    a timeout where the rows end before it does; what went beyond is dropped. An environment that is
    not needed any more stands still, its last observation staying in the batch.

    Args:
        envs: copies of one environment.
        agent: acts on batches; `episode_start` says which rows are new.
        rows: to be filled.
        start: first row.
        stop: the row after the last.
        starts: where the seeds of the resets are drawn, one an episode, in their order.
        bar: told of the rows that are filled.

    Returns:
        How many episodes are whole.
    """
    waiting: deque[_Episode] = deque()  # the oldest first
    running: list[_Episode | None] = [None] * len(envs)
    state: Any = None
    begun, whole, row = 0, 0, start  # begun: steps of all episodes so far
    observations = np.empty((len(envs), *rows.observations.shape[1:]))
    while row < stop:
        new = np.zeros(len(envs), np.bool_)
        for index, env in enumerate(envs):
            episode = running[index]
            if (episode is None or episode.ended) and begun < stop - start:
                episode = _Episode(env, seed=int(starts.integers(2**63)))
                running[index], new[index] = episode, True
                waiting.append(episode)
            if episode is not None:
                observations[index] = episode.observation
        actions, state = agent.predict(observations.copy(), state=state, episode_start=new)
        for episode, action in zip(running, actions, strict=True):
            if episode is not None and not episode.ended:
                episode.step(action)
                begun += 1
        while waiting and row < stop and waiting[0].is_ready(stop - row):
            kept = waiting.popleft()
            steps = kept.steps[: stop - row]
            rows.put_steps(row, steps)
            whole += kept.ended and len(steps) == len(kept.steps)
            row += len(steps)
            bar.update(len(steps))
    rows.timeouts[stop - 1] |= not rows.terminals[stop - 1]
    return whole
