"""What some policies do at given observations."""

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from pgdiff.agents.load import load
from pgdiff.agents.offline import OfflineAgent
from pgdiff.data import Episodes
from pgdiff.data.transitions import successors
from pgdiff.pretrained import seeded_torch
from pgdiff.validation import PgdiffError, check_seed

_BLOCK_ROWS = 16_384


class Policy(Protocol):
    """Whatever acts on a batch of observations by Stable-Baselines3's `predict`."""

    def predict(self, observation: Any, /, *, deterministic: bool = ...) -> tuple[Any, Any]:
        """Return actions `[batch, action]`, and a state."""
        ...


PolicyLike = Policy | str | os.PathLike[str]


class PolicyActions:
    """Policies, and their actions along one recording, which are kept. Copies share both.

    Args:
        policies: anything with `predict`, or the path of an agent's file or folder; a folder of
            an agent that this package trained stands for all its members.
        deterministic: handed to `predict`.
        seed: of what they draw, where they draw from PyTorch's generator on the CPU, as
            Stable-Baselines3's policies do, or are agents of this package.

    Raises:
        PgdiffError: there is no policy, or one that cannot act.
    """

    def __init__(
        self, policies: Sequence[PolicyLike], *, deterministic: bool = True, seed: int = 0
    ) -> None:
        if isinstance(policies, str) or not isinstance(policies, Sequence) or not policies:
            raise PgdiffError(
                "`policies` must be a list of agents, or of folders that hold saved agents. "
                f"Got {policies!r}."
            )
        self.policies = tuple(one for given in policies for one in _opened(given))
        self.deterministic = deterministic
        self.seed = check_seed("seed", seed)
        self._source: np.ndarray | None = None
        self._actions: np.ndarray | None = None

    def __deepcopy__(self, memo: Any) -> "PolicyActions":
        return self

    def __len__(self) -> int:
        return len(self.policies)

    def along(self, episodes: Episodes, *, size: int) -> Float[np.ndarray, "rows policies action"]:
        """Return the actions at every next observation of a recording; see `successors`."""
        source = successors(episodes)
        if self._actions is None or self._source is not source:
            self._source, self._actions = source, self.at(source, size=size)
        return self._actions

    def at(
        self, observations: Float[np.ndarray, "rows obs"], *, size: int
    ) -> Float[np.ndarray, "rows policies action"]:
        """Return the actions at observations in raw units, float32.

        Args:
            observations: where to act.
            size: features of an action.

        Raises:
            PgdiffError: a policy gives actions of another shape, or such as are not finite.
        """
        rows = len(observations)
        actions = np.empty((rows, len(self), size), np.float32)
        for number, policy in enumerate(self.policies):
            if isinstance(policy, OfflineAgent):
                policy.set_random_seed(self.seed)
            with seeded_torch(seed=self.seed):
                for first in range(0, rows, _BLOCK_ROWS):
                    # A copy: recordings are read-only, which tensors do not know.
                    block = np.array(observations[first : first + _BLOCK_ROWS])
                    given, _ = policy.predict(block, deterministic=self.deterministic)
                    found = np.asarray(given)
                    if found.shape != (len(block), size) or not np.isfinite(found).all():
                        raise PgdiffError(
                            f"Policy {number} of `policies` must return finite actions of shape "
                            f"{[len(block), size]}. Got shape {list(found.shape)}"
                            + (", with NaN or Inf." if found.shape == (len(block), size) else ".")
                        )
                    actions[first : first + _BLOCK_ROWS, number] = found
        return actions


def _opened(policy: PolicyLike) -> Sequence[Policy]:
    if isinstance(policy, str | os.PathLike):
        agent = load(policy)
        if not isinstance(agent, OfflineAgent):
            return [agent]
        return [agent.member(index) for index in range(agent.members)]
    if not callable(getattr(policy, "predict", None)):
        raise PgdiffError(f"`policies` must have `predict`. Got a {type(policy).__name__}.")
    return [policy]
