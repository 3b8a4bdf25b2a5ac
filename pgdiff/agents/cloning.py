"""Behaviour cloning."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdiff.agents.actors import GaussianActor
from pgdiff.agents.density import gaussian_log_prob
from pgdiff.agents.offline import OfflineAgent
from pgdiff.data import Episodes
from pgdiff.data.normalizers import Normalizer
from pgdiff.data.transitions import rows_of, spread
from pgdiff.registry import register


class DecisionBatch(NamedTuple):
    """Observations and the actions taken there, `[batch, copies, ...]` float32, in raw units."""

    observation: Float[np.ndarray, "batch copies obs"]
    action: Float[np.ndarray, "batch copies act"]


class DecisionDataset:
    """Every row of the episodes; copies get others, as in `TransitionDataset`.

    Args:
        episodes: the recording.
        copies: learners that are trained side by side.
    """

    def __init__(self, episodes: Episodes, *, copies: int) -> None:
        self.episodes = episodes
        self.copies = copies
        self._rows = rows_of(episodes)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Int[np.ndarray, " batch"]) -> DecisionBatch:
        """Gather the rows of these numbers."""
        rows = self._rows.take(spread(indices, len(self), copies=self.copies))
        fields = (self.episodes.observations, self.episodes.actions)
        return DecisionBatch(*(field.take(rows, axis=0) for field in fields))


@register("learner", "cloning")
class Cloning(OfflineAgent):
    """Behaviour cloning of several members at once: recorded actions, by maximum likelihood.

    The actor is IQL's, and so is its loss, with every weight 1.

    Args:
        normalizer: of observations.
        action_low: least value of each feature of an action.
        action_high: greatest value of each.
        members: number of members; see `OfflineAgent`.
        width: of the hidden layers.
        depth: number of hidden layers.
    """

    learns_from_rewards = False

    def __init__(
        self,
        *,
        normalizer: Normalizer,
        action_low: Sequence[float],
        action_high: Sequence[float],
        members: int = 4,
        width: int = 256,
        depth: int = 2,
    ) -> None:
        super().__init__(
            normalizer=normalizer,
            action_low=action_low,
            action_high=action_high,
            members=members,
            width=width,
            depth=depth,
        )
        size = self.normalizer.features
        self.actor = GaussianActor(members, size, self.actions.features, width=width, depth=depth)

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        *,
        members: int = 4,
        width: int = 256,
        depth: int = 2,
        normalizer: str = "standard",
        action_low: Sequence[float] | None = None,
        action_high: Sequence[float] | None = None,
        seed: int = 0,
    ) -> "Cloning":
        """Make a new agent that fits recorded experience.

        Args:
            episodes: the recording.
            members: number of members; member i has the first weights of `seed + i`.
            width: see the class.
            depth: see the class.
            normalizer: "standard" or "limits", of observations.
            action_low: least value of each feature of an action, `env.action_space.low`: the agent
                never acts below. None takes -1, or the least recorded value where it is lower,
                and warns where the recorded actions fill less than half of that.
            action_high: likewise `env.action_space.high`; None takes 1, or the greatest.
            seed: of the first weights.

        Raises:
            PgdiffError: a setting is out of range; Dict observations.
        """
        return cls._fitted(
            episodes,
            normalizer=normalizer,
            action_low=action_low,
            action_high=action_high,
            members=members,
            seed=seed,
            width=width,
            depth=depth,
        )

    def dataset(self, episodes: Episodes) -> DecisionDataset:
        """Every row, for every member others."""
        return DecisionDataset(episodes, copies=self.members)

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Sum over members of the negative log-density of scaled actions.

        Args:
            batch: a `DecisionBatch` of tensors.
            generator: not used.
        """
        observation = self.normalizer.normalize(batch.observation.transpose(0, 1))
        action = self.actions.normalize(batch.action.transpose(0, 1))
        density = gaussian_log_prob(action, *self.actor(observation))
        return {"actor": -density.mean(dim=-1).sum()}
