"""Implicit Q-learning."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.agents.actor_critic import ActorCritic
from pgdiff.agents.actors import GaussianActor
from pgdiff.agents.densities import gaussian_log_prob
from pgdiff.agents.offline import FIRST_MEMBER, OfflineAgent, flatten_batch
from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_features, check_range
from pgdiff.data import Episodes, discounted_returns
from pgdiff.data.normalizers import Normalizer
from pgdiff.nn.mlp import BatchedMLP
from pgdiff.nn.target_network import polyak_update

MAX_WEIGHT = 100.0
"""Largest weight of an action in the actor's loss, as in the code of Kostrikov et al."""

RETURN_RANGE = 1000.0
"""Range to which recorded returns of D4RL's locomotion tasks are scaled (ibid.)."""


@register("learner", "iql")
class IQL(ActorCritic):
    """Implicit Q-learning (Kostrikov et al. 2022) of several members at once.

    The value of an observation is an upper expectile of the critics' values of recorded actions
    (eq. 5). The critics are regressed on targets from this value (eq. 6). The actor, a Gaussian, is
    fitted to recorded actions weighted by the exponential of their advantage (eq. 7). Training
    evaluates recorded actions only.

    Args:
        normalizer: of observations.
        action_low: lower bound of each action feature.
        action_high: upper bound of each action feature.
        members: number of members; see `OfflineAgent`.
        discount: gamma, in (0, 1).
        expectile: the paper's tau, in (0, 1). Larger values approach the best recorded action; 0.5
            is the mean.
        temperature: beta, at least 0. Larger values favour actions of high advantage; 0 is
            behaviour cloning.
        tau: Polyak step of the target critics, in (0, 1]; larger values follow faster.
        reward_scale: factor of the rewards in training. Returned values are divided by it; the
            temperature is relative to scaled rewards.
        value_features: indices of the observation's features that are inputs of the value; all if
            None. A value of the position alone assumes the best recorded velocity at every
            position.
        width: units of each hidden layer.
        depth: number of hidden layers.

    Example:
        >>> import torch
        >>> from pgdiff.testing import example_episodes
        >>> agent = IQL.from_episodes(example_episodes(), members=1, width=16, expectile=0.9)
        >>> agent.q(torch.zeros(5, 4), torch.zeros(5, 2)).shape
        torch.Size([2, 5])
        >>> agent.value(torch.zeros(5, 4)).shape
        torch.Size([5])
    """

    fitted_arguments: ClassVar[tuple[str, ...]] = (*OfflineAgent.fitted_arguments, "reward_scale")

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
        tau: float = 0.005,
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
            tau=tau,
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
        inputs = size if self.value_features is None else len(self.value_features)
        self.value_network = BatchedMLP(members, inputs, 1, width=width, depth=depth)
        self._add_critics()
        self.actor = GaussianActor(members, size, self.actions.features, width=width, depth=depth)

    @classmethod
    def fit_arguments(
        cls, episodes: Episodes, *, normalize_returns: bool = False, **settings: Any
    ) -> dict[str, Any]:
        """Return the arguments of `OfflineAgent.fit_arguments`, and the factor of the rewards.

        Args:
            episodes: the recording.
            normalize_returns: scale rewards so that the returns of the recorded episodes span 1000,
                as the paper does for D4RL's locomotion tasks.
            **settings: see `OfflineAgent.fit_arguments`.

        Raises:
            PgdiffError: a setting is out of range; rewards or returns are all equal; Dict
                observations.
        """
        fitted = super().fit_arguments(episodes, **settings)
        scale = _return_scale(episodes) if normalize_returns else 1.0
        return fitted | {"reward_scale": scale}

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of value, critics and actor, summed over members.

        Args:
            batch: a `TransitionBatch` of tensors.
            generator: not used.
        """
        observation, action, reward, following, ongoing = self._prepared(batch)
        pair = torch.cat([observation, action], dim=-1)
        with torch.no_grad():
            next_value = self.value_network(self._select(following))[..., 0]
            target = reward + self.discount * ongoing * next_value
            q = self.target_critic(pair).amin(dim=1)
        advantage = q - self.value_network(self._select(observation))[..., 0]
        expectile = torch.where(advantage > 0, self.expectile, 1 - self.expectile)
        weight = (self.temperature * advantage.detach()).exp().clamp(max=MAX_WEIGHT)
        density = gaussian_log_prob(action, *self.actor(observation))
        return {
            "value": (expectile * advantage.square()).mean(dim=-1).sum(),
            "critic": self._critic_loss(pair, target),
            "actor": -(weight * density).mean(dim=-1).sum(),
        }

    def after_step(self) -> None:
        """Update the target critics."""
        polyak_update(self.target_critic, self.critic, self.tau)

    def value(self, observation: Float[Tensor, "*batch observation"]) -> Float[Tensor, "*batch"]:
        """Return the estimated return from observations; differentiable."""
        x = self._normalized(observation)
        values: Tensor = self.value_network(
            self._select(flatten_batch(x))[None], members=FIRST_MEMBER
        )
        return values.reshape(x.shape[:-1]) / self.reward_scale

    def _select(self, normalized: Tensor) -> Tensor:
        """Return the features of normalised observations that are inputs of the value."""
        if self.value_features is None:
            return normalized
        return normalized[..., list(self.value_features)]


def _return_scale(episodes: Episodes) -> float:
    """Return the factor that scales the range of recorded returns to `RETURN_RANGE`."""
    returns = discounted_returns(episodes, 1.0)[episodes.starts]
    spread = float(returns.max()) - float(returns.min())
    if spread <= 0:
        raise PgdiffError(
            "`normalize_returns` must be false if all recorded episodes have equal returns. "
            f"Got {float(returns[0])} for each of {len(episodes)}."
        )
    return RETURN_RANGE / spread
