"""Value of a plan for a goal that is chosen at planning time, learned with hindsight goals."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_features, check_positive_int, check_range
from pgdiff.critics.td_targets import (
    check_segment,
    expectile_loss,
    lambda_return,
    read_value,
    value_error,
)
from pgdiff.data import Episodes
from pgdiff.data.dict_observations import resolve_goal_features
from pgdiff.data.fitting import FromEpisodes
from pgdiff.data.hindsight import HindsightDataset, check_goal_features, check_shares
from pgdiff.data.normalizers import Normalizer, fit_normalizer
from pgdiff.data.selection import selected
from pgdiff.nn.mlp import mlp
from pgdiff.nn.target_network import polyak_update
from pgdiff.trajectory import Segment

UNIT = 0.3
"""Unit of the distance in log V; with it, initial values are about 0.5."""

SMALL = 1e-6
"""Added to the squared distance, since its root has no gradient at 0."""


class LatentDistance(nn.Module):
    """`log V = -|phi(s) - phi(g)|`, with one embedding `phi` of state and goal.

    Park, Kreiman and Levine (2024), "Foundation policies with Hilbert representations", eq. 4. A
    network of (s, g) must learn each wall again for each goal. An embedding learns the detour once,
    since distances between embeddings satisfy the triangle inequality. The distance is symmetric:
    the way back is assumed to be as long as the way there.

    Args:
        features: number of features of a state, and of a goal.
        latent: number of dimensions of the embedding.
        width: units of each hidden layer.
        depth: number of hidden layers.
    """

    def __init__(self, *, features: int, latent: int, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = mlp(
            features, check_positive_int("latent", latent), width=width, depth=depth
        )

    def forward(
        self, state: Float[Tensor, "*batch features"], goal: Float[Tensor, "*batch features"]
    ) -> Float[Tensor, "*batch"]:
        """Return the logarithm of the value."""
        difference = self.embedding(state) - self.embedding(goal)
        distance: Tensor = torch.sqrt(difference.square().sum(dim=-1) + SMALL)
        return -UNIT * distance


@register("learner", "goal_value")
class GoalValue(FromEpisodes):
    """Learned rewards between tokens and a terminal value, for a goal (see `TransitionValue`).

    A goal g is a desired value of some features of an observation, the goal features. The reward
    of a step is 1 if these features of its state are at most `tolerance` from g, else 0. Recorded
    rewards are not used: pairs of tokens are relabelled with goals from the recording
    (`HindsightDataset`; Andrychowicz et al. 2017). `r(o_k, o_k+1, g)` is regressed on the
    discounted reward between neighbouring tokens. `V(o, g)` is learned by expectile temporal
    differences with a target network (Kostrikov et al. 2022, eq. 5-6, for states only; with goals
    as in Schaul et al. 2015).

    Inputs of the networks are o and g in units of the normaliser, and their difference: near the
    goal, where the reward changes, it is much smaller than both. The reward network also receives
    the difference in multiples of the tolerance, as `d / sqrt(1 + |d|^2)`, which changes most where
    the reward does. The value network does not, because two states on both sides of a wall are
    close but have different values.

    The expectile also selects positive errors of the network: values are biased upwards, more so
    the nearer the expectile and `gamma^stride` are to 1. A plan depends only on their comparison.
    Random transitions cause another bias, since a goal from the future of a pair was reached by
    the recorded outcome.

    Args:
        normalizer: of observations.
        stride: environment steps between tokens.
        goal_features: indices of the observation's features that a goal specifies.
        tolerance: largest distance, in raw units, at which a goal counts as reached. The default is
            that of maze2d and multi2d; set it for any other task.
        discount: gamma, per environment step, in (0, 1).
        expectile: in (0, 1). Larger values approach the best recorded continuation; 0.5 is the
            mean.
        future: fraction of goals from the future of the same episode.
        near: fraction of goals near the present state; all others are states of random rows.
        width: units of each hidden layer of both networks.
        depth: number of hidden layers of both networks.
        tau: Polyak step of the target network, in (0, 1]; larger values follow faster.
        log_space: learn the logarithm of `V`; see `TransitionValue`.
        value_features: indices of the observation's features that are inputs of `V`. If None, all,
            or the goal features with `latent`.
        latent: dimensions of an embedding in which the distance of state and goal is `-log V`
            (`LatentDistance`); `V` then depends on the goal features only. A plain network if None.

    Example:
        >>> import torch
        >>> from pgdiff.testing import example_episodes
        >>> value = GoalValue.from_episodes(example_episodes(), stride=3, tolerance=0.2, width=16)
        >>> value.value(torch.zeros(5, 4), torch.ones(5, 2)).shape
        torch.Size([5])
    """

    fitted_arguments: ClassVar[tuple[str, ...]] = ("normalizer", "goal_features")

    def __init__(
        self,
        *,
        normalizer: Normalizer,
        stride: int,
        goal_features: Sequence[int] = (0, 1),
        tolerance: float = 0.5,
        discount: float = 0.99,
        expectile: float = 0.9,
        future: float = 0.4,
        near: float = 0.2,
        width: int = 256,
        depth: int = 2,
        tau: float = 0.01,
        log_space: bool = False,
        value_features: Sequence[int] | None = None,
        latent: int | None = None,
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.stride = check_positive_int("stride", stride)
        self.goal_features = tuple(check_goal_features(goal_features, features=normalizer.features))
        self.tolerance = check_range("tolerance", tolerance, low=0, open_low=True)
        self.discount = check_range(
            "discount", discount, low=0, high=1, open_low=True, open_high=True
        )
        self.expectile = check_range(
            "expectile", expectile, low=0, high=1, open_low=True, open_high=True
        )
        self.future, self.near = check_shares(future, near)
        self.width, self.depth = width, depth
        self.tau = check_range("tau", tau, low=0, high=1, open_low=True)
        if latent is not None and value_features is None:
            value_features = self.goal_features
        size, goal = normalizer.features, len(self.goal_features)
        self.value_features = check_features(value_features, size=size)
        self.log_space, self.latent = bool(log_space), latent
        self.reward_network = mlp(2 * size + 5 * goal, 1, width=width, depth=depth)
        inputs = size if self.value_features is None else len(self.value_features)
        self.value_network: nn.Module = mlp(inputs + 2 * goal, 1, width=width, depth=depth)
        if latent is not None:
            if not self.log_space or self.value_features != self.goal_features:
                raise PgdiffError(
                    "`latent` must be None unless log_space=True and `value_features` equals "
                    f"`goal_features`, {list(self.goal_features)}. Got log_space={self.log_space} "
                    f"and value_features={self.value_features}."
                )
            self.value_network = LatentDistance(
                features=goal, latent=latent, width=width, depth=depth
            )
        self.target_network = copy.deepcopy(self.value_network).requires_grad_(False)

    @classmethod
    def fit_arguments(
        cls,
        episodes: Episodes,
        *,
        goal_features: Sequence[int] | None = None,
        normalizer: str = "limits",
    ) -> dict[str, Any]:
        """Return the normaliser of observations and the features of a goal.

        Args:
            episodes: the recording.
            goal_features: indices of the observation's features that a goal specifies; if None,
                those of the recording's layout of Dict observations, or the first two.
            normalizer: "standard" or "limits", of observations.
        """
        return {
            "normalizer": fit_normalizer(normalizer, [selected(episodes, "observations")]),
            "goal_features": resolve_goal_features(goal_features, episodes.observation_layout),
        }

    # ---------------------------------------------------------------------------------- learning

    def dataset(self, episodes: Episodes) -> HindsightDataset:
        """Return pairs of neighbouring tokens with goals and the discounted reward between them.

        Warns if the recording has terminals, which are ignored.
        """
        if selected(episodes, "terminals").any():
            warnings.warn(
                "The recording has terminals, which GoalValue ignores: it assumes that the task "
                "continues.",
                stacklevel=2,
            )
        return HindsightDataset(
            episodes,
            stride=self.stride,
            goal_features=self.goal_features,
            tolerance=self.tolerance,
            discount=self.discount,
            future=self.future,
            near=self.near,
        )

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the squared error of the reward and the expectile loss of the value.

        Args:
            batch: a `HindsightBatch`: observations `[batch, 2, observation]` and goals
                `[batch, goal]` in raw units, and rewards `[batch]` between the observations.
            generator: not used; goals are drawn with the batch.
        """
        observation, following = self.normalizer.normalize(batch.observations).unbind(dim=1)
        goal = self._normalized_goal(batch.goals)
        reward = (1 - self.discount) * batch.rewards
        with torch.no_grad():
            # A reward is at most 1 per step. Larger values are errors that bootstrapping amplifies.
            next_value = self._value(self.target_network, following, goal).clamp(0.0, 1.0)
            target = reward + self.discount**self.stride * next_value
        raw = self._raw(self.value_network, observation, goal)
        error = value_error(raw, target, log_space=self.log_space)
        predicted = self._reward(observation, following, goal)
        return {
            "reward": F.mse_loss(predicted, reward / self._reward_unit),
            "value": expectile_loss(error, self.expectile),
        }

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the target network."""
        polyak_update(self.target_network, self.value_network, self.tau)

    # ------------------------------------------------------------------------------------- using

    def value(
        self, observation: Float[Tensor, "*batch observation"], goal: Float[Tensor, "*#batch goal"]
    ) -> Float[Tensor, "*batch"]:
        """Return `(1 - gamma) V` of raw observations for raw goals, in [0, 1].

        It is the discounted fraction of steps at the goal.
        """
        goal = self._checked_goal(goal).expand(*observation.shape[:-1], -1)
        value = self._value(
            self.value_network,
            self.normalizer.normalize(observation),
            self._normalized_goal(goal.to(observation)),
        )
        return value.clamp(0.0, 1.0)

    def objective(self, segment: Segment, *, td_lambda: float = 1.0) -> Float[Tensor, " batch"]:
        """Return the value of each segment for its goal, in units of a mean reward.

        It is the lambda-return of `TransitionValue.objective`.

        Args:
            segment: observations in raw units, `stride` steps apart, and a goal in `condition`.
            td_lambda: lambda, in [0, 1]; 1 uses the value of the last token only.

        Raises:
            PgdiffError: stride or observation size differ from the training data, or the goal is
                missing or of another size.
        """
        check_range("td_lambda", td_lambda, low=0.0, high=1.0)
        check_segment(segment, stride=self.stride, features=self.normalizer.features)
        if segment.goal is None:
            raise PgdiffError(
                "`goal` of a segment must be set for a GoalValue. Got None. Pass it to "
                'plan(condition={"goal": ...}), or to bind(...).'
            )
        tokens = self.normalizer.normalize(segment.observations)
        goal = self._normalized_goal(self._checked_goal(segment.goal).to(tokens))
        goal = goal[:, None].expand(len(tokens), tokens.shape[1] - 1, -1)
        rewards = self._reward_unit * self._reward(tokens[:, :-1], tokens[:, 1:], goal)
        values = self._value(self.value_network, tokens[:, 1:], goal)
        return lambda_return(
            rewards, values, discount=self.discount**self.stride, td_lambda=td_lambda
        )

    # ----------------------------------------------------------------------------------- networks

    def _reward(self, observation: Tensor, following: Tensor, goal: Tensor) -> Tensor:
        """Return the discounted reward between two tokens, in multiples of `_reward_unit`."""
        differences = [goal - x[..., self.goal_features] for x in (observation, following)]
        unit = self.normalizer.scale[list(self.goal_features)].to(goal) / self.tolerance
        near = [
            d * unit / (1 + (d * unit).square().sum(-1, keepdim=True)).sqrt() for d in differences
        ]
        out: Tensor = self.reward_network(
            torch.cat([observation, following, goal, *differences, *near], dim=-1)
        )
        return out[..., 0]

    def _value(self, network: nn.Module, observation: Tensor, goal: Tensor) -> Tensor:
        return read_value(self._raw(network, observation, goal), log_space=self.log_space)

    def _raw(self, network: nn.Module, observation: Tensor, goal: Tensor) -> Tensor:
        difference = goal - observation[..., self.goal_features]
        state = (
            observation if self.value_features is None else observation[..., self.value_features]
        )
        if self.latent is not None:
            logarithm: Tensor = network(state, goal)
            return logarithm
        out: Tensor = network(torch.cat([state, goal, difference], dim=-1))
        return out[..., 0]

    def _normalized_goal(self, goal: Tensor) -> Tensor:
        where = list(self.goal_features)
        center, scale = self.normalizer.center[where], self.normalizer.scale[where]
        return (goal - center.to(goal)) / scale.to(goal)

    def _checked_goal(self, goal: Tensor) -> Tensor:
        if goal.shape[-1:] != (len(self.goal_features),):
            raise PgdiffError(
                f"`goal` must be {len(self.goal_features)} numbers, for the features "
                f"{list(self.goal_features)}. Got the shape {list(goal.shape)}."
            )
        return goal

    @property
    def _reward_unit(self) -> float:
        """Unit of the reward network's output, approximately its maximum.

        As in `TransitionValue`, both losses are then of similar size.
        """
        return (1 - self.discount) * self.stride
