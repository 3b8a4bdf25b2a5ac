"""Short recordings of random actions in the locomotion tasks."""

from functools import cache
from typing import Any

import gymnasium as gym

import pgdiff_envs  # noqa: F401  registers the tasks
from pgdiff import Episodes


@cache
def recorded(
    task: str, *, episodes: int = 12, steps: int = 60, size: float = 0.3, seed: int = 0
) -> Episodes:
    """Return random actions in the simulator; at size 0.3 no velocity reaches its clip."""
    env = gym.make(f"pgdiff_envs:{task}-v5")
    env.action_space.seed(seed)
    parts: list[dict[str, Any]] = []
    for number in range(episodes):
        observation, _ = env.reset(seed=1000 * seed + number)
        for step in range(steps):
            action = size * env.action_space.sample()
            after, reward, terminal, _, _ = env.step(action)
            last = step == steps - 1
            parts.append(
                {
                    "observations": observation,
                    "actions": action,
                    "rewards": reward,
                    "next_observations": after,
                    "terminals": terminal,
                    "timeouts": last and not terminal,
                }
            )
            if terminal:
                break
            observation = after
    return Episodes.from_arrays(**{name: [part[name] for part in parts] for name in parts[0]})


def env_of(task: str) -> gym.Env[Any, Any]:
    return gym.make(f"pgdiff_envs:{task}-v5")
