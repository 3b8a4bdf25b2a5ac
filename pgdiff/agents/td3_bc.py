"""TD3 with behaviour cloning (TD3+BC)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pgdiff.agents.actor_critic import ActorCritic
from pgdiff.agents.actors import DeterministicActor
from pgdiff.core.registry import register
from pgdiff.core.validation import check_positive_int, check_range
from pgdiff.data.normalizers import Normalizer
from pgdiff.nn.target_network import polyak_update, target_copy


@register("learner", "td3_bc")
class TD3BC(ActorCritic):
    """TD3 plus behaviour cloning (Fujimoto and Gu 2021) of several members at once.

    The actor maximises `lambda Q(s, pi(s)) - (pi(s) - a)^2`, which keeps it near recorded actions,
    with the first critic Q and `lambda = alpha / mean |Q|` (section 5). The mean is over the
    actor's actions, as in the paper's code. The critics are those of TD3 (Fujimoto et al. 2018).
    One training step updates critics and actor with gradients at the same weights, whereas TD3
    updates the critics first.

    Args:
        normalizer: of observations.
        action_low: lower bound of each action feature.
        action_high: upper bound of each action feature.
        members: number of members; see `OfflineAgent`.
        discount: gamma, in (0, 1).
        alpha: weight of the critic in the actor's loss, at least 0. Larger values move the actor
            further from the recorded actions; 0 is behaviour cloning.
        policy_noise: standard deviation of the noise that smooths the target, for actions scaled
            to [-1, 1]. 0.2, the paper's value, is a tenth of `action_high - action_low`.
        noise_clip: bound of this noise.
        policy_delay: training steps between two updates of the actor and of the target networks.
        tau: Polyak step of the target networks, in (0, 1]; larger values follow faster.
        deviation: standard deviation of the Gaussian about the action whose density `log_prob`
            returns, for actions scaled to [-1, 1]; policy-guided diffusion uses 1 (Jackson et al.
            2024).
        width: units of each hidden layer.
        depth: number of hidden layers.

    Example:
        >>> from pgdiff.testing import example_episodes
        >>> agent = TD3BC.from_episodes(example_episodes(), members=2, width=16)
        >>> action, _ = agent.predict([0.5, 0.0, 0.1, 0.0])
        >>> action.shape
        (2,)
    """

    def __init__(
        self,
        *,
        normalizer: Normalizer,
        action_low: Sequence[float],
        action_high: Sequence[float],
        members: int = 4,
        discount: float = 0.99,
        alpha: float = 2.5,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        policy_delay: int = 2,
        tau: float = 0.005,
        deviation: float = 1.0,
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
        self.alpha = check_range("alpha", alpha, low=0)
        self.policy_noise = check_range("policy_noise", policy_noise, low=0)
        self.noise_clip = check_range("noise_clip", noise_clip, low=0)
        self.policy_delay = check_positive_int("policy_delay", policy_delay)
        self.deviation = deviation
        self._add_critics()
        self.actor = DeterministicActor(
            members,
            self.normalizer.features,
            self.actions.features,
            width=width,
            depth=depth,
            deviation=deviation,
        )
        self.target_actor = target_copy(self.actor)
        self.register_buffer("updates", torch.tensor(0))

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of critics and, every `policy_delay` steps, actor, summed over members.

        In all other steps the actor has no loss and no gradient, so that the optimiser changes
        neither its weights nor their moments. (A mean of logged losses counts these steps as 0.)

        Args:
            batch: a `TransitionBatch` of tensors.
            generator: draws the noise that smooths the target.
        """
        observation, action, reward, following, ongoing = self._prepared(batch)
        with torch.no_grad():
            noise = torch.empty_like(action).normal_(generator=generator) * self.policy_noise
            next_action, _ = self.target_actor(following)
            noise = noise.clamp(-self.noise_clip, self.noise_clip)
            next_action = (next_action + noise).clamp(-1, 1)
            value = self.target_critic(torch.cat([following, next_action], dim=-1)).amin(dim=1)
            target = reward + self.discount * ongoing * value
        losses = {"critic": self._critic_loss(torch.cat([observation, action], dim=-1), target)}
        if self._updates_actor or not self.training:
            chosen, _ = self.actor(observation)
            q = self.critic.first_head(torch.cat([observation, chosen], dim=-1))
            balance = self.alpha / q.detach().abs().mean(dim=-1)
            cloning = (chosen - action).square().mean(dim=(-2, -1))
            losses["actor"] = (cloning - balance * q.mean(dim=-1)).sum()
        return losses

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the target networks, if the actor was updated."""
        if self._updates_actor:
            polyak_update(self.target_critic, self.critic, self.tau)
            polyak_update(self.target_actor, self.actor, self.tau)
        self.get_buffer("updates").add_(1)

    @property
    def _updates_actor(self) -> bool:
        done = int(self.get_buffer("updates"))
        return (done + 1) % self.policy_delay == 0
