"""A small recording for examples and quick experiments."""

import numpy as np

from pgdiff.core.validation import check_positive_int, check_seed
from pgdiff.data import Episodes


def example_episodes(*, episodes: int = 8, steps: int = 40, seed: int = 0) -> Episodes:
    """Return episodes of a point in the plane with random pushes.

    An observation is `(x, y, vx, vy)`, an action is a push in [-1, 1]^2, and the reward rises
    towards the origin. No episode ends in a terminal.

    Args:
        episodes: number of episodes.
        steps: steps of each episode.
        seed: seed of the starts and pushes.

    Example:
        >>> from pgdiff.testing import example_episodes
        >>> episodes = example_episodes(episodes=3, steps=20)
        >>> episodes.observations.shape, episodes.actions.shape
        ((60, 4), (60, 2))
    """
    count, steps = check_positive_int("episodes", episodes), check_positive_int("steps", steps)
    rng = np.random.default_rng(check_seed("seed", seed))
    states = np.zeros((count, steps + 1, 4))
    states[:, 0] = rng.uniform(-1.0, 1.0, (count, 4))
    actions = rng.uniform(-1.0, 1.0, (count, steps, 2))
    for step in range(steps):
        velocity = 0.95 * states[:, step, 2:] + 0.1 * actions[:, step]
        states[:, step + 1] = np.concatenate([states[:, step, :2] + 0.1 * velocity, velocity], 1)
    last = np.tile(np.arange(steps) == steps - 1, count)
    return Episodes.from_arrays(
        observations=states[:, :-1].reshape(-1, 4).astype(np.float32),
        actions=actions.reshape(-1, 2).astype(np.float32),
        rewards=np.exp(-np.square(states[:, :-1, :2]).sum(-1)).reshape(-1).astype(np.float32),
        next_observations=states[:, 1:].reshape(-1, 4).astype(np.float32),
        terminals=np.zeros(count * steps, bool),
        timeouts=last,
    )
