"""Recording of one agent in several environments that step together, for speed."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

from pgdiff.evaluation.checks import step_values
from pgdiff.evaluation.time_limits import check_length
from pgdiff.workflows.recording.recorder import Agent, Recording, physics_of


class _Episode:
    """Running episode in one of the environments.

    Attributes:
        observation: current observation.
        steps: recorded values of each step, as a tuple.
        ended: True after the last step.
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
        # Copies, because environments and agents may reuse their arrays.
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
        """Return True if the episode has ended or fills `rows` rows."""
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
    """Fill the rows from `start` to `stop` with contiguous episodes.

    The agent acts on the observations of all environments as one batch. Episodes are stored in the
    order in which they began, so that the recording equals one made in a single environment, and
    short episodes do not replace long ones. If the rows end before the last episode does, it is cut
    and marked as a timeout. An environment that is not needed any more keeps its last observation
    in the batch.

    Args:
        envs: copies of one environment.
        agent: agent for batches of observations; `episode_start` marks the new rows.
        rows: recording to fill.
        start: first row.
        stop: end row (exclusive).
        starts: generator of the reset seeds, one per episode in their order.
        bar: progress bar, updated by the number of filled rows.

    Returns:
        Number of complete episodes.
    """
    waiting: deque[_Episode] = deque()  # oldest first
    running: list[_Episode | None] = [None] * len(envs)
    state: Any = None
    begun, whole, row = 0, 0, start  # begun: steps of all episodes
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
