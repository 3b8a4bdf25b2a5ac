"""An agent of Stable-Baselines3 as a guide needs it: differentiable, in raw units, in batches."""

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

from pgdiff.agents.density import gaussian_log_prob
from pgdiff.agents.families import FAMILIES, family_of
from pgdiff.agents.live import NO_STATISTICS, warn_wrapped
from pgdiff.agents.spaces import check_bounds, check_box
from pgdiff.agents.vec_normalize import VecNormalizeStatistics
from pgdiff.validation import PgdiffError, as_array, check_range

_LIMIT = 1 - 1e-6


class Agent(nn.Module):
    """A trained policy of Stable-Baselines3, and its critic; an `Actor` and an `ActionCritic`.

    Observations and actions are in raw units, and have any leading batch shape. Everything but
    `predict` is differentiable in its arguments and computed in the precision of the weights
    (`agent.double()` doubles it, for the model too that a live policy belongs to).

    A density is one of the actor's own units: of actions scaled to [-1, 1] for SAC, TQC, TD3 and
    DDPG, of raw ones for PPO and A2C. That of raw actions differs from it by a constant.

    Args:
        policy: `model.policy`; its weights are shared, not copied.
        algorithm: what trained it, "SAC" say.
        vec_normalize: what scales the observations, if anything does.

    Attributes:
        algorithm: as above.
        observation_space: a Gymnasium Box, as is `action_space`.
        action_space: see above.
        law: "squashed" (a Gaussian's tanh), "diagonal" (a Gaussian) or "deterministic".

    Raises:
        PgdiffError: a policy of another kind, discrete actions, observations that are images or
            dictionaries, or statistics of another size.
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
                f"`policy` must be that of an agent by {', '.join(FAMILIES)}. Got "
                f"{type(policy).__module__}.{type(policy).__qualname__}."
            )
        self.observation_space: Box = check_box(policy.observation_space, name="observation_space")
        self.action_space: Box = check_box(policy.action_space, name="action_space")
        if policy.squash_output:
            check_bounds(self.action_space)
        size = self.observation_space.shape[0]
        if vec_normalize is not None and vec_normalize.mean.shape != (size,):
            raise PgdiffError(
                f"`vec_normalize` must be of observations of shape {(size,)}, as the agent is. "
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
        """Make an agent of a live model of Stable-Baselines3, which may go on training.

        Weights and the running statistics of the model's `VecNormalize`, if it has one, are
        shared: the agent follows them. Whether the model is in training mode is left as it is.

        Args:
            model: of one of the algorithms that `load` knows.
            vec_normalize: statistics instead of those of the model's own `VecNormalize`.

        Raises:
            PgdiffError: as the class.
        """
        names = [base.__name__ for base in type(model).__mro__]
        algorithm = next((name for name in names if name in FAMILIES), None)
        if algorithm is None or not hasattr(model, "policy"):
            raise PgdiffError(
                f"`model` must be of one of the algorithms {', '.join(FAMILIES)}. "
                f"Got a {type(model).__qualname__}."
            )
        warn_wrapped(model)
        own = model.get_vec_normalize_env() if vec_normalize is None else None
        if own is not None:
            vec_normalize = VecNormalizeStatistics.of(own)
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
        """Act, by Stable-Baselines3's own `predict`, on raw observations.

        Args:
            observation: one, or a batch in the first dimension.
            state: passed on as it is.
            episode_start: not used: no policy here is recurrent.
            deterministic: the most likely action; if False one is drawn, from PyTorch's global
                generator, as Stable-Baselines3 does.

        Returns:
            Actions in raw units, within the action space, and `state`.

        Raises:
            PgdiffError: observations of another shape, or an agent in double precision.
        """
        if self._dtype != torch.float32:
            raise PgdiffError(
                "`predict` is Stable-Baselines3's own, which needs an agent in single precision "
                f"(`agent.float()`). Its weights are {self._dtype}."
            )
        seen = as_array("observation", observation)
        size = self.observation_space.shape[0]
        if seen.ndim not in (1, 2) or seen.shape[-1] != size:
            raise PgdiffError(
                f"`observation` must be of shape ({size},) or (batch, {size}). Got {seen.shape}."
            )
        if self.vec_normalize is not None:
            raw = torch.as_tensor(seen, device=self.policy.device)
            seen = self.vec_normalize(raw).cpu().numpy().astype(np.float32)
        with self._evaluating():
            actions, state = self.policy.predict(seen, state, episode_start, deterministic)
        # Scaled back from [-1, 1], an action at a bound may be off by a unit in the last place.
        return np.clip(actions, self.action_space.low, self.action_space.high), state

    def action(
        self, observation: Float[Tensor, "*batch observation"]
    ) -> Float[Tensor, "*batch action"]:
        """The action that is deterministically taken, raw units (for PPO clipped to the space)."""
        flat, batch = self._flatten(observation)
        with self._evaluating():
            own = self._law.mode(self.policy, flat)
        if self.policy.squash_output:
            action = self._low + 0.5 * (own + 1.0) * (self._high - self._low)
        else:
            action = own.clamp(self._low, self._high)
        return action.to(own.dtype).reshape(*batch, *self.action_space.shape)

    def log_prob(
        self,
        observation: Float[Tensor, "*batch observation"],
        action: Float[Tensor, "*batch action"],
        *,
        limit: float = _LIMIT,
        deviation: float | None = None,
    ) -> Float[Tensor, "*batch"]:
        """Log-density of actions, in the actor's own units (see the class).

        It is Stable-Baselines3's own where a squashed actor's scaled action is within `limit`, and
        at any action of a diagonal one. Beyond, it goes on as its tangent, feature by feature: it
        is finite with a continuous gradient everywhere.

        Args:
            observation: raw units.
            action: raw units, in or out of the action space.
            limit: largest scaled action, in (0, 1), at which a squashed actor's own density is
                taken. Its slope grows as 1 / (1 - limit).
            deviation: if given, take a Gaussian of this standard deviation (in the actor's own
                units) about the action that is deterministically taken. A deterministic actor has
                no density but this, with 1.0 if None (as in policy-guided diffusion, Jackson et
                al. 2024).

        Raises:
            PgdiffError: sizes that are not the agent's; an actor with gSDE without `deviation`.
        """
        flat, batch = self._flatten(observation)
        own = self._own_action(action, batch)
        if deviation is None and self._uses_sde:
            raise PgdiffError(
                "The agent explores with gSDE, whose density depends on a matrix of noise that is "
                "drawn anew while it runs. Pass `deviation=`: the density is then a Gaussian's "
                "about its action."
            )
        with self._evaluating():
            if deviation is None:
                return self._law.log_prob(self.policy, flat, own, limit=limit).reshape(batch)
            check_range("deviation", deviation, low=0.0, open_low=True)
            mode = self._law.mode(self.policy, flat)
        if not self.policy.squash_output:
            mode = mode.clamp(self._low, self._high).to(mode.dtype)
        return gaussian_log_prob(own, mode, math.log(deviation)).reshape(batch)

    # ------------------------------------------------------------------------------ critic

    def q(
        self,
        observation: Float[Tensor, "*batch observation"],
        action: Float[Tensor, "*batch action"],
    ) -> Float[Tensor, " heads *batch"]:
        """Returns that each critic expects of raw actions; TQC's are means over its quantiles.

        Raises:
            PgdiffError: an agent without critics of actions (PPO, A2C), or sizes that are not its.
        """
        if not hasattr(self.policy, "critic"):
            raise PgdiffError(
                f"A {self.algorithm} agent has no critic of actions, so `q` is not to be had. Its "
                "critic of observations is `value`."
            )
        critic = self.policy.critic
        flat, batch = self._flatten(observation)
        own = self._own_action(action, batch).to(self._dtype)
        with self._evaluating():
            # Not `critic(...)`, which casts to single precision, and cuts the observation's
            # gradient where actor and critic share a features extractor.
            joint = torch.cat([critic.features_extractor(flat), own], dim=1)
            heads = [network(joint).mean(dim=1) for network in critic.q_networks]
        return torch.stack(heads).reshape(len(heads), *batch)

    def value(self, observation: Float[Tensor, "*batch observation"]) -> Float[Tensor, "*batch"]:
        """Returns that the critic of observations expects (PPO, A2C).

        Raises:
            PgdiffError: an agent whose critics are of actions (`q`), or sizes that are not its.
        """
        policy = self.policy
        if not hasattr(policy, "value_net"):
            raise PgdiffError(
                f"A {self.algorithm} agent has no critic of observations alone, so `value` is not "
                "to be had. Its critics of actions are `q`."
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
        """Dropout and the like are off within; a live model's flags are as before after it."""
        training = [module for module in self.policy.modules() if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True

    def _flatten(self, observation: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Observations as the network takes them, and the batch shape."""
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

    def _own_action(self, action: Tensor, batch: tuple[int, ...]) -> Tensor:
        """Actions in the actor's own units, one row each."""
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
