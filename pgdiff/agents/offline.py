"""Base of the agents that learn from recordings: members, action bounds, acting."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium.spaces import Box
from jaxtyping import Float
from torch import Tensor

from pgdiff.agents.actors import DeterministicActor, GaussianActor
from pgdiff.agents.densities import gaussian_log_prob
from pgdiff.core.pretrained import seeded_torch
from pgdiff.core.validation import (
    PgdiffError,
    as_array,
    check_positive_int,
    check_range,
    check_seed,
)
from pgdiff.data import Episodes, LimitsNormalizer
from pgdiff.data.fitting import FromEpisodes
from pgdiff.data.normalizers import Normalizer, fit_normalizer
from pgdiff.data.selection import selected

State = dict[str, Tensor]


def stack_members(states: Sequence[State]) -> State:
    """Concatenate the weights of equal learners along the first axis of every tensor.

    Tensors without an axis (a count of updates) are copied from the first learner.
    """
    return {
        name: first if first.ndim == 0 else torch.cat([state[name] for state in states])
        for name, first in states[0].items()
    }


def slice_member(state: State, index: int, *, members: int) -> State:
    """Return the weights of one learner from stacked weights: views, and copies of counts."""
    return {
        name: value.clone() if value.ndim == 0 else value.chunk(members)[index]
        for name, value in state.items()
    }


_LEAST_SHARE = 0.5

Bounds = tuple[float, ...]


def resolve_action_bounds(
    episodes: Episodes,
    low: Sequence[float] | None,
    high: Sequence[float] | None,
    *,
    warn: bool = True,
) -> tuple[Bounds, Bounds]:
    """Return the given bounds; replace None by -1 and 1, or by the recorded range if it is wider.

    A recording does not contain the bounds of the action space. If neither bound is given and the
    recorded actions fill less than half of the assumed interval, a warning is issued: the agent may
    act outside the action space, and noise in units of the interval (`policy_noise` of TD3) is
    larger than in the paper.

    Args:
        episodes: the recording.
        low: lower bound of each action feature, such as `env.action_space.low`; None if unknown.
        high: upper bound of each action feature.
        warn: whether to warn about a wide interval.

    Raises:
        PgdiffError: given bounds are not one number for each action feature.
    """
    actions = selected(episodes, "actions")
    least, greatest = actions.min(axis=0), actions.max(axis=0)
    lowest = np.minimum(least, -1.0) if low is None else low
    highest = np.maximum(greatest, 1.0) if high is None else high
    for name, given in (("action_low", low), ("action_high", high)):
        if given is not None and np.shape(given) != actions.shape[1:]:
            raise PgdiffError(
                f"`{name}` must be {actions.shape[1]} numbers, one for each feature of an action. "
                f"Got {given!r}."
            )
    if warn and low is None and high is None:
        _warn_wide_bounds(least, greatest, np.asarray(lowest), np.asarray(highest))
    return tuple(map(float, lowest)), tuple(map(float, highest))


def _warn_wide_bounds(
    least: np.ndarray, greatest: np.ndarray, lowest: np.ndarray, highest: np.ndarray
) -> None:
    """Warn if recorded actions fill less than half of the assumed bounds.

    Constant features are skipped: their bounds cannot be judged.
    """
    share = np.where(greatest > least, (greatest - least) / (highest - lowest), 1.0)
    feature = int(np.argmin(share))
    if share[feature] < _LEAST_SHARE:
        warnings.warn(
            f"`action_low` and `action_high` are assumed to be {lowest[feature]:g} and "
            f"{highest[feature]:g} for feature {feature} of `actions`, whose recorded values range "
            f"from {least[feature]:.3g} to {greatest[feature]:.3g}. Pass env.action_space.low and "
            "env.action_space.high, or the agent may act outside the action space.",
            UserWarning,
            stacklevel=6,
        )


def action_normalizer(low: Bounds, high: Bounds) -> LimitsNormalizer:
    """Return the map of actions between these bounds to [-1, 1].

    Raises:
        PgdiffError: bounds that are not finite, not in order or of different lengths.
    """
    for name, bounds in (("action_low", low), ("action_high", high)):
        for bound in bounds:
            check_range(name, bound)
    if not low or len(low) != len(high) or any(a >= b for a, b in zip(low, high, strict=True)):
        raise PgdiffError(
            "`action_low` must be below `action_high` in every feature of an action. "
            f"Got {list(low)} and {list(high)}."
        )
    bottom, top = torch.tensor(low), torch.tensor(high)
    return LimitsNormalizer((bottom + top) / 2, (top - bottom) / 2)


FIRST_MEMBER = slice(1)


class OfflineAgent(FromEpisodes):
    """Base of agents that are trained offline, with several independent members at once.

    Each member has its own initial weights and minibatches. Losses are sums over members, so that
    a member's gradient does not depend on the others. (Clipping the gradient by its norm would
    couple them: train with `clip_norm=None`.) Methods use the first member; `member(i)` returns an
    agent of one member. Values are in the recording's units unless described as scaled.

    Args:
        normalizer: of observations.
        action_low: lower bound of each action feature, scaled to -1.
        action_high: upper bound of each action feature, scaled to 1.
        members: number of members.
        width: units of each hidden layer.
        depth: number of hidden layers.
    """

    actor: GaussianActor | DeterministicActor
    learns_from_rewards: ClassVar[bool] = True
    fitted_arguments: ClassVar[tuple[str, ...]] = ("normalizer", "action_low", "action_high")

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
        self.actions = action_normalizer(self.action_low, self.action_high)
        self.members = check_positive_int("members", members)
        self.width, self.depth = width, depth
        self.set_random_seed(0)

    @classmethod
    def fit_arguments(
        cls,
        episodes: Episodes,
        *,
        normalizer: str = "standard",
        action_low: Sequence[float] | None = None,
        action_high: Sequence[float] | None = None,
    ) -> dict[str, Any]:
        """Return the normaliser of observations and the bounds of actions.

        Args:
            episodes: the recording.
            normalizer: "standard" or "limits", of observations.
            action_low: lower bound of each action feature, `env.action_space.low`; the agent never
                acts below it. None uses -1, or the least recorded value if it is lower, and warns
                if the recorded actions fill less than half of the interval.
            action_high: upper bound, `env.action_space.high`. None uses 1, or the greatest
                recorded value if it is higher.

        Raises:
            PgdiffError: a setting is out of range; rewards are all equal; Dict observations.
        """
        check_array_observations(episodes)
        if cls.learns_from_rewards:
            check_rewards(episodes)
        low, high = resolve_action_bounds(episodes, action_low, action_high)
        return {
            "normalizer": fit_normalizer(normalizer, [selected(episodes, "observations")]),
            "action_low": low,
            "action_high": high,
        }

    @classmethod
    def construct(cls, arguments: dict[str, Any], *, seed: int) -> Self:
        """Return an agent whose member i has initial weights drawn from `seed + i`.

        Member i initially equals the only member of an agent that is built with `seed + i`.
        """
        members = check_positive_int("members", arguments["members"])
        seed = check_seed("seed", seed)
        states = []
        for number in range(members):
            with seeded_torch(seed=seed + number):
                states.append(cls(**arguments | {"members": 1}).state_dict())
        with seeded_torch(seed=0):  # overwritten at once
            agent = cls(**arguments | {"members": members})
        agent.load_state_dict(stack_members(states))
        return agent

    def member(self, index: int) -> Self:
        """Return one member as an agent that shares its weights with this one.

        Raises:
            PgdiffError: `index` is not that of a member.
        """
        if check_positive_int("index", index, minimum=0) >= self.members:
            raise PgdiffError(
                f"`index` must be below {self.members}, the number of members. Got {index}."
            )
        names = inspect.signature(type(self)).parameters
        settings = {name: getattr(self, name) for name in names} | {"members": 1}
        with seeded_torch(seed=0):  # overwritten at once
            agent = type(self)(**settings)
        state = slice_member(self.state_dict(), index, members=self.members)
        agent.load_state_dict(state, assign=True)
        return agent.train(self.training)

    # ------------------------------------------------------------------------------------- spaces

    @property
    def observation_space(self) -> Box:
        """Space of observations, without bounds."""
        return Box(-np.inf, np.inf, (self.normalizer.features,), np.float32)

    @property
    def action_space(self) -> Box:
        """Space of actions."""
        return Box(*self._bounds)

    # ------------------------------------------------------------------------------------- acting

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Float[np.ndarray, "*batch action"], Any]:
        """Return actions, as agents of Stable-Baselines3 do.

        Args:
            observation: `[observation]`, or a batch of observations.
            state: returned unchanged.
            episode_start: not used.
            deterministic: return the mean of the policy instead of a sample from it; ignored by a
                deterministic policy.

        Returns:
            Actions within the bounds, float32, and `state`.

        Raises:
            PgdiffError: the observation has another shape, or is not finite.
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
        """Seed the actions that `predict` draws next; the initial seed is 0."""
        self._random = np.random.default_rng(check_seed("seed", seed))

    def action(
        self, observation: Float[Tensor, "*batch observation"]
    ) -> Float[Tensor, "*batch action"]:
        """Return the action, or the mean of a Gaussian policy; differentiable."""
        mean, _ = self._policy(observation)
        return self.actions.unnormalize(mean)

    def log_prob(
        self,
        observation: Float[Tensor, "*batch observation"],
        action: Float[Tensor, "*batch action"],
    ) -> Float[Tensor, "*batch"]:
        """Return the log-density of actions, finite everywhere; differentiable in both."""
        mean, log_deviation = self._policy(observation)
        density = gaussian_log_prob(self._scaled(action), mean, log_deviation)
        return density - self.actions.scale.to(density).log().sum()

    # ------------------------------------------------------------------------------------ details

    @property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.action_low, np.float32), np.array(self.action_high, np.float32)

    def _policy(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Return scaled mean and log-deviation of the first member's policy."""
        x = self._normalized(observation)
        mean, log_deviation = self.actor(flatten_batch(x)[None], members=FIRST_MEMBER)
        return mean.reshape(*x.shape[:-1], self.actions.features), log_deviation.flatten()

    def _normalized(self, observation: Tensor) -> Tensor:
        check_feature_axis("observation", observation.shape, self.normalizer.features)
        return self.normalizer.normalize(observation)

    def _scaled(self, action: Tensor) -> Tensor:
        check_feature_axis("action", action.shape, self.actions.features)
        return self.actions.normalize(action)

    def _checked(self, observation: Any) -> Float[np.ndarray, "*batch observation"]:
        if isinstance(observation, Mapping):
            raise PgdiffError(
                "`observation` must be an array, as in the recording. Got a mapping of "
                f"{sorted(map(str, observation))}."
            )
        given = as_array("observation", observation)
        check_feature_axis("observation", given.shape, self.normalizer.features)
        if given.dtype.kind not in "fiub" or not np.isfinite(given).all():
            raise PgdiffError(f"`observation` must be finite numbers. Got {given.tolist()}.")
        return given.astype(np.float32)


def check_feature_axis(name: str, shape: Sequence[int], size: int) -> None:
    """Raise if the last axis does not have the size of the recording."""
    if not shape or shape[-1] != size:
        raise PgdiffError(
            f"`{name}` must have the shape [..., {size}], as in the recording. Got {list(shape)}."
        )


def flatten_batch(x: Float[Tensor, "*batch features"]) -> Float[Tensor, "rows features"]:
    """Flatten all leading axes to one; they may be empty."""
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])


def check_array_observations(episodes: Episodes) -> None:
    """Raise if the observations were flattened from Dicts, which agents do not support."""
    if episodes.observation_layout is not None:
        raise PgdiffError(
            "`episodes` must hold observations that are arrays. Got a recording of Dict "
            "observations, whose goals the agent would not receive. Record the environment within "
            "gymnasium.wrappers.FlattenObservation."
        )


def check_rewards(episodes: Episodes) -> None:
    """Raise if all rewards are equal and no episode ends in a terminal: all actions are equal."""
    rewards = selected(episodes, "rewards")
    if not selected(episodes, "terminals").any() and (rewards == rewards[0]).all():
        raise PgdiffError(
            f"`rewards` must differ for an agent to learn from them. Got {float(rewards[0])} "
            "in every row, and no terminal. Use `cloning`, which needs no rewards."
        )
