"""Implicit Q-learning."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.agents.actor_critic import ActorCritic
from pgdiff.agents.actors import GaussianActor
from pgdiff.agents.density import gaussian_log_prob
from pgdiff.agents.offline import FIRST, flat
from pgdiff.agents.slow import follow
from pgdiff.data import Episodes, discounted_returns
from pgdiff.data.normalizers import Normalizer
from pgdiff.denoisers.batched_mlp import BatchedMLP
from pgdiff.registry import register
from pgdiff.validation import PgdiffError, check_features, check_range

MOST_WEIGHT = 100.0
"""Greatest weight of an action in the actor's loss, as in the code of Kostrikov et al."""

RETURN_RANGE = 1000.0
"""To what the range of the recorded returns is scaled in D4RL's locomotion tasks (ibid.)."""


@register("learner", "iql")
class IQL(ActorCritic):
    """Implicit Q-learning (Kostrikov et al. 2022) of several members at once.

    A value of observations is an upper expectile of the critics' values of recorded actions
    (eq. 5), the critics learn from that value (eq. 6), and the actor, a Gaussian, from recorded
    actions, weighted by the exponential of their advantage (eq. 7). No action is ever asked for
    that is not in the recording.

    Args:
        normalizer: of observations.
        action_low: least value of each feature of an action.
        action_high: greatest value of each.
        members: number of members; see `OfflineAgent`.
        discount: gamma, in (0, 1).
        expectile: tau, in (0, 1).
        temperature: beta, at least 0: 0 clones the behaviour.
        slow: share of the critics that their slow copies take on at every step.
        reward_scale: factor of the rewards that are learned from. Values are told without it, but
            with it the temperature is another.
        value_features: features of an observation that the value sees, by index; all if None. A
            value of the position alone takes every position for one that can be left, or kept, at
            the best recorded velocity.
        width: of the hidden layers.
        depth: number of hidden layers.
    """

    def __init__(
        self,
        *,
        normalizer: Normalizer,
        action_low: Sequence[float],
        action_high: Sequence[float],
        members: int = 4,
        discount: float = 0.99,
        expectile: float = 0.7,
        temperature: float = 3.0,
        slow: float = 0.005,
        reward_scale: float = 1.0,
        value_features: Sequence[int] | None = None,
        width: int = 256,
        depth: int = 2,
    ) -> None:
        super().__init__(
            normalizer=normalizer,
            action_low=action_low,
            action_high=action_high,
            members=members,
            discount=discount,
            slow=slow,
            width=width,
            depth=depth,
        )
        self.expectile = check_range(
            "expectile", expectile, low=0, high=1, open_low=True, open_high=True
        )
        self.temperature = check_range("temperature", temperature, low=0)
        self.reward_scale = check_range("reward_scale", reward_scale, low=0, open_low=True)
        size = self.normalizer.features
        self.value_features = check_features(value_features, size=size)
        seen = size if self.value_features is None else len(self.value_features)
        self.value_network = BatchedMLP(members, seen, 1, width=width, depth=depth)
        self._add_critics()
        self.actor = GaussianActor(members, size, self.actions.features, width=width, depth=depth)

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        *,
        members: int = 4,
        discount: float = 0.99,
        expectile: float = 0.7,
        temperature: float = 3.0,
        slow: float = 0.005,
        normalize_returns: bool = False,
        value_features: Sequence[int] | None = None,
        width: int = 256,
        depth: int = 2,
        normalizer: str = "standard",
        action_low: Sequence[float] | None = None,
        action_high: Sequence[float] | None = None,
        seed: int = 0,
    ) -> "IQL":
        """Make a new agent that fits recorded experience.

        Args:
            episodes: the recording.
            members: number of members; member i has the first weights of `seed + i`.
            discount: see the class.
            expectile: see the class.
            temperature: see the class.
            slow: see the class.
            normalize_returns: scale rewards so that the returns of the recorded episodes lie 1000
                apart, which is what the paper does with D4RL's locomotion tasks.
            value_features: see the class.
            width: see the class.
            depth: see the class.
            normalizer: "standard" or "limits", of observations.
            action_low: least value of each feature of an action, `env.action_space.low`: the agent
                never acts below. None takes -1, or the least recorded value where it is lower,
                and warns where the recorded actions fill less than half of that.
            action_high: likewise `env.action_space.high`; None takes 1, or the greatest.
            seed: of the first weights.

        Raises:
            PgdiffError: a setting is out of range; rewards or returns that do not differ; Dict
                observations.
        """
        return cls._fitted(
            episodes,
            normalizer=normalizer,
            action_low=action_low,
            action_high=action_high,
            members=members,
            seed=seed,
            discount=discount,
            expectile=expectile,
            temperature=temperature,
            slow=slow,
            reward_scale=_return_scale(episodes) if normalize_returns else 1.0,
            value_features=value_features,
            width=width,
            depth=depth,
        )

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Sums over members of the losses of value, critics and actor.

        Args:
            batch: a `TransitionBatch` of tensors.
            generator: not used.
        """
        observation, action, reward, following, ongoing = self._prepared(batch)
        pair = torch.cat([observation, action], dim=-1)
        with torch.no_grad():
            ahead = self.value_network(self._seen(following))[..., 0]
            target = reward + self.discount * ongoing * ahead
            worth = self.slow_critic(pair).amin(dim=1)
        advantage = worth - self.value_network(self._seen(observation))[..., 0]
        expectile = torch.where(advantage > 0, self.expectile, 1 - self.expectile)
        weight = (self.temperature * advantage.detach()).exp().clamp(max=MOST_WEIGHT)
        density = gaussian_log_prob(action, *self.actor(observation))
        return {
            "value": (expectile * advantage.square()).mean(dim=-1).sum(),
            "critic": self._critic_loss(pair, target),
            "actor": -(weight * density).mean(dim=-1).sum(),
        }

    def after_step(self) -> None:
        """Move the slow critics."""
        follow(self.slow_critic, self.critic, self.slow)

    def value(self, observation: Float[Tensor, "*batch observation"]) -> Float[Tensor, "*batch"]:
        """Estimated return from observations on; differentiable."""
        x = self._normalized(observation)
        values: Tensor = self.value_network(self._seen(flat(x))[None], members=FIRST)
        return values.reshape(x.shape[:-1]) / self.reward_scale

    def _seen(self, normalized: Tensor) -> Tensor:
        """What the value sees of normalised observations."""
        if self.value_features is None:
            return normalized
        return normalized[..., list(self.value_features)]


def _return_scale(episodes: Episodes) -> float:
    """Return the factor that makes the recorded returns lie `RETURN_RANGE` apart."""
    returns = discounted_returns(episodes, 1.0)[episodes.starts]
    spread = float(returns.max()) - float(returns.min())
    if spread <= 0:
        raise PgdiffError(
            "`normalize_returns` must be false where the recorded episodes have equal returns. "
            f"Got {float(returns[0])} for each of {len(episodes)}."
        )
    return RETURN_RANGE / spread
