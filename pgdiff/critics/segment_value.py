"""The worth of a whole noisy segment, by regression (Diffuser's value)."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pgdiff.critics.checks import check_segment
from pgdiff.data import Episodes, SegmentDataset, discounted_returns
from pgdiff.data.normalizers import Normalizer, fit_normalizer
from pgdiff.data.selection import selected
from pgdiff.denoisers import DenoiserConfig, TransformerConfig
from pgdiff.diffusion import CosineSchedule, NoiseSchedule
from pgdiff.diffusion.schedules import add_noise
from pgdiff.diffusion.training_levels import SequenceLevels
from pgdiff.pretrained import Pretrained, seeded_torch
from pgdiff.registry import register
from pgdiff.trajectory import Segment
from pgdiff.validation import check_positive_int, check_range


class ReturnBatch(NamedTuple):
    """Segments and the discounted return from their first row."""

    observations: Tensor
    returns: Tensor


class ReturnDataset:
    """Segments of observations with the discounted return that was recorded from their start.

    Args:
        episodes: recorded experience.
        horizon: tokens of a segment.
        stride: environment steps between tokens.
        discount: per environment step, in (0, 1].
    """

    def __init__(self, episodes: Episodes, *, horizon: int, stride: int, discount: float) -> None:
        self._segments = SegmentDataset(episodes, horizon, stride)
        self._returns = discounted_returns(episodes, discount)

    def __len__(self) -> int:
        return len(self._segments)

    def batch(self, indices: np.ndarray) -> ReturnBatch:
        """Gather the segments of these numbers."""
        rows, _ = self._segments.index.rows(indices)
        observations = self._segments.batch(indices).observations
        return ReturnBatch(observations, self._returns[rows[:, 0]])  # type: ignore[arg-type]


@register("learner", "segment_value")
class SegmentValue(Pretrained):
    """Discounted return from a segment's start, estimated from the segment at any noise level.

    Janner et al. (2022), section 3.2 and appendix C: the return that was recorded after the
    segment's first step is regressed on the noised segment, whose first token is clean. It is
    the recorder's return: what a better actor could still reach is not in it. Energies are scaled
    by `1 - gamma`, into units of a mean reward.

    Args:
        normalizer: of observations.
        horizon: tokens of a segment.
        stride: environment steps between tokens.
        denoiser: network over the tokens; its outputs are averaged over tokens.
        schedule: noise at a level; that of the model that is to be guided.
        discount: gamma, per environment step, in (0, 1).
    """

    def __init__(
        self,
        *,
        normalizer: Normalizer,
        horizon: int,
        stride: int,
        denoiser: DenoiserConfig,
        schedule: NoiseSchedule,
        discount: float = 0.99,
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.horizon = check_positive_int("horizon", horizon, minimum=2)
        self.stride = check_positive_int("stride", stride)
        self.denoiser = denoiser
        self.schedule = schedule
        self.discount = check_range(
            "discount", discount, low=0, high=1, open_low=True, open_high=True
        )
        self.network = denoiser.build(features=normalizer.features, outputs=1)

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        *,
        horizon: int,
        stride: int,
        discount: float = 0.99,
        denoiser: DenoiserConfig | None = None,
        schedule: NoiseSchedule | None = None,
        normalizer: str = "limits",
        seed: int = 0,
    ) -> "SegmentValue":
        """Make a new value whose normaliser fits recorded experience.

        `seed` gives the first weights; the other arguments are those of the class.
        """
        with seeded_torch(seed=seed):
            return cls(
                normalizer=fit_normalizer(normalizer, [selected(episodes, "observations")]),
                horizon=horizon,
                stride=stride,
                denoiser=denoiser or TransformerConfig(width=64, depth=2),
                schedule=CosineSchedule() if schedule is None else schedule,
                discount=discount,
            )

    def dataset(self, episodes: Episodes) -> ReturnDataset:
        """Segments with the discounted return from their start."""
        return ReturnDataset(
            episodes, horizon=self.horizon, stride=self.stride, discount=self.discount
        )

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Squared error of the return at random noise levels."""
        x0 = self.normalizer.normalize(batch.observations)
        count, tokens, _ = x0.shape
        level = (
            SequenceLevels()
            .draw(count, tokens, schedule=self.schedule, generator=generator)
            .clone()
        )
        level[:, 0] = 0.0
        epsilon = torch.randn(x0.shape, generator=generator, device=generator.device)
        estimate = self._estimate(add_noise(self.schedule, x0, epsilon, level), level)
        return {"value": F.mse_loss(estimate, (1 - self.discount) * batch.returns)}

    def energy(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """Estimated return of each segment at its noise level, in units of a mean reward.

        Raises:
            PgdiffError: a segment of another stride, horizon or observation than those learned
                from.
        """
        check_segment(
            segment,
            stride=self.stride,
            features=self.normalizer.features,
            horizon=self.horizon,
        )
        return self._estimate(self.normalizer.normalize(segment.observations), level)

    def _estimate(self, x: Tensor, level: Tensor) -> Tensor:
        out: Tensor = self.network(x, level)[..., 0].mean(dim=1)
        return out
