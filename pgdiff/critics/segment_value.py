"""Value of a noisy segment, by regression on returns (the value function of Diffuser)."""

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pgdiff.core.registry import register
from pgdiff.core.validation import check_positive_int, check_range
from pgdiff.critics.td_targets import check_segment
from pgdiff.data import Episodes, SegmentDataset, discounted_returns
from pgdiff.data.fitting import FromEpisodes
from pgdiff.data.normalizers import Normalizer, fit_normalizer
from pgdiff.data.selection import selected
from pgdiff.denoisers import DenoiserConfig, DenoiserSpec, TransformerConfig
from pgdiff.diffusion import CosineSchedule, NoiseSchedule
from pgdiff.diffusion.level_distributions import SequenceLevels
from pgdiff.diffusion.schedules import add_noise
from pgdiff.trajectory import Segment


class ReturnBatch(NamedTuple):
    """Segments and the discounted returns from their first rows."""

    observations: Tensor
    returns: Tensor


class ReturnDataset:
    """Segments of observations with the recorded discounted return from their start.

    Args:
        episodes: the recording.
        horizon: number of tokens of a segment.
        stride: environment steps between tokens.
        discount: per environment step, in (0, 1].
    """

    def __init__(self, episodes: Episodes, *, horizon: int, stride: int, discount: float) -> None:
        self._segments = SegmentDataset(episodes, horizon, stride)
        self._returns = discounted_returns(episodes, discount)

    def __len__(self) -> int:
        return len(self._segments)

    @property
    def episode_starts(self) -> Int[np.ndarray, " episodes"]:
        """First rows of the episodes that contain examples."""
        return self._segments.episode_starts

    def batch(self, indices: np.ndarray) -> ReturnBatch:
        """Gather the segments of these indices."""
        rows, _ = self._segments.index.rows(indices)
        observations = self._segments.batch(indices).observations
        return ReturnBatch(observations, self._returns[rows[:, 0]])  # type: ignore[arg-type]


@register("learner", "segment_value")
class SegmentValue(FromEpisodes):
    """Estimate of the discounted return from a segment's start, at any noise level.

    Janner et al. (2022), section 3.2 and appendix C: the return recorded from the segment's first
    row is regressed on the noised segment, whose first token is clean. It is the return of the
    recorded policy, not of a better one. Objectives are scaled by `1 - gamma`, into units of a mean
    reward.

    Args:
        normalizer: of observations.
        horizon: number of tokens of a segment, at least 2.
        stride: environment steps between tokens.
        denoiser: network over the tokens, whose outputs are averaged over tokens; a transformer of
            width 64 and depth 2 if None.
        noise_schedule: noise schedule of the model that the value guides; cosine if None.
        discount: gamma, per environment step, in (0, 1).

    Example:
        >>> import torch
        >>> from pgdiff.denoisers import TransformerConfig
        >>> from pgdiff.testing import example_episodes
        >>> from pgdiff.trajectory import Segment
        >>> small = TransformerConfig(width=16, depth=1)
        >>> value = SegmentValue.from_episodes(
        ...     example_episodes(), horizon=4, stride=3, denoiser=small
        ... )
        >>> segment = Segment(observations=torch.zeros(5, 4, 4), stride=3)
        >>> value.objective(segment, torch.zeros(5, 4)).shape
        torch.Size([5])
    """

    fitted_arguments: ClassVar[tuple[str, ...]] = ("normalizer",)

    def __init__(
        self,
        *,
        normalizer: Normalizer,
        horizon: int,
        stride: int,
        denoiser: DenoiserConfig | None = None,
        noise_schedule: NoiseSchedule | None = None,
        discount: float = 0.99,
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.horizon = check_positive_int("horizon", horizon, minimum=2)
        self.stride = check_positive_int("stride", stride)
        self.denoiser = denoiser or TransformerConfig(width=64, depth=2)
        self.noise_schedule = CosineSchedule() if noise_schedule is None else noise_schedule
        self.discount = check_range(
            "discount", discount, low=0, high=1, open_low=True, open_high=True
        )
        self.network = self.denoiser.build(DenoiserSpec(features=normalizer.features, outputs=1))

    @classmethod
    def fit_arguments(cls, episodes: Episodes, *, normalizer: str = "limits") -> dict[str, Any]:
        """Return the normaliser of observations.

        Args:
            episodes: the recording.
            normalizer: "standard" or "limits", of observations.
        """
        return {"normalizer": fit_normalizer(normalizer, [selected(episodes, "observations")])}

    def dataset(self, episodes: Episodes) -> ReturnDataset:
        """Return segments with the discounted return from their start."""
        return ReturnDataset(
            episodes, horizon=self.horizon, stride=self.stride, discount=self.discount
        )

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean squared error of the return at random noise levels."""
        x0 = self.normalizer.normalize(batch.observations)
        count, tokens, _ = x0.shape
        level = (
            SequenceLevels()
            .draw(count, tokens, noise_schedule=self.noise_schedule, generator=generator)
            .clone()
        )
        level[:, 0] = 0.0
        epsilon = torch.randn(x0.shape, generator=generator, device=generator.device)
        estimate = self._estimate(add_noise(self.noise_schedule, x0, epsilon, level), level)
        return {"value": F.mse_loss(estimate, (1 - self.discount) * batch.returns)}

    def objective(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """Return the estimated return of each segment at its noise level, in mean-reward units.

        Raises:
            PgdiffError: stride, horizon or observation size differ from the training data.
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
