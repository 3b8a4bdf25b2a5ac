"""The worth of a plan as rewards between neighbouring tokens plus the value of its last token."""

import copy
import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pgdiff.critics.checks import check_segment
from pgdiff.data import Episodes, SegmentDataset
from pgdiff.data.normalizers import Normalizer, fit_normalizer
from pgdiff.denoisers.mlp import mlp
from pgdiff.pretrained import Pretrained, seeded_torch
from pgdiff.registry import register
from pgdiff.trajectory import Segment
from pgdiff.validation import check_positive_int, check_range


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
        slow: share of `V` that its slow copy takes on at every training step.
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
        size = normalizer.features
        self.reward_network = mlp(2 * size, 1, width=width, depth=depth)
        self.value_network = mlp(size, 1, width=width, depth=depth)
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
        normalizer: str = "limits",
        seed: int = 0,
    ) -> "TransitionValue":
        """Make a new value whose normaliser fits recorded experience.

        `seed` gives the first weights; the other arguments are those of the class.
        """
        with seeded_torch(seed=seed):
            return cls(
                normalizer=fit_normalizer(normalizer, [episodes.observations]),
                stride=stride,
                discount=discount,
                expectile=expectile,
                width=width,
                depth=depth,
                slow=slow,
            )

    # ---------------------------------------------------------------------------------- learning

    def dataset(self, episodes: Episodes) -> SegmentDataset:
        """Pairs of neighbouring tokens, with the discounted reward between them.

        Warns where the recording has terminals: their state is taken for one that goes on.
        """
        if episodes.terminals.any():
            warnings.warn(
                "The recording has terminals, which TransitionValue does not know: it takes the "
                "task for one that goes on.",
                stacklevel=2,
            )
        return SegmentDataset(
            episodes, 2, self.stride, fields=("observations", "rewards"), discount=self.discount
        )

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Squared error of the reward; expectile loss of the value.

        Args:
            batch: observations `[batch, 2, observation]` in raw units, and rewards `[batch, 2]`,
                of which the first is the discounted sum between the two.
            generator: not used.
        """
        observation, following = self.normalizer.normalize(batch.observations).unbind(dim=1)
        reward = (1 - self.discount) * batch.rewards[:, 0]
        predicted = self.reward_network(torch.cat([observation, following], dim=-1))[:, 0]
        with torch.no_grad():
            ahead = self.slow_network(following)[:, 0]
            target = reward + self.discount**self.stride * ahead
        error = target - self.value_network(observation)[:, 0]
        weight = torch.where(error > 0, self.expectile, 1 - self.expectile)
        return {
            "reward": F.mse_loss(predicted, reward / self._reward_unit),
            "value": (weight * error.square()).mean(),
        }

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the slow copy."""
        for slow, fast in zip(
            self.slow_network.parameters(), self.value_network.parameters(), strict=True
        ):
            slow.lerp_(fast, self.slow)

    # ------------------------------------------------------------------------------------- using

    def value(self, observation: Float[Tensor, "*batch observation"]) -> Float[Tensor, "*batch"]:
        """`(1 - gamma) V` of raw observations."""
        out: Tensor = self.value_network(self.normalizer.normalize(observation))[..., 0]
        return out

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
        values = self.value_network(tokens[:, 1:])[..., 0]
        count = rewards.shape[1]
        step = self.discount**self.stride
        decay = step * trace
        power = torch.arange(count, device=tokens.device, dtype=tokens.dtype)
        cut = decay**power * (rewards + step * (1 - trace) * values)
        total: Tensor = cut.sum(dim=1) + decay**count * values[:, -1]
        return total

    @property
    def _reward_unit(self) -> float:
        """What the reward network's output is a multiple of.

        Rewards of a transition are small against values; in this unit their loss is not lost
        beside the value's.
        """
        return (1 - self.discount) * self.stride
