"""Recordings of vector environments: correct successors, or none."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from pgdiff.core.validation import PgdiffError
from pgdiff.data import Episodes
from pgdiff.data.quality import quality
from pgdiff.data.successors import find_successor_problems
from pgdiff.data.transitions import TransitionDataset

ENVIRONMENTS, STEPS = 3, 600
NEXT, SAME = gym.vector.AutoresetMode.NEXT_STEP, gym.vector.AutoresetMode.SAME_STEP


def recorded(mode: gym.vector.AutoresetMode, *, interleaved: bool = False) -> dict[str, np.ndarray]:
    """Return the recording of a recorder that uses only the results of `step`."""
    envs = gym.vector.SyncVectorEnv(
        [lambda: gym.make("Pendulum-v1", max_episode_steps=60)] * ENVIRONMENTS, autoreset_mode=mode
    )
    observation, _ = envs.reset(seed=0)
    draws = np.random.default_rng(0)
    steps: list[dict[str, Any]] = []
    for _ in range(STEPS):
        action = draws.uniform(-2, 2, (ENVIRONMENTS, 1)).astype(np.float32)
        after, reward, terminated, truncated, _ = envs.step(action)
        steps.append(
            {
                "observations": observation.copy(),
                "actions": action,
                "rewards": reward,
                "terminals": terminated,
                "timeouts": truncated,
                "next_observations": after.copy(),
            }
        )
        observation = after
    envs.close()
    fields = {name: np.stack([step[name] for step in steps]) for name in steps[0]}
    fields["timeouts"][-1] = True
    order = (lambda x: x) if interleaved else (lambda x: x.swapaxes(0, 1))
    return {name: order(x).reshape(-1, *x.shape[2:]) for name, x in fields.items()}


def pendulum_angle(observation: np.ndarray) -> np.ndarray:
    return np.arctan2(observation[..., 1], observation[..., 0])


def leaps(episodes: Episodes) -> int:
    """Transitions that no step of a pendulum makes: it turns by at most 8 * 0.05 rad."""
    data = TransitionDataset(episodes)
    batch = data.batch(np.arange(len(data)))
    turned = pendulum_angle(batch.next_observation) - pendulum_angle(batch.observation)
    return int((np.abs(np.angle(np.exp(1j * turned))) > 0.41).sum())


def test_a_naive_recording_of_a_vector_environment() -> None:
    """A third of the resets are as near as a step; the other resets reveal all of them."""
    for mode in (NEXT, SAME):
        fields = recorded(mode)
        find_and_repair(fields, mode, following=True)
        del fields["next_observations"]
        find_and_repair(fields, mode, following=False)


def find_and_repair(fields: dict[str, np.ndarray], mode: Any, *, following: bool) -> None:
    problems = list(find_successor_problems(fields))
    if mode is SAME and not following:
        assert problems == []  # the rows are right
    else:
        [problem] = problems
        assert problem.field == ("observations" if mode is NEXT else "next_observations")
        assert problem.row == (60 if mode is NEXT else 59)
        with pytest.raises(PgdiffError, match=f"row {problem.row}: "):
            Episodes.from_arrays(**fields)
        assert leaps(Episodes._from_clean(convert32(fields), trusted=True)) > 10
    episodes = Episodes.from_arrays(**fields, repair=True)
    assert leaps(episodes) == 0
    # NEXT_STEP spends a call of `step` on each reset.
    resets = ENVIRONMENTS * (-(-STEPS // 61) - 1) if mode is NEXT else 0
    assert episodes.steps == ENVIRONMENTS * STEPS - resets
    assert episodes.lengths.max() == 60 and len(quality(episodes).jumps) == 0
    if episodes.next_observations is not None:
        assert quality(episodes).continuing_ends == 0


def convert32(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: x if x.dtype == bool else x.astype(np.float32) for name, x in fields.items()}


def test_rows_of_environments_in_turn() -> None:
    [problem, *_] = find_successor_problems(recorded(SAME, interleaved=True))
    assert (problem.field, problem.row) == ("next_observations", 0)
    assert f"rows of {ENVIRONMENTS} environments may be interleaved" in problem.message


def test_marks_without_resets_are_no_fault() -> None:
    """D4RL's maze2d has such marks, where a new goal ends an episode and the walk goes on."""
    walk = np.random.default_rng(0).standard_t(3, size=(2001, 2)).cumsum(axis=0)  # some long steps
    fields = {
        "observations": walk[:-1],
        "next_observations": walk[1:],
        "actions": np.zeros((2000, 1)),
        "rewards": np.zeros(2000),
        "terminals": np.zeros(2000, bool),
        "timeouts": np.arange(2000) % 20 == 19,
    }
    assert list(find_successor_problems(convert32(fields))) == []
    assert len(Episodes.from_arrays(**fields, join_continuous=True)) < 5
