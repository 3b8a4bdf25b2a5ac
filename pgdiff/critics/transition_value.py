"""Value of a plan: rewards between neighbouring tokens plus the value of its last token."""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_features, check_positive_int, check_range
from pgdiff.critics.td_targets import (
    check_rewards,
    check_segment,
    expectile_loss,
    lambda_return,
    read_value,
    value_error,
)
from pgdiff.data import Episodes, SegmentDataset
from pgdiff.data.fitting import FromEpisodes
from pgdiff.data.normalizers import Normalizer, fit_normalizer
from pgdiff.data.selection import selected
from pgdiff.data.transitions import TransitionBatch, TransitionDataset
from pgdiff.nn.mlp import mlp
from pgdiff.nn.target_network import polyak_update
from pgdiff.trajectory import Segment


@register("learner", "transition_value")
class TransitionValue(FromEpisodes):
    """Learned rewards between tokens, and a terminal value by expectile temporal differences.

    For tokens `stride` steps apart and a discount gamma per step, the objective of a segment is

    `J = (1 - gamma) * (sum_k gamma^(k stride) r(o_k, o_k+1) + gamma^(K stride) V(o_K))`,

    with the discounted reward `r` between neighbouring tokens. `V` is regressed on
    `r + gamma^stride V'(o_k+1)` with an expectile above one half and a target network `V'`
    (Kostrikov et al. 2022, eq. 5-6, for states only). It is therefore the value of the better
    recorded continuations of a state, not of the average one. The factor makes `J` a mean reward,
    so that guidance scales are comparable between discounts.

    Args:
        normalizer: of observations.
        stride: environment steps between tokens.
        discount: gamma, per environment step, in (0, 1).
        expectile: in (0, 1). Larger values approach the best recorded continuation; 0.5 is the
            mean.
        width: units of each hidden layer of both networks.
        depth: number of hidden layers of both networks.
        tau: Polyak step of the target network, in (0, 1]; larger values follow faster. `V`
            converges as `exp(-steps tau (1 - discount^stride))`.
        log_space: learn the logarithm of `V`, for rewards that are never negative. Errors are then
            relative to the value, and states far from a reward are as accurate as those near it.
        value_features: indices of the observation's features that are inputs of `V`; all if None.
        value_range: lowest and highest possible `(1 - gamma) V`: those of a recorded reward, and of
            0 if episodes end in terminals. Bootstrapped values are clipped to it; None for no
            limits.

    Example:
        >>> import torch
        >>> from pgdiff.testing import example_episodes
        >>> from pgdiff.trajectory import Segment
        >>> value = TransitionValue.from_episodes(example_episodes(), stride=3, width=16)
        >>> segment = Segment(observations=torch.zeros(5, 4, 4), stride=3)
        >>> value.objective(segment, td_lambda=0.9).shape
        torch.Size([5])
    """

    fitted_arguments: ClassVar[tuple[str, ...]] = ("normalizer", "value_range")

    def __init__(
        self,
        *,
        normalizer: Normalizer,
        stride: int,
        discount: float = 0.99,
        expectile: float = 0.9,
        width: int = 256,
        depth: int = 2,
        tau: float = 0.01,
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
        self.tau = check_range("tau", tau, low=0, high=1, open_low=True)
        self.log_space = bool(log_space)
        size = normalizer.features
        self.value_features = check_features(value_features, size=size)
        self.value_range = _checked_range(value_range)
        self.reward_network = mlp(2 * size, 1, width=width, depth=depth)
        inputs = size if self.value_features is None else len(self.value_features)
        self.value_network = mlp(inputs, 1, width=width, depth=depth)
        self.target_network = copy.deepcopy(self.value_network).requires_grad_(False)

    @classmethod
    def fit_arguments(cls, episodes: Episodes, *, normalizer: str = "limits") -> dict[str, Any]:
        """Return the normaliser of observations and the range of values.

        Args:
            episodes: the recording.
            normalizer: "standard" or "limits", of observations.
        """
        return {
            "normalizer": fit_normalizer(normalizer, [selected(episodes, "observations")]),
            "value_range": _fit_value_range(episodes),
        }

    # ---------------------------------------------------------------------------------- learning

    def dataset(self, episodes: Episodes) -> SegmentDataset | TransitionDataset:
        """Return pairs of neighbouring tokens with the discounted reward between them.

        If the recording has terminals, an observation and the reward up to a terminal are a pair
        too.

        Raises:
            PgdiffError: a reward is negative and `log_space` is set.
        """
        if self.log_space:
            check_rewards(episodes)
        if selected(episodes, "terminals").any():
            return TransitionDataset(episodes, steps=self.stride, discount=self.discount)
        return SegmentDataset(
            episodes, 2, self.stride, fields=("observations", "rewards"), discount=self.discount
        )

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the squared error of the reward and the expectile loss of the value.

        The value after a terminal is 0.

        Args:
            batch: a batch of `dataset`, in raw units.
            generator: not used.
        """
        first, second, raw_reward, ongoing = _pairs(batch)
        observation, following = self.normalizer.normalize(torch.stack([first, second]))
        reward = (1 - self.discount) * raw_reward
        predicted = self.reward_network(torch.cat([observation, following], dim=-1))[:, 0]
        with torch.no_grad():
            # Values outside of the possible range are errors, which bootstrapping would amplify.
            raw = self._raw(self.target_network, following)
            next_value = self._clip(read_value(raw, log_space=self.log_space))
            target = reward + self.discount**self.stride * ongoing * next_value
        raw = self._raw(self.value_network, observation)
        error = value_error(raw, target, log_space=self.log_space)
        # The observation after a terminal is undefined, so its reward is not an example.
        squared = ongoing * (predicted - reward / self._reward_unit).square()
        return {
            "reward": squared.sum() / ongoing.sum().clamp(min=1.0),
            "value": expectile_loss(error, self.expectile),
        }

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the target network."""
        polyak_update(self.target_network, self.value_network, self.tau)

    # ------------------------------------------------------------------------------------- using

    def value(self, observation: Float[Tensor, "*batch observation"]) -> Float[Tensor, "*batch"]:
        """Return `(1 - gamma) V` of raw observations, clipped to `value_range`."""
        return self._clip(self._value(self.normalizer.normalize(observation)))

    def objective(self, segment: Segment, *, td_lambda: float = 1.0) -> Float[Tensor, " batch"]:
        """Return the value of each segment, in units of a mean reward.

        With `td_lambda` below 1 this is the lambda-return (Sutton & Barto 2018, eq. 12.2-3): a
        mixture of `J` truncated after one, two, ... tokens and completed by the value of the last
        token. The value of every token then counts, so that a gradient reaches each token of a
        plan instead of only the last.

        Args:
            segment: observations in raw units, `stride` steps apart.
            td_lambda: lambda, in [0, 1]; 1 gives `J`.

        Raises:
            PgdiffError: stride or observation size differ from the training data.
        """
        check_range("td_lambda", td_lambda, low=0.0, high=1.0)
        check_segment(segment, stride=self.stride, features=self.normalizer.features)
        tokens = self.normalizer.normalize(segment.observations)
        pairs = torch.cat([tokens[:, :-1], tokens[:, 1:]], dim=-1)
        rewards = self._reward_unit * self.reward_network(pairs)[..., 0]
        values = self._value(tokens[:, 1:])
        return lambda_return(
            rewards,
            values,
            discount=self.discount**self.stride,
            td_lambda=td_lambda,
            in_episode=None if segment.terminals is None else segment.in_episode,
        )

    def _raw(self, network: torch.nn.Module, normalized: Tensor) -> Tensor:
        inputs = normalized
        if self.value_features is not None:
            inputs = normalized[..., list(self.value_features)]
        out: Tensor = network(inputs)
        return out[..., 0]

    def _value(self, normalized: Tensor) -> Tensor:
        return read_value(self._raw(self.value_network, normalized), log_space=self.log_space)

    def _clip(self, value: Tensor) -> Tensor:
        return value if self.value_range is None else value.clamp(*self.value_range)

    @property
    def _reward_unit(self) -> float:
        """Unit of the reward network's output.

        Rewards of a transition are smaller than values; in this unit both losses are of similar
        size.
        """
        return (1 - self.discount) * self.stride


def _checked_range(given: Sequence[float] | None) -> tuple[float, float] | None:
    if given is None:
        return None
    if len(given) != 2 or not given[0] <= given[1]:
        raise PgdiffError(
            f"`value_range` must be the lowest and the highest value, in order. Got {given!r}."
        )
    low, high = (check_range("value_range", bound) for bound in given)
    return low, high


def _fit_value_range(episodes: Episodes) -> tuple[float, float]:
    """Return the range of `(1 - gamma) V`: that of recorded rewards, and of 0 after a terminal."""
    rewards = selected(episodes, "rewards")
    low, high = float(rewards.min()), float(rewards.max())
    if selected(episodes, "terminals").any():
        low, high = min(low, 0.0), max(high, 0.0)
    return low, high


def _pairs(batch: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return observations, next observations, rewards between them, and 0 after a terminal."""
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
