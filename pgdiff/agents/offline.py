"""What the agents that learn from recordings have in common: members, units, acting."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium.spaces import Box
from jaxtyping import Float
from torch import Tensor

from pgdiff.agents.actors import DeterministicActor, GaussianActor
from pgdiff.agents.bounds import action_scale, recorded_bounds
from pgdiff.agents.density import gaussian_log_prob
from pgdiff.agents.members import joined, taken
from pgdiff.data import Episodes
from pgdiff.data.normalizers import Normalizer, fit_normalizer
from pgdiff.data.selection import selected
from pgdiff.pretrained import Pretrained, seeded_torch
from pgdiff.validation import PgdiffError, as_array, check_positive_int, check_seed

FIRST = slice(1)


class OfflineAgent(Pretrained):
    """Base of agents that are trained offline, several members of different seeds at once.

    Members learn side by side and know nothing of each other: losses are sums over members, so
    that each gets the gradient that it would get alone. (A gradient that is clipped by its norm
    would couple them: train with `clip_norm=None`.) Every method is of the first member;
    `member(i)` is an agent of one. What is not said to be scaled is in the recording's units.

    Args:
        normalizer: of observations.
        action_low: least value of each feature of an action.
        action_high: greatest value of each.
        members: number of members.
        width: of the hidden layers.
        depth: number of hidden layers.
    """

    actor: GaussianActor | DeterministicActor
    learns_from_rewards: ClassVar[bool] = True

    def __init__(
        self,
        *,
        normalizer: Normalizer,
        action_low: Sequence[float],
        action_high: Sequence[float],
        members: int,
        width: int,
        depth: int,
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.action_low, self.action_high = tuple(action_low), tuple(action_high)
        self.actions = action_scale(self.action_low, self.action_high)
        self.members = check_positive_int("members", members)
        self.width, self.depth = width, depth
        self.set_random_seed(0)

    @classmethod
    def _fitted(
        cls,
        episodes: Episodes,
        *,
        normalizer: str,
        action_low: Sequence[float] | None,
        action_high: Sequence[float] | None,
        members: int,
        seed: int,
        **settings: Any,
    ) -> Self:
        """Make agents that fit recorded experience, member i with the first weights of `seed + i`.

        So member i is, at first, the only member of an agent that is made with `seed + i`.
        """
        check_flat(episodes)
        if cls.learns_from_rewards:
            check_rewards(episodes)
        low, high = recorded_bounds(episodes, action_low, action_high)
        settings |= {
            "normalizer": fit_normalizer(normalizer, [selected(episodes, "observations")]),
            "action_low": low,
            "action_high": high,
        }
        members = check_positive_int("members", members)
        seed = check_seed("seed", seed)
        states = []
        for number in range(members):
            with seeded_torch(seed=seed + number):
                states.append(cls(members=1, **settings).state_dict())
        with seeded_torch(seed=0):  # overwritten at once
            agent = cls(members=members, **settings)
        agent.load_state_dict(joined(states))
        return agent

    def member(self, index: int) -> Self:
        """Return the agent that one member is: the same weights, in the same memory.

        Raises:
            PgdiffError: there is no such member.
        """
        if check_positive_int("index", index, minimum=0) >= self.members:
            raise PgdiffError(f"`index` must be below {self.members}, the members. Got {index}.")
        names = inspect.signature(type(self)).parameters
        settings = {name: getattr(self, name) for name in names} | {"members": 1}
        with seeded_torch(seed=0):  # overwritten at once
            agent = type(self)(**settings)
        own = taken(self.state_dict(), index, members=self.members)
        agent.load_state_dict(own, assign=True)
        return agent.train(self.training)

    # --------------------------------------------------------------------------------- what it is

    @property
    def observation_space(self) -> Box:
        """The space of observations, without bounds."""
        return Box(-np.inf, np.inf, (self.normalizer.features,), np.float32)

    @property
    def action_space(self) -> Box:
        """The space of actions."""
        return Box(*self._bounds)

    # ------------------------------------------------------------------------------------- acting

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Float[np.ndarray, "*batch action"], Any]:
        """Act, as agents of Stable-Baselines3 do.

        Args:
            observation: `[observation]`, or a batch of them.
            state: handed back.
            episode_start: not used.
            deterministic: take the mean of the policy, else draw from it; a policy that is
                deterministic ignores it.

        Returns:
            Actions within the bounds, float32, and `state`.

        Raises:
            PgdiffError: the observation is of another shape, or not finite.
        """
        given = self._checked(observation)
        with torch.no_grad():
            like = next(self.parameters())
            mean, log_deviation = self._policy(torch.from_numpy(given).to(like))
            center, scale = (part.numpy() for part in (self.actions.center, self.actions.scale))
            action = mean.cpu().numpy()
            if self.actor.stochastic and not deterministic:
                deviation = log_deviation.exp().cpu().numpy()
                action = action + deviation * self._random.standard_normal(action.shape)
        raw = (action * scale + center).astype(np.float32)
        return np.clip(raw, *self._bounds), state

    def set_random_seed(self, seed: int) -> None:
        """Let the actions that `predict` draws next follow from `seed`; it is 0 at first."""
        self._random = np.random.default_rng(check_seed("seed", seed))

    def action(
        self, observation: Float[Tensor, "*batch observation"]
    ) -> Float[Tensor, "*batch action"]:
        """The action, or the mean of the policy; differentiable."""
        mean, _ = self._policy(observation)
        return self.actions.unnormalize(mean)

    def log_prob(
        self,
        observation: Float[Tensor, "*batch observation"],
        action: Float[Tensor, "*batch action"],
    ) -> Float[Tensor, "*batch"]:
        """Log-density of actions, finite everywhere; differentiable in both."""
        mean, log_deviation = self._policy(observation)
        density = gaussian_log_prob(self._scaled(action), mean, log_deviation)
        return density - self.actions.scale.to(density).log().sum()

    # ------------------------------------------------------------------------------------ details

    @property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.action_low, np.float32), np.array(self.action_high, np.float32)

    def _policy(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled mean and log-deviation of the first member's policy."""
        x = self._normalized(observation)
        mean, log_deviation = self.actor(flat(x)[None], members=FIRST)
        return mean.reshape(*x.shape[:-1], self.actions.features), log_deviation.flatten()

    def _normalized(self, observation: Tensor) -> Tensor:
        check_last("observation", observation.shape, self.normalizer.features)
        return self.normalizer.normalize(observation)

    def _scaled(self, action: Tensor) -> Tensor:
        check_last("action", action.shape, self.actions.features)
        return self.actions.normalize(action)

    def _checked(self, observation: Any) -> Float[np.ndarray, "*batch observation"]:
        if isinstance(observation, Mapping):
            raise PgdiffError(
                "`observation` must be an array, as in the recording. Got a mapping of "
                f"{sorted(map(str, observation))}."
            )
        given = as_array("observation", observation)
        check_last("observation", given.shape, self.normalizer.features)
        if given.dtype.kind not in "fiub" or not np.isfinite(given).all():
            raise PgdiffError(f"`observation` must be finite numbers. Got {given.tolist()}.")
        return given.astype(np.float32)


def check_last(name: str, shape: Sequence[int], size: int) -> None:
    """Raise an error unless the last axis is of the recording's size."""
    if not shape or shape[-1] != size:
        raise PgdiffError(
            f"`{name}` must have the shape [..., {size}], as in the recording. Got {list(shape)}."
        )


def flat(x: Float[Tensor, "*batch features"]) -> Float[Tensor, "rows features"]:
    """Return all rows of whatever leading shape, of an empty one too."""
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])


def check_flat(episodes: Episodes) -> None:
    """Raise an error where the observations were made of Dicts, which no agent here takes."""
    if episodes.observation_layout is not None:
        raise PgdiffError(
            "`episodes` must be of observations that are arrays. Got a recording of Dict "
            "observations, whose goals an agent would not see; record the environment within "
            "gymnasium.wrappers.FlattenObservation."
        )


def check_rewards(episodes: Episodes) -> None:
    """Raise an error where every action is worth the same: equal rewards, and no end to come."""
    rewards = selected(episodes, "rewards")
    if not selected(episodes, "terminals").any() and (rewards == rewards[0]).all():
        raise PgdiffError(
            f"`rewards` must differ for an agent to learn from. Got {float(rewards[0])} "
            "in every row, and no terminal; `cloning` needs no rewards."
        )
