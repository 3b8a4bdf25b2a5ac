"""Small decision problems with known values, and recordings of them."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from pgdiff import Episodes
from pgdiff.agents import IQL, TD3BC, Cloning
from pgdiff.training.learner import to_tensors

DISCOUNT = 0.8
STATES = 4


def coin(*, terminal: bool, episodes: int = 400, length: int = 5, seed: int = 0) -> Episodes:
    """Record one state, where actions -1 and 1 are equally likely; action a pays 1 + a.

    All episodes have equal lengths. If they end in terminals, a step goes on with
    probability `1 - 1 / length`, else always. Both actions are exactly as frequent at every age.
    """
    rng = np.random.default_rng(seed)
    one_age = np.repeat([-1.0, 1.0], episodes // 2)
    actions = np.stack([rng.permutation(one_age) for _ in range(length)], axis=1).ravel()
    rows = episodes * length
    ends = np.arange(1, rows + 1) % length == 0
    return Episodes.from_arrays(
        observations=np.zeros((rows, 2)),
        actions=actions[:, None],
        rewards=1 + actions,
        terminals=ends & terminal,
        timeouts=ends & (not terminal),
    )


def chain_step(state: int, action: float) -> tuple[int, float, bool]:
    """Take a step: 1 goes up, -1 goes down; going up from the last state pays 1 and ends."""
    if action > 0 and state == STATES - 1:
        return state, 1.0, True
    return int(np.clip(state + np.sign(action), 0, STATES - 1)), 0.0, False


def chain(*, copies: int = 100, seed: int = 0) -> Episodes:
    """Record every state with both actions, -1 and 1, equally often; observations are one-hot.

    Each step is an episode, with the next observation.
    """
    pairs = [(state, action) for state in range(STATES) for action in (-1.0, 1.0)] * copies
    order = np.random.default_rng(seed).permutation(len(pairs))
    states, actions = (np.array(part)[order] for part in zip(*pairs, strict=True))
    steps = [chain_step(int(state), action) for state, action in zip(states, actions, strict=True)]
    following, rewards, ended = (np.array(part) for part in zip(*steps, strict=True))
    return Episodes.from_arrays(
        observations=np.eye(STATES)[states],
        actions=actions[:, None],
        rewards=rewards,
        terminals=ended,
        timeouts=~ended,
        next_observations=np.eye(STATES)[following],
    )


def chain_q(values: Float[np.ndarray, " states"]) -> Float[np.ndarray, "states 2"]:
    """Return Q of the actions -1 and 1 if these are the values of the next states."""
    q = np.empty((STATES, 2))
    for state in range(STATES):
        for column, action in enumerate((-1.0, 1.0)):
            following, reward, ended = chain_step(state, action)
            q[state, column] = reward + (0.0 if ended else DISCOUNT * values[following])
    return q


def random_episodes(*, seed: int = 0) -> Episodes:
    """Return noise: 3 observation features, 2 action features, both kinds of ends."""
    rng = np.random.default_rng(seed)
    rows = 300
    ends = np.arange(1, rows + 1) % 20 == 0
    odd = np.arange(rows) // 20 % 2 == 1
    return Episodes.from_arrays(
        observations=rng.normal([1.0, -2.0, 0.0], [2.0, 0.5, 1.0], (rows, 3)),
        actions=rng.uniform(-0.9, 0.9, (rows, 2)),
        rewards=rng.normal(size=rows),
        terminals=ends & odd,
        timeouts=ends & ~odd,
    )


KINDS: dict[str, Any] = {"iql": IQL, "td3_bc": TD3BC, "cloning": Cloning}


def make(name: str, episodes: Episodes | None = None, **options: Any) -> Any:
    """Return a small agent of that kind."""
    settings = {"members": 1, "width": 16, "depth": 2}
    return KINDS[name].from_episodes(episodes or random_episodes(), **(settings | options))


def cpu_batch(source: Any, indices: np.ndarray) -> Any:
    return to_tensors(source.batch(indices), torch.device("cpu"))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
