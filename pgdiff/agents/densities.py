"""Mode and log-density of the action distributions of Stable-Baselines3's policies.

Actions are in the policy's units: scaled to [-1, 1] for SAC, TQC, TD3 and DDPG, raw for PPO and
A2C.
"""

import math
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.validation import check_range

_LOG_STD_RANGE = (-20.0, 2.0)  # stable_baselines3.sac.policies: LOG_STD_MIN, LOG_STD_MAX
_EPSILON = 1e-6  # stable_baselines3.common.distributions: SquashedDiagGaussianDistribution


def gaussian_log_prob(
    action: Float[Tensor, "batch action"],
    mean: Float[Tensor, "batch action"],
    log_std: Float[Tensor, "#batch action"] | float,
) -> Float[Tensor, " batch"]:
    """Return the log-density of independent Gaussians, summed over the features of an action."""
    log_std = torch.as_tensor(log_std, dtype=mean.dtype, device=mean.device)
    return _gaussian(action, mean, log_std.exp()).sum(dim=-1)


def squashed_log_prob(
    action: Float[Tensor, "batch action"],
    mean: Float[Tensor, "batch action"],
    log_std: Float[Tensor, "batch action"],
    *,
    limit: float,
) -> Float[Tensor, " batch"]:
    """Return the log-density of `tanh` of independent Gaussians, extended beyond its support.

    `sum log N(artanh a; mean, std) - sum log(1 - a^2 + 1e-6)` (Haarnoja et al. 2018, appendix C,
    eq. 21, with Stable-Baselines3's constant) where |a| <= `limit`. Beyond the limit, the term of
    each feature continues as its tangent at the limit, so that the result is finite and has a
    continuous gradient for any finite action.

    Raises:
        PgdiffError: `limit` is not between 0 and the largest number below 1 in the action's
            precision.
    """
    highest = 1 - torch.finfo(action.dtype).eps
    check_range("limit", limit, low=0.0, high=highest, open_low=True)
    inside = action.clamp(-limit, limit)
    beyond = action - inside
    std = log_std.exp()
    # artanh in the form that Stable-Baselines3 uses, for bitwise equal results.
    latent = 0.5 * (inside.log1p() - (-inside).log1p())
    slope = -(latent - mean) / std**2 / (1 - inside**2)
    normal = _gaussian(latent, mean, std) + slope * beyond
    volume = 1 - inside**2 + _EPSILON
    correction = volume.log() - 2 * inside / volume * beyond
    return normal.sum(dim=-1) - correction.sum(dim=-1)


def _gaussian(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return -((value - mean) ** 2) / (2 * std**2) - std.log() - math.log(math.sqrt(2 * math.pi))


class Law(Protocol):
    """Action distribution of a kind of policy; `policy` is an object of Stable-Baselines3."""

    name: str

    def mode(
        self, policy: Any, observation: Float[Tensor, "batch observation"]
    ) -> Float[Tensor, "batch action"]:
        """Return the most likely action, in the policy's units."""
        ...

    def log_prob(
        self,
        policy: Any,
        observation: Float[Tensor, "batch observation"],
        action: Float[Tensor, "batch action"],
        *,
        limit: float,
    ) -> Float[Tensor, " batch"]:
        """Return the log-density of actions, in the policy's units."""
        ...


class Squashed:
    """`tanh` of a Gaussian with mean and deviation from a network: SAC, TQC."""

    name = "squashed"

    def mode(self, policy: Any, observation: Tensor) -> Tensor:
        """Return `tanh` of the mean."""
        return torch.tanh(policy.actor.mu(self._latent(policy, observation)))

    def log_prob(self, policy: Any, observation: Tensor, action: Tensor, *, limit: float) -> Tensor:
        """Return `squashed_log_prob`."""
        latent = self._latent(policy, observation)
        mean, log_std = policy.actor.mu(latent), policy.actor.log_std(latent)
        return squashed_log_prob(action, mean, log_std.clamp(*_LOG_STD_RANGE), limit=limit)

    def _latent(self, policy: Any, observation: Tensor) -> Tensor:
        # Not `extract_features`, which casts to single precision.
        latent: Tensor = policy.actor.latent_pi(policy.actor.features_extractor(observation))
        return latent


class Diagonal:
    """A Gaussian with the same deviation at every observation: PPO, A2C."""

    name = "diagonal"

    def mode(self, policy: Any, observation: Tensor) -> Tensor:
        """Return the mean."""
        mean = self._mean(policy, observation)
        return torch.tanh(mean) if policy.squash_output else mean

    def log_prob(self, policy: Any, observation: Tensor, action: Tensor, *, limit: float) -> Tensor:
        """Return `gaussian_log_prob`; `limit` is not used."""
        return gaussian_log_prob(action, self._mean(policy, observation), policy.log_std)

    def _mean(self, policy: Any, observation: Tensor) -> Tensor:
        features = policy.pi_features_extractor(observation)
        mean: Tensor = policy.action_net(policy.mlp_extractor.forward_actor(features))
        return mean


class Deterministic:
    """A single action for each observation: TD3, DDPG."""

    name = "deterministic"

    def mode(self, policy: Any, observation: Tensor) -> Tensor:
        """Return the action."""
        mode: Tensor = policy.actor.mu(policy.actor.features_extractor(observation))
        return mode

    def log_prob(self, policy: Any, observation: Tensor, action: Tensor, *, limit: float) -> Tensor:
        """Return the log-density of a unit Gaussian, as in policy-guided diffusion."""
        return gaussian_log_prob(action, self.mode(policy, observation), 0.0)
