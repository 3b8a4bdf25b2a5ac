"""Actions of several policies at given observations."""

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from pgdiff.agents.offline import OfflineAgent
from pgdiff.agents.sb3.load import load
from pgdiff.core.pretrained import seeded_torch
from pgdiff.core.validation import PgdiffError, check_seed
from pgdiff.data import Episodes
from pgdiff.data.transitions import successors

_BLOCK_ROWS = 16_384


class Policy(Protocol):
    """An object with Stable-Baselines3's `predict` for batches of observations."""

    def predict(self, observation: Any, /, *, deterministic: bool = ...) -> tuple[Any, Any]:
        """Return actions `[batch, action]` and a state."""
        ...


PolicyLike = Policy | str | os.PathLike[str]


class PolicyActions:
    """Policies and their cached actions in one recording; copies of this object share both.

    Args:
        policies: objects with `predict`, or paths of an agent's file or folder; the folder of an
            agent that this package trained stands for all its members.
        deterministic: passed to `predict`.
        seed: seed of random actions, for agents of this package and for policies that draw from
            PyTorch's generator on the CPU, as those of Stable-Baselines3 do.

    Raises:
        PgdiffError: the sequence is empty, or a policy has no `predict`.

    Example:
        >>> from pgdiff.agents import Cloning
        >>> from pgdiff.testing import example_episodes
        >>> episodes = example_episodes()
        >>> agent = Cloning.from_episodes(episodes, members=2, width=16)
        >>> actions = PolicyActions([agent.member(0), agent.member(1)])
        >>> actions.at(episodes.observations[:5], size=2).shape
        (5, 2, 2)
    """

    def __init__(
        self, policies: Sequence[PolicyLike], *, deterministic: bool = True, seed: int = 0
    ) -> None:
        if isinstance(policies, str) or not isinstance(policies, Sequence) or not policies:
            raise PgdiffError(
                "`policies` must be a list of agents, or of folders that hold saved agents. "
                f"Got {policies!r}."
            )
        self.policies = tuple(policy for given in policies for policy in _resolve_policies(given))
        self.deterministic = deterministic
        self.seed = check_seed("seed", seed)
        self._source: np.ndarray | None = None
        self._actions: np.ndarray | None = None

    def __deepcopy__(self, memo: Any) -> "PolicyActions":
        return self

    def __len__(self) -> int:
        return len(self.policies)

    def at_next_observations(
        self, episodes: Episodes, *, size: int
    ) -> Float[np.ndarray, "rows policies action"]:
        """Return the actions at every next observation of a recording."""
        source = successors(episodes)
        if self._actions is None or self._source is not source:
            self._source, self._actions = source, self.at(source, size=size)
        return self._actions

    def at(
        self, observations: Float[np.ndarray, "rows obs"], *, size: int
    ) -> Float[np.ndarray, "rows policies action"]:
        """Return the actions at observations, float32.

        Args:
            observations: in raw units.
            size: number of features of an action.

        Raises:
            PgdiffError: a policy returns actions of another shape, or not finite.
        """
        rows = len(observations)
        actions = np.empty((rows, len(self), size), np.float32)
        for number, policy in enumerate(self.policies):
            if isinstance(policy, OfflineAgent):
                policy.set_random_seed(self.seed)
            with seeded_torch(seed=self.seed):
                for first in range(0, rows, _BLOCK_ROWS):
                    # A copy, because recordings are read-only and tensors cannot be.
                    block = np.array(observations[first : first + _BLOCK_ROWS])
                    predicted, _ = policy.predict(block, deterministic=self.deterministic)
                    result = np.asarray(predicted)
                    if result.shape != (len(block), size) or not np.isfinite(result).all():
                        raise PgdiffError(
                            f"Policy {number} of `policies` must return finite actions of shape "
                            f"{[len(block), size]}. Got shape {list(result.shape)}"
                            + (", with NaN or Inf." if result.shape == (len(block), size) else ".")
                        )
                    actions[first : first + _BLOCK_ROWS, number] = result
        return actions


def _resolve_policies(policy: PolicyLike) -> Sequence[Policy]:
    if isinstance(policy, str | os.PathLike):
        agent = load(policy)
        if not isinstance(agent, OfflineAgent):
            return [agent]
        return [agent.member(index) for index in range(agent.members)]
    if not callable(getattr(policy, "predict", None)):
        raise PgdiffError(f"`policies` must have `predict`. Got a {type(policy).__name__}.")
    return [policy]
