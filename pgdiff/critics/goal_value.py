"""The worth of a plan for a goal that is told when it is made, learned in hindsight."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pgdiff.critics.bellman import expectile_loss, follow, read_value, value_error
from pgdiff.critics.checks import check_segment
from pgdiff.critics.hindsight import HindsightDataset, check_position, check_shares
from pgdiff.critics.lambda_return import lambda_return
from pgdiff.critics.latent_distance import LatentDistance
from pgdiff.data import Episodes
from pgdiff.data.normalizers import Normalizer, fit_normalizer
from pgdiff.data.observation_layout import position_of_goals
from pgdiff.data.selection import selected
from pgdiff.denoisers.mlp import mlp
from pgdiff.pretrained import Pretrained, seeded_torch
from pgdiff.registry import register
from pgdiff.trajectory import Segment
from pgdiff.validation import PgdiffError, check_features, check_positive_int, check_range


@register("learner", "goal_value")
class GoalValue(Pretrained):
    """Learned rewards between tokens and a terminal value, both of a goal (cf. `TransitionValue`).

    A goal g is a position: what some features of an observation are to be. A step is worth 1 where
    the position of its state is at most `tolerance` from g, else 0. The recorded rewards are not
    used: pairs of tokens are relabelled with goals from the recording (`HindsightDataset`;
    Andrychowicz et al. 2017). From these `r(o_k, o_k+1, g)` learns the discounted reward between
    neighbouring tokens, by regression, and `V(o, g)` the value by expectile temporal differences
    against a slow copy (Kostrikov et al. 2022, eq. 5-6, for states alone; with goals as in Schaul
    et al. 2015).

    Networks are given o and g in units of the normaliser, and their difference too: near the goal,
    where the reward changes, it is small against both, and a network that had to subtract two
    large numbers would see it blurred. The reward, which is a matter of nothing else, is given it
    in multiples of the tolerance as well, as `d / sqrt(1 + |d|^2)`, which changes most where the
    reward does. The value is not: two states on both sides of a wall are near one another, and
    worth different things.

    The expectile takes the network's own errors for luck: values come out too high, the more so the
    nearer the expectile and `gamma^stride` are to 1. What counts for a plan is how they compare. In
    a world of chance there is another bias: a goal from a pair's own future speaks for the way that
    was taken.

    Args:
        normalizer: of observations.
        stride: environment steps between tokens.
        position: features of an observation that a goal gives.
        tolerance: largest distance, in raw units, at which a goal counts as reached. 0.5 is that of
            maze2d and multi2d; any other task must give its own.
        discount: gamma, per environment step, in (0, 1).
        expectile: in (0, 1); 0.5 is the mean.
        future: share of goals from the same episode's future.
        near: share of goals near the present position; the rest are positions of random rows.
        width: of both networks.
        depth: hidden layers of both networks.
        slow: share of `V` that its slow copy takes on at every training step.
        log_space: learn the logarithm of `V`; see `TransitionValue`.
        value_features: features of an observation that `V` sees, by index; all if None, with a
            `latent` the position.
        latent: dimensions of an embedding in which the distance of state and goal is `-log V`
            (`LatentDistance`); `V` then sees the position alone. A plain network if None.
    """

    def __init__(
        self,
        *,
        normalizer: Normalizer,
        stride: int,
        position: Sequence[int] = (0, 1),
        tolerance: float = 0.5,
        discount: float = 0.99,
        expectile: float = 0.9,
        future: float = 0.4,
        near: float = 0.2,
        width: int = 256,
        depth: int = 2,
        slow: float = 0.01,
        log_space: bool = False,
        value_features: Sequence[int] | None = None,
        latent: int | None = None,
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.stride = check_positive_int("stride", stride)
        self.position = tuple(check_position(position, features=normalizer.features))
        self.tolerance = check_range("tolerance", tolerance, low=0, open_low=True)
        self.discount = check_range(
            "discount", discount, low=0, high=1, open_low=True, open_high=True
        )
        self.expectile = check_range(
            "expectile", expectile, low=0, high=1, open_low=True, open_high=True
        )
        self.future, self.near = check_shares(future, near)
        self.width, self.depth = width, depth
        self.slow = check_range("slow", slow, low=0, high=1, open_low=True)
        if latent is not None and value_features is None:
            value_features = self.position
        size, goal = normalizer.features, len(self.position)
        self.value_features = check_features(value_features, size=size)
        self.log_space, self.latent = bool(log_space), latent
        self.reward_network = mlp(2 * size + 5 * goal, 1, width=width, depth=depth)
        seen = size if self.value_features is None else len(self.value_features)
        self.value_network: nn.Module = mlp(seen + 2 * goal, 1, width=width, depth=depth)
        if latent is not None:
            if not self.log_space or self.value_features != self.position:
                raise PgdiffError(
                    "`latent` needs log_space=True and value_features equal to `position`, "
                    f"{list(self.position)}. Got log_space={self.log_space} and "
                    f"value_features={self.value_features}."
                )
            self.value_network = LatentDistance(
                features=goal, latent=latent, width=width, depth=depth
            )
        self.slow_network = copy.deepcopy(self.value_network).requires_grad_(False)

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        *,
        stride: int,
        position: Sequence[int] | None = None,
        tolerance: float = 0.5,
        discount: float = 0.99,
        expectile: float = 0.9,
        future: float = 0.4,
        near: float = 0.2,
        width: int = 256,
        depth: int = 2,
        slow: float = 0.01,
        log_space: bool = False,
        value_features: Sequence[int] | None = None,
        latent: int | None = None,
        normalizer: str = "limits",
        seed: int = 0,
    ) -> "GoalValue":
        """Make a new value whose normaliser fits recorded experience.

        `seed` gives the first weights; `position` is by default that of the recording's layout of
        Dict observations, or the first two features; the other arguments are those of the class.
        """
        with seeded_torch(seed=seed):
            return cls(
                normalizer=fit_normalizer(normalizer, [selected(episodes, "observations")]),
                stride=stride,
                position=position_of_goals(position, episodes.observation_layout),
                tolerance=tolerance,
                discount=discount,
                expectile=expectile,
                future=future,
                near=near,
                width=width,
                depth=depth,
                slow=slow,
                log_space=log_space,
                value_features=value_features,
                latent=latent,
            )

    # ---------------------------------------------------------------------------------- learning

    def dataset(self, episodes: Episodes) -> HindsightDataset:
        """Pairs of neighbouring tokens with goals and the discounted reward between them.

        Warns where the recording has terminals: their state is taken for one that goes on.
        """
        if selected(episodes, "terminals").any():
            warnings.warn(
                "The recording has terminals, which GoalValue does not know: it takes the task for "
                "one that goes on.",
                stacklevel=2,
            )
        return HindsightDataset(
            episodes,
            stride=self.stride,
            position=self.position,
            tolerance=self.tolerance,
            discount=self.discount,
            future=self.future,
            near=self.near,
        )

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Squared error of the reward; expectile loss of the value.

        Args:
            batch: a `HindsightBatch`: observations `[batch, 2, observation]` and goals
                `[batch, goal]` in raw units, and rewards `[batch]` between the two.
            generator: not used: the goals are drawn with the batch.
        """
        observation, following = self.normalizer.normalize(batch.observations).unbind(dim=1)
        goal = self._normalized_goal(batch.goals)
        reward = (1 - self.discount) * batch.rewards
        with torch.no_grad():
            # No more than 1 a step is paid: what looks better is an error that would feed itself.
            ahead = self._value(self.slow_network, following, goal).clamp(0.0, 1.0)
            target = reward + self.discount**self.stride * ahead
        raw = self._raw(self.value_network, observation, goal)
        error = value_error(raw, target, log_space=self.log_space)
        predicted = self._reward(observation, following, goal)
        return {
            "reward": F.mse_loss(predicted, reward / self._reward_unit),
            "value": expectile_loss(error, self.expectile),
        }

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the slow copy."""
        follow(self.slow_network, self.value_network, self.slow)

    # ------------------------------------------------------------------------------------- using

    def value(
        self, observation: Float[Tensor, "*batch observation"], goal: Float[Tensor, "*#batch goal"]
    ) -> Float[Tensor, "*batch"]:
        """`(1 - gamma) V` of raw observations for raw goals, in [0, 1].

        It is the share of the steps that are spent at the goal.
        """
        goal = self._checked_goal(goal).expand(*observation.shape[:-1], -1)
        value = self._value(
            self.value_network,
            self.normalizer.normalize(observation),
            self._normalized_goal(goal.to(observation)),
        )
        return value.clamp(0.0, 1.0)

    def energy(self, segment: Segment, *, trace: float = 1.0) -> Float[Tensor, " batch"]:
        """Worth of each segment for its goal, in units of a mean reward.

        The lambda-return of `TransitionValue.energy`.

        Args:
            segment: observations in raw units, `stride` steps apart, and `goal`.
            trace: lambda, in [0, 1]; 1 looks at the last token's value alone.

        Raises:
            PgdiffError: a segment of another stride or observation than those learned from, or
                without a goal of the right size.
        """
        check_range("trace", trace, low=0.0, high=1.0)
        check_segment(segment, stride=self.stride, features=self.normalizer.features)
        if segment.goal is None:
            raise PgdiffError(
                "`goal` of a segment must be given to a GoalValue: pass it to plan(goal=...), or "
                "to bind(..., goal=...). Got None."
            )
        tokens = self.normalizer.normalize(segment.observations)
        goal = self._normalized_goal(self._checked_goal(segment.goal).to(tokens))
        goal = goal[:, None].expand(len(tokens), tokens.shape[1] - 1, -1)
        rewards = self._reward_unit * self._reward(tokens[:, :-1], tokens[:, 1:], goal)
        values = self._value(self.value_network, tokens[:, 1:], goal)
        return lambda_return(rewards, values, discount=self.discount**self.stride, trace=trace)

    # ----------------------------------------------------------------------------------- networks

    def _reward(self, observation: Tensor, following: Tensor, goal: Tensor) -> Tensor:
        """Discounted reward between two tokens, in multiples of `_reward_unit`."""
        ways = [goal - x[..., self.position] for x in (observation, following)]
        unit = self.normalizer.scale[list(self.position)].to(goal) / self.tolerance
        near = [d * unit / (1 + (d * unit).square().sum(-1, keepdim=True)).sqrt() for d in ways]
        out: Tensor = self.reward_network(
            torch.cat([observation, following, goal, *ways, *near], dim=-1)
        )
        return out[..., 0]

    def _value(self, network: nn.Module, observation: Tensor, goal: Tensor) -> Tensor:
        return read_value(self._raw(network, observation, goal), log_space=self.log_space)

    def _raw(self, network: nn.Module, observation: Tensor, goal: Tensor) -> Tensor:
        way = goal - observation[..., self.position]
        seen = observation if self.value_features is None else observation[..., self.value_features]
        if self.latent is not None:
            logarithm: Tensor = network(seen, goal)
            return logarithm
        out: Tensor = network(torch.cat([seen, goal, way], dim=-1))
        return out[..., 0]

    def _normalized_goal(self, goal: Tensor) -> Tensor:
        where = list(self.position)
        center, scale = self.normalizer.center[where], self.normalizer.scale[where]
        return (goal - center.to(goal)) / scale.to(goal)

    def _checked_goal(self, goal: Tensor) -> Tensor:
        if goal.shape[-1:] != (len(self.position),):
            raise PgdiffError(
                f"`goal` must be the {len(self.position)} numbers of the features "
                f"{list(self.position)}. Got the shape {list(goal.shape)}."
            )
        return goal

    @property
    def _reward_unit(self) -> float:
        """What the reward network's output is a multiple of: its greatest, near enough.

        As in `TransitionValue`: its loss is then not lost beside the value's.
        """
        return (1 - self.discount) * self.stride
