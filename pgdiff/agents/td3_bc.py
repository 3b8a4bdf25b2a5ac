"""TD3 with behaviour cloning."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pgdiff.agents.actor_critic import ActorCritic
from pgdiff.agents.actors import DeterministicActor
from pgdiff.agents.slow import follow, slow_copy
from pgdiff.data import Episodes
from pgdiff.data.normalizers import Normalizer
from pgdiff.registry import register
from pgdiff.validation import check_positive_int, check_range


@register("learner", "td3_bc")
class TD3BC(ActorCritic):
    """TD3 plus behaviour cloning (Fujimoto and Gu 2021) of several members at once.

    The actor climbs the first critic and stays near recorded actions,
    `lambda Q(s, pi(s)) - (pi(s) - a)^2` with `lambda = alpha / mean |Q|` (section 5); that mean is
    of the actor's own actions, as in the paper's code. Critics are TD3's (Fujimoto et al. 2018).
    One step of training moves critics and actor by gradients at the same weights, where TD3 moves
    the critics first.

    Args:
        normalizer: of observations.
        action_low: least value of each feature of an action.
        action_high: greatest value of each.
        members: number of members; see `OfflineAgent`.
        discount: gamma, in (0, 1).
        alpha: weight of the critic in the actor's loss, at least 0: 0 clones the behaviour.
        policy_noise: deviation of the noise that smooths the target, with actions in [-1, 1]: 0.2
            is a tenth of the range from `action_low` to `action_high`, as in the paper where these
            are the bounds of the action space.
        noise_clip: bound of that noise.
        policy_delay: steps between two moves of the actor and of the slow copies.
        slow: share of the networks that their slow copies take on at a time.
        deviation: of the Gaussian about its action that `log_prob` takes the policy for, with
            actions in [-1, 1]; 1 is that of policy-guided diffusion (Jackson et al. 2024).
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
        alpha: float = 2.5,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        policy_delay: int = 2,
        slow: float = 0.005,
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
            slow=slow,
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
        self.slow_actor = slow_copy(self.actor)
        self.register_buffer("updates", torch.tensor(0))

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        *,
        members: int = 4,
        discount: float = 0.99,
        alpha: float = 2.5,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        policy_delay: int = 2,
        slow: float = 0.005,
        deviation: float = 1.0,
        width: int = 256,
        depth: int = 2,
        normalizer: str = "standard",
        action_low: Sequence[float] | None = None,
        action_high: Sequence[float] | None = None,
        seed: int = 0,
    ) -> "TD3BC":
        """Make a new agent that fits recorded experience.

        Args:
            episodes: the recording.
            members: number of members; member i has the first weights of `seed + i`.
            discount: see the class.
            alpha: see the class.
            policy_noise: see the class.
            noise_clip: see the class.
            policy_delay: see the class.
            slow: see the class.
            deviation: see the class.
            width: see the class.
            depth: see the class.
            normalizer: "standard" or "limits", of observations.
            action_low: least value of each feature of an action, `env.action_space.low`: the agent
                never acts below. None takes -1, or the least recorded value where it is lower,
                and warns where the recorded actions fill less than half of that.
            action_high: likewise `env.action_space.high`; None takes 1, or the greatest.
            seed: of the first weights.

        Raises:
            PgdiffError: a setting is out of range; rewards that do not differ; Dict observations.
        """
        return cls._fitted(
            episodes,
            normalizer=normalizer,
            action_low=action_low,
            action_high=action_high,
            members=members,
            seed=seed,
            discount=discount,
            alpha=alpha,
            policy_noise=policy_noise,
            noise_clip=noise_clip,
            policy_delay=policy_delay,
            slow=slow,
            deviation=deviation,
            width=width,
            depth=depth,
        )

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Sums over members of the losses of critics and, every `policy_delay` steps, actor.

        In the other steps the actor has no loss and so no gradient, and the optimiser leaves it
        and its moments alone. (A mean of recorded losses counts those steps as 0.)

        Args:
            batch: a `TransitionBatch` of tensors.
            generator: of the noise that smooths the target.
        """
        observation, action, reward, following, ongoing = self._prepared(batch)
        with torch.no_grad():
            noise = torch.empty_like(action).normal_(generator=generator) * self.policy_noise
            ahead, _ = self.slow_actor(following)
            ahead = (ahead + noise.clamp(-self.noise_clip, self.noise_clip)).clamp(-1, 1)
            worth = self.slow_critic(torch.cat([following, ahead], dim=-1)).amin(dim=1)
            target = reward + self.discount * ongoing * worth
        losses = {"critic": self._critic_loss(torch.cat([observation, action], dim=-1), target)}
        if self._moves_actor or not self.training:
            own, _ = self.actor(observation)
            worth = self.critic.first_head(torch.cat([observation, own], dim=-1))
            balance = self.alpha / worth.detach().abs().mean(dim=-1)
            cloning = (own - action).square().mean(dim=(-2, -1))
            losses["actor"] = (cloning - balance * worth.mean(dim=-1)).sum()
        return losses

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the slow copies, if the actor was moved."""
        if self._moves_actor:
            follow(self.slow_critic, self.critic, self.slow)
            follow(self.slow_actor, self.actor, self.slow)
        self.get_buffer("updates").add_(1)

    @property
    def _moves_actor(self) -> bool:
        done = int(self.get_buffer("updates"))
        return (done + 1) % self.policy_delay == 0
