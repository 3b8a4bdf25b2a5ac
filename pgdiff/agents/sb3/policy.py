"""Agents of Stable-Baselines3 for guides: differentiable, in raw units, in batches."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from gymnasium.spaces import Box
from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.agents.densities import gaussian_log_prob
from pgdiff.agents.sb3.families import FAMILIES, family_of
from pgdiff.agents.sb3.live import NO_STATISTICS, warn_wrapped
from pgdiff.agents.sb3.spaces import check_bounds, check_box
from pgdiff.agents.sb3.vec_normalize import VecNormalizeStatistics
from pgdiff.core.validation import PgdiffError, as_array, check_range

_LIMIT = 1 - 1e-6


class Agent(nn.Module):
    """A trained policy of Stable-Baselines3 and its critic; an `Actor` and an `ActionCritic`.

    Observations and actions are in raw units, with any leading batch shape. All methods except
    `predict` are differentiable in their arguments and compute in the precision of the weights.
    (`agent.double()` also converts the model that owns a live policy.)

    Densities refer to the policy's units: actions scaled to [-1, 1] for SAC, TQC, TD3 and DDPG, raw
    actions for PPO and A2C. The density of raw actions differs by a constant factor.

    Args:
        policy: `model.policy`; its weights are shared, not copied.
        algorithm: name of the algorithm that trained the policy, such as "SAC".
        vec_normalize: statistics that scale observations; None for unscaled observations.

    Attributes:
        algorithm: name of the algorithm.
        observation_space: a Gymnasium Box.
        action_space: a Gymnasium Box.
        law: "squashed" (tanh of a Gaussian), "diagonal" (a Gaussian) or "deterministic".

    Raises:
        PgdiffError: the policy is unsupported, actions are discrete, observations are images or
            dictionaries, or the statistics are of another size.

    Example:
        >>> from stable_baselines3 import TD3
        >>> model = TD3("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]}, device="cpu")
        >>> agent = Agent.of(model)
        >>> agent.q(torch.zeros(5, 3), torch.zeros(5, 1)).shape
        torch.Size([2, 5])
    """

    _low: Tensor
    _high: Tensor

    def __init__(
        self,
        policy: Any,
        *,
        algorithm: str,
        vec_normalize: VecNormalizeStatistics | None = None,
    ) -> None:
        super().__init__()
        family = family_of(policy)
        if family is None:
            raise PgdiffError(
                f"`policy` must be a policy of {', '.join(FAMILIES)}. Got "
                f"{type(policy).__module__}.{type(policy).__qualname__}."
            )
        self.observation_space: Box = check_box(policy.observation_space, name="observation_space")
        self.action_space: Box = check_box(policy.action_space, name="action_space")
        if policy.squash_output:
            check_bounds(self.action_space)
        size = self.observation_space.shape[0]
        if vec_normalize is not None and vec_normalize.mean.shape != (size,):
            raise PgdiffError(
                f"`vec_normalize` must have the agent's observation shape {(size,)}. "
                f"Got {tuple(vec_normalize.mean.shape)}."
            )
        self.algorithm = algorithm
        self.law = family.law.name
        self.policy = policy
        self.vec_normalize = vec_normalize
        self._law = family.law
        device = policy.device
        self.register_buffer("_low", torch.as_tensor(self.action_space.low, device=device))
        self.register_buffer("_high", torch.as_tensor(self.action_space.high, device=device))
        if vec_normalize is not None:
            vec_normalize.to(device)

    @classmethod
    def of(cls, model: Any, *, vec_normalize: VecNormalizeStatistics | None = None) -> Self:
        """Return an agent that shares the weights of a live model of Stable-Baselines3.

        The agent follows the model's weights, and the running statistics of its `VecNormalize` if
        it has one, while training continues. The model's training mode does not change.

        Args:
            model: model of an algorithm that `load` supports.
            vec_normalize: statistics that replace those of the model's `VecNormalize`.

        Raises:
            PgdiffError: the model is unsupported; see the class.
        """
        names = [base.__name__ for base in type(model).__mro__]
        algorithm = next((name for name in names if name in FAMILIES), None)
        if algorithm is None or not hasattr(model, "policy"):
            raise PgdiffError(
                f"`model` must be a model of {', '.join(FAMILIES)}. "
                f"Got a {type(model).__qualname__}."
            )
        warn_wrapped(model)
        wrapper = model.get_vec_normalize_env() if vec_normalize is None else None
        if wrapper is not None:
            vec_normalize = VecNormalizeStatistics.of(wrapper)
        elif vec_normalize is None and getattr(model, "_last_original_obs", None) is not None:
            warnings.warn(NO_STATISTICS, UserWarning, stacklevel=3)
        return cls(model.policy, algorithm=algorithm, vec_normalize=vec_normalize)

    # -------------------------------------------------------------------------------- acting

    def predict(
        self,
        observation: np.ndarray,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Return actions for raw observations, by Stable-Baselines3's `predict`.

        Args:
            observation: one observation, or a batch in the first dimension.
            state: returned unchanged.
            episode_start: not used, since no supported policy is recurrent.
            deterministic: return the most likely action; if False, a sample that is drawn with
                PyTorch's global generator, as in Stable-Baselines3.

        Returns:
            Actions in raw units, within the action space, and `state`.

        Raises:
            PgdiffError: observations have another shape, or the agent is in double precision.
        """
        if self._dtype != torch.float32:
            raise PgdiffError(
                "`predict` needs an agent in single precision, as Stable-Baselines3 does. Its "
                f"weights are {self._dtype}. Call `agent.float()`."
            )
        observation = as_array("observation", observation)
        size = self.observation_space.shape[0]
        if observation.ndim not in (1, 2) or observation.shape[-1] != size:
            raise PgdiffError(
                f"`observation` must be of shape ({size},) or (batch, {size}). "
                f"Got {observation.shape}."
            )
        if self.vec_normalize is not None:
            raw = torch.as_tensor(observation, device=self.policy.device)
            observation = self.vec_normalize(raw).cpu().numpy().astype(np.float32)
        with self._evaluating():
            actions, state = self.policy.predict(observation, state, episode_start, deterministic)
        # Scaling from [-1, 1] may move an action at a bound by a unit in the last place.
        return np.clip(actions, self.action_space.low, self.action_space.high), state

    def action(
        self, observation: Float[Tensor, "*batch observation"]
    ) -> Float[Tensor, "*batch action"]:
        """Return the deterministic action, in raw units (for PPO clipped to the action space)."""
        flat, batch = self._flatten(observation)
        with self._evaluating():
            mode = self._law.mode(self.policy, flat)
        if self.policy.squash_output:
            action = self._low + 0.5 * (mode + 1.0) * (self._high - self._low)
        else:
            action = mode.clamp(self._low, self._high)
        return action.to(mode.dtype).reshape(*batch, *self.action_space.shape)

    def log_prob(
        self,
        observation: Float[Tensor, "*batch observation"],
        action: Float[Tensor, "*batch action"],
        *,
        limit: float = _LIMIT,
        deviation: float | None = None,
    ) -> Float[Tensor, "*batch"]:
        """Return the log-density of actions, in the policy's units (see the class).

        It equals that of Stable-Baselines3 for diagonal Gaussians, and for squashed Gaussians if
        the scaled action is within `limit`. Beyond the limit it continues as its tangent, feature
        by feature, so that it is finite with a continuous gradient everywhere.

        Args:
            observation: in raw units.
            action: in raw units, inside or outside of the action space.
            limit: largest scaled action, in (0, 1), at which the density of a squashed Gaussian is
                evaluated. Its slope grows as 1 / (1 - limit).
            deviation: if given, return the density of a Gaussian of this standard deviation (in
                the policy's units) about the deterministic action. A deterministic policy has only
                this density, with 1.0 if None (as in policy-guided diffusion, Jackson et al.
                2024).

        Raises:
            PgdiffError: sizes differ from the agent's; the policy uses gSDE and `deviation` is
                None.
        """
        flat, batch = self._flatten(observation)
        scaled = self._to_policy_units(action, batch)
        if deviation is None and self._uses_sde:
            raise PgdiffError(
                "`deviation` must be given for an agent that explores with gSDE, whose density "
                "depends on a random matrix. Pass `deviation=` for a Gaussian about its action."
            )
        with self._evaluating():
            if deviation is None:
                return self._law.log_prob(self.policy, flat, scaled, limit=limit).reshape(batch)
            check_range("deviation", deviation, low=0.0, open_low=True)
            mode = self._law.mode(self.policy, flat)
        if not self.policy.squash_output:
            mode = mode.clamp(self._low, self._high).to(mode.dtype)
        return gaussian_log_prob(scaled, mode, math.log(deviation)).reshape(batch)

    # ------------------------------------------------------------------------------ critic

    def q(
        self,
        observation: Float[Tensor, "*batch observation"],
        action: Float[Tensor, "*batch action"],
    ) -> Float[Tensor, " heads *batch"]:
        """Return each critic's expected return of raw actions; TQC's is the mean of its quantiles.

        Raises:
            PgdiffError: the agent has no Q-function (PPO, A2C), or sizes differ from the agent's.
        """
        if not hasattr(self.policy, "critic"):
            raise PgdiffError(
                f"{self.algorithm} agents have no Q-function. Use `value()` for the value of an "
                "observation."
            )
        critic = self.policy.critic
        flat, batch = self._flatten(observation)
        scaled = self._to_policy_units(action, batch).to(self._dtype)
        with self._evaluating():
            # Not `critic(...)`, which casts to single precision, and stops the observation's
            # gradient if actor and critic share a features extractor.
            joint = torch.cat([critic.features_extractor(flat), scaled], dim=1)
            heads = [network(joint).mean(dim=1) for network in critic.q_networks]
        return torch.stack(heads).reshape(len(heads), *batch)

    def value(self, observation: Float[Tensor, "*batch observation"]) -> Float[Tensor, "*batch"]:
        """Return the expected return from observations (PPO, A2C).

        Raises:
            PgdiffError: the agent has a Q-function instead, or sizes differ from the agent's.
        """
        policy = self.policy
        if not hasattr(policy, "value_net"):
            raise PgdiffError(
                f"{self.algorithm} agents have no value function of observations. Use `q()` for "
                "the values of actions."
            )
        flat, batch = self._flatten(observation)
        with self._evaluating():
            latent = policy.mlp_extractor.forward_critic(policy.vf_features_extractor(flat))
            value: Tensor = policy.value_net(latent)
        return value.reshape(batch)

    # ----------------------------------------------------------------------------- details

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.policy.parameters()).dtype
        return dtype

    @property
    def _uses_sde(self) -> bool:
        return bool(getattr(getattr(self.policy, "actor", self.policy), "use_sde", False))

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Switch to evaluation mode within the context; restore each module's mode after it."""
        training = [module for module in self.policy.modules() if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True

    def _flatten(self, observation: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return scaled observations as rows, and the batch shape."""
        size = self.observation_space.shape[0]
        _check_tensor(observation, name="observation")
        if observation.ndim < 1 or observation.shape[-1] != size:
            raise PgdiffError(
                f"`observation` must be of shape (*batch, {size}). Got {tuple(observation.shape)}."
            )
        flat = observation.reshape(-1, size)
        if self.vec_normalize is not None:
            flat = self.vec_normalize(flat)
        return flat.to(self._dtype), tuple(observation.shape[:-1])

    def _to_policy_units(self, action: Tensor, batch: tuple[int, ...]) -> Tensor:
        """Return actions in the policy's units, as rows."""
        size = self.action_space.shape[0]
        _check_tensor(action, name="action")
        if tuple(action.shape) != (*batch, size):
            raise PgdiffError(
                f"`action` must be of shape {(*batch, size)}, the observation's batch and {size} "
                f"features. Got {tuple(action.shape)}."
            )
        flat = action.reshape(-1, size)
        if not self.policy.squash_output:
            return flat
        scaled = 2.0 * ((flat - self._low) / (self._high - self._low)) - 1.0
        return scaled.to(action.dtype)


def _check_tensor(value: object, *, name: str) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise PgdiffError(f"`{name}` must be a tensor of floating-point numbers. Got {kind}.")
