"""Behaviour cloning."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdiff.agents.actors import GaussianActor
from pgdiff.agents.densities import gaussian_log_prob
from pgdiff.agents.offline import OfflineAgent
from pgdiff.core.registry import register
from pgdiff.data import Episodes
from pgdiff.data.normalizers import Normalizer
from pgdiff.data.transitions import rows_of, spread


class DecisionBatch(NamedTuple):
    """Observations and their actions, `[batch, copies, ...]` float32, in raw units."""

    observation: Float[np.ndarray, "batch copies obs"]
    action: Float[np.ndarray, "batch copies act"]


class DecisionDataset:
    """All rows of the episodes, shifted for each copy as in `TransitionDataset`.

    Args:
        episodes: the recording.
        copies: number of learners that are trained together.
    """

    def __init__(self, episodes: Episodes, *, copies: int) -> None:
        self.episodes = episodes
        self.copies = copies
        self._rows = rows_of(episodes)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Int[np.ndarray, " batch"]) -> DecisionBatch:
        """Gather the rows of these indices."""
        rows = self._rows.take(spread(indices, len(self), copies=self.copies))
        fields = (self.episodes.observations, self.episodes.actions)
        return DecisionBatch(*(field.take(rows, axis=0) for field in fields))


@register("learner", "cloning")
class Cloning(OfflineAgent):
    """Behaviour cloning of several members at once, by maximum likelihood of recorded actions.

    Actor and loss are those of IQL, with every weight 1.

    Args:
        normalizer: of observations.
        action_low: lower bound of each action feature.
        action_high: upper bound of each action feature.
        members: number of members; see `OfflineAgent`.
        width: units of each hidden layer.
        depth: number of hidden layers.

    Example:
        >>> import torch
        >>> from pgdiff.testing import example_episodes
        >>> agent = Cloning.from_episodes(example_episodes(), members=1, width=16)
        >>> agent.log_prob(torch.zeros(5, 4), torch.zeros(5, 2)).shape
        torch.Size([5])
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

    def dataset(self, episodes: Episodes) -> DecisionDataset:
        """Return all rows, shifted for each member."""
        return DecisionDataset(episodes, copies=self.members)

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the negative log-density of scaled actions, summed over members.

        Args:
            batch: a `DecisionBatch` of tensors.
            generator: not used.
        """
        observation = self.normalizer.normalize(batch.observation.transpose(0, 1))
        action = self.actions.normalize(batch.action.transpose(0, 1))
        density = gaussian_log_prob(action, *self.actor(observation))
        return {"actor": -density.mean(dim=-1).sum()}
