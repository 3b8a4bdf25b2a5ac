"""The worth of a plan as rewards between neighbouring tokens plus the value of its last token."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.critics.bellman import (
    expectile_loss,
    follow,
    read_value,
    value_error,
)
from pgdiff.critics.checks import check_rewards, check_segment
from pgdiff.critics.lambda_return import lambda_return
from pgdiff.data import Episodes, SegmentDataset
from pgdiff.data.normalizers import Normalizer, fit_normalizer
from pgdiff.data.selection import selected
from pgdiff.data.transitions import TransitionBatch, TransitionDataset
from pgdiff.denoisers.mlp import mlp
from pgdiff.pretrained import Pretrained, seeded_torch
from pgdiff.registry import register
from pgdiff.trajectory import Segment
from pgdiff.validation import PgdiffError, check_features, check_positive_int, check_range


@register("learner", "transition_value")
class TransitionValue(Pretrained):
    """Learned rewards between tokens, and a terminal value by expectile temporal differences.

    With tokens `stride` steps apart and discount gamma per step, the energy of a segment is

    `J = (1 - gamma) * (sum_k gamma^(k stride) r(o_k, o_k+1) + gamma^(K stride) V(o_K))`,

    where `r` is the discounted reward between neighbouring tokens. `V` is regressed on
    `r + gamma^stride V'(o_k+1)` with an expectile above one half (Kostrikov et al. 2022, eq. 5-6,
    for states alone), `V'` being a slow copy of `V`: it is the value of the better ways on from
    a state that the data hold, not of the average one. The factor makes `J` a mean reward, so
    that scales of guidance carry over between discounts.

    Args:
        normalizer: of observations.
        stride: environment steps between tokens.
        discount: gamma, per environment step, in (0, 1).
        expectile: in (0, 1); 0.5 is the mean.
        width: of both networks.
        depth: hidden layers of both networks.
        slow: share of `V` that its slow copy takes on at every training step. `V` settles as
            `exp(-steps slow (1 - discount^stride))` does.
        log_space: learn the logarithm of `V`, for rewards that are never negative: errors then
            count in relation to the value, and what is far from a reward is known as well as what
            is near.
        value_features: features of an observation that `V` sees, by index; all if None.
        value_range: least and greatest `(1 - gamma) V` that is possible, those of a recorded
            reward, and 0 where episodes end in terminals. Bootstrapped values are limited to it;
            None for no limits.
    """

    def __init__(
        self,
        *,
        normalizer: Normalizer,
        stride: int,
        discount: float = 0.99,
        expectile: float = 0.9,
        width: int = 256,
        depth: int = 2,
        slow: float = 0.01,
        log_space: bool = False,
        value_features: Sequence[int] | None = None,
        value_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.stride = check_positive_int("stride", stride)
        self.discount = check_range(
            "discount", discount, low=0, high=1, open_low=True, open_high=True
        )
        self.expectile = check_range(
            "expectile", expectile, low=0, high=1, open_low=True, open_high=True
        )
        self.width, self.depth = width, depth
        self.slow = check_range("slow", slow, low=0, high=1, open_low=True)
        self.log_space = bool(log_space)
        size = normalizer.features
        self.value_features = check_features(value_features, size=size)
        self.value_range = _checked_range(value_range)
        self.reward_network = mlp(2 * size, 1, width=width, depth=depth)
        seen = size if self.value_features is None else len(self.value_features)
        self.value_network = mlp(seen, 1, width=width, depth=depth)
        self.slow_network = copy.deepcopy(self.value_network).requires_grad_(False)

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        *,
        stride: int,
        discount: float = 0.99,
        expectile: float = 0.9,
        width: int = 256,
        depth: int = 2,
        slow: float = 0.01,
        log_space: bool = False,
        value_features: Sequence[int] | None = None,
        normalizer: str = "limits",
        seed: int = 0,
    ) -> "TransitionValue":
        """Make a new value whose normaliser and `value_range` fit recorded experience.

        `seed` gives the first weights; the other arguments are those of the class.
        """
        with seeded_torch(seed=seed):
            return cls(
                normalizer=fit_normalizer(normalizer, [selected(episodes, "observations")]),
                stride=stride,
                discount=discount,
                expectile=expectile,
                width=width,
                depth=depth,
                slow=slow,
                log_space=log_space,
                value_features=value_features,
                value_range=_recorded_range(episodes),
            )

    # ---------------------------------------------------------------------------------- learning

    def dataset(self, episodes: Episodes) -> SegmentDataset | TransitionDataset:
        """Pairs of neighbouring tokens, with the discounted reward between them.

        Where the recording has terminals, what ends in one is a pair too, of an observation and
        the reward up to the end.

        Raises:
            PgdiffError: a negative reward, with `log_space`.
        """
        if self.log_space:
            check_rewards(episodes)
        if selected(episodes, "terminals").any():
            return TransitionDataset(episodes, steps=self.stride, discount=self.discount)
        return SegmentDataset(
            episodes, 2, self.stride, fields=("observations", "rewards"), discount=self.discount
        )

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Squared error of the reward; expectile loss of the value, which is 0 after a terminal.

        Args:
            batch: of `dataset`, in raw units.
            generator: not used.
        """
        first, second, raw_reward, ongoing = _pairs(batch)
        observation, following = self.normalizer.normalize(torch.stack([first, second]))
        reward = (1 - self.discount) * raw_reward
        predicted = self.reward_network(torch.cat([observation, following], dim=-1))[:, 0]
        with torch.no_grad():
            # No value lies outside the range of what can be earned: what does is an error that
            # would feed itself.
            ahead = read_value(self._raw(self.slow_network, following), log_space=self.log_space)
            ahead = self._possible(ahead)
            target = reward + self.discount**self.stride * ongoing * ahead
        raw = self._raw(self.value_network, observation)
        error = value_error(raw, target, log_space=self.log_space)
        # What follows a terminal is no observation: no reward can be learned of it.
        off = ongoing * (predicted - reward / self._reward_unit).square()
        return {
            "reward": off.sum() / ongoing.sum().clamp(min=1.0),
            "value": expectile_loss(error, self.expectile),
        }

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the slow copy."""
        follow(self.slow_network, self.value_network, self.slow)

    # ------------------------------------------------------------------------------------- using

    def value(self, observation: Float[Tensor, "*batch observation"]) -> Float[Tensor, "*batch"]:
        """`(1 - gamma) V` of raw observations, within `value_range` where that is known."""
        return self._possible(self._value(self.normalizer.normalize(observation)))

    def energy(self, segment: Segment, *, trace: float = 1.0) -> Float[Tensor, " batch"]:
        """Worth of each segment, in units of a mean reward.

        With `trace` lambda below 1 this is the lambda-return (Sutton & Barto 2018, eq. 12.2-3): a
        mixture of `J` cut off after one, two, ... tokens, with the value of the token where it is
        cut. Then every token's own value counts, so that a gradient reaches each token of a plan
        and not its last one alone.

        Args:
            segment: observations in raw units, `stride` steps apart.
            trace: lambda, in [0, 1]; 1 gives `J`.

        Raises:
            PgdiffError: a segment of another stride or observation than those learned from.
        """
        check_range("trace", trace, low=0.0, high=1.0)
        check_segment(segment, stride=self.stride, features=self.normalizer.features)
        tokens = self.normalizer.normalize(segment.observations)
        pairs = torch.cat([tokens[:, :-1], tokens[:, 1:]], dim=-1)
        rewards = self._reward_unit * self.reward_network(pairs)[..., 0]
        values = self._value(tokens[:, 1:])
        return lambda_return(
            rewards,
            values,
            discount=self.discount**self.stride,
            trace=trace,
            in_episode=None if segment.terminals is None else segment.in_episode,
        )

    def _raw(self, network: torch.nn.Module, normalized: Tensor) -> Tensor:
        seen = normalized
        if self.value_features is not None:
            seen = normalized[..., list(self.value_features)]
        out: Tensor = network(seen)
        return out[..., 0]

    def _value(self, normalized: Tensor) -> Tensor:
        return read_value(self._raw(self.value_network, normalized), log_space=self.log_space)

    def _possible(self, value: Tensor) -> Tensor:
        return value if self.value_range is None else value.clamp(*self.value_range)

    @property
    def _reward_unit(self) -> float:
        """What the reward network's output is a multiple of.

        Rewards of a transition are small against values; in this unit their loss is not lost
        beside the value's.
        """
        return (1 - self.discount) * self.stride


def _checked_range(given: Sequence[float] | None) -> tuple[float, float] | None:
    if given is None:
        return None
    if len(given) != 2 or not given[0] <= given[1]:
        raise PgdiffError(
            f"`value_range` must be the least and the greatest value, in order. Got {given!r}."
        )
    low, high = (check_range("value_range", bound) for bound in given)
    return low, high


def _recorded_range(episodes: Episodes) -> tuple[float, float]:
    """The range of `(1 - gamma) V`: a mean of recorded rewards, and of 0 after a terminal."""
    rewards = selected(episodes, "rewards")
    low, high = float(rewards.min()), float(rewards.max())
    if selected(episodes, "terminals").any():
        low, high = min(low, 0.0), max(high, 0.0)
    return low, high


def _pairs(batch: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Observations, those that follow, the rewards between, and 0 where a terminal came first."""
    if isinstance(batch, TransitionBatch):
        whole: Any = batch
        return tuple(
            field[:, 0]
            for field in (
                whole.observation,
                whole.next_observation,
                whole.reward,
                whole.ongoing,
            )
        )
    first, second = batch.observations.unbind(dim=1)
    reward = batch.rewards[:, 0]
    return first, second, reward, torch.ones_like(reward)
