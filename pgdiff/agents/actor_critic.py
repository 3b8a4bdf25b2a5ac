"""Base of agents with twin critics."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.agents.offline import OfflineAgent, flatten_batch
from pgdiff.core.validation import check_range
from pgdiff.data import Episodes
from pgdiff.data.transitions import TransitionBatch, TransitionDataset
from pgdiff.nn.mlp import BatchedMLP
from pgdiff.nn.target_network import target_copy

HEADS = 2


class TwinCritic(nn.Module):
    """Two networks per member from (observation, action) to a return.

    Fujimoto et al. (2018), section 4.2.

    Args:
        members: number of learners.
        inputs: number of features of observation and action together.
        width: units of each hidden layer.
        depth: number of hidden layers.
    """

    def __init__(self, members: int, inputs: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.network = BatchedMLP(HEADS * members, inputs, 1, width=width, depth=depth)

    def forward(self, x: Float[Tensor, "members batch inputs"]) -> Float[Tensor, "members 2 batch"]:
        """Return both estimates of every member."""
        both = x.repeat_interleave(HEADS, dim=0)
        return self._split_heads(self.network(both))

    def first_head(
        self, x: Float[Tensor, "members batch inputs"]
    ) -> Float[Tensor, "members batch"]:
        """Return the first estimate of every member, with gradients for the inputs only."""
        estimates: Tensor = self.network(x, members=slice(None, None, HEADS), frozen=True)
        return estimates[..., 0]

    def first_member(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "2 batch"]:
        """Return both estimates of the first member."""
        both = x.expand(HEADS, *x.shape)
        return self._split_heads(self.network(both, members=slice(HEADS)))[0]

    @staticmethod
    def _split_heads(estimates: Tensor) -> Tensor:
        return torch.unflatten(estimates[..., 0], 0, (-1, HEADS))


class ActorCritic(OfflineAgent):
    """Base of agents that learn a twin critic by temporal differences with a target network.

    Args:
        discount: gamma, in (0, 1).
        tau: Polyak step of the target networks, in (0, 1]; larger values follow faster.
        arguments: of `OfflineAgent`.
    """

    reward_scale: float = 1.0

    def __init__(self, *, discount: float, tau: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.discount = check_range(
            "discount", discount, low=0, high=1, open_low=True, open_high=True
        )
        self.tau = check_range("tau", tau, low=0, high=1, open_low=True)

    def _add_critics(self) -> None:
        inputs = self.normalizer.features + self.actions.features
        self.critic = TwinCritic(self.members, inputs, width=self.width, depth=self.depth)
        self.target_critic = target_copy(self.critic)

    def dataset(self, episodes: Episodes) -> TransitionDataset:
        """Return transitions, shifted for each member."""
        return TransitionDataset(episodes, copies=self.members)

    def q(
        self,
        observation: Float[Tensor, "*batch observation"],
        action: Float[Tensor, "*batch action"],
    ) -> Float[Tensor, " heads *batch"]:
        """Return both critics' estimated returns of actions; differentiable in both arguments."""
        x = torch.cat([self._normalized(observation), self._scaled(action)], dim=-1)
        estimates = self.critic.first_member(flatten_batch(x)).reshape(HEADS, *x.shape[:-1])
        return estimates / self.reward_scale

    def _prepared(self, batch: TransitionBatch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return scaled observation, action, reward, next observation, and ongoing.

        The axes `[batch, members, ...]` become `[members, batch, ...]`.
        """
        parts: Any = batch[:5]
        observation, action, reward, following, ongoing = (part.transpose(0, 1) for part in parts)
        return (
            self.normalizer.normalize(observation),
            self.actions.normalize(action),
            reward * self.reward_scale,
            self.normalizer.normalize(following),
            ongoing,
        )

    def _critic_loss(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error of each head, summed over heads and members."""
        error = self.critic(x) - target[:, None]
        loss: Tensor = error.square().mean(dim=-1).sum()
        return loss
