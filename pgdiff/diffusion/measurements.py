"""Noisy measurements of features, as noisy samples at some level.

A measurement of x0 with noise of standard deviation s is, times alpha, a noisy sample at the level
whose sigma / alpha is s. A model with a noise level for each token denoises it from there together
with the rest of the plan (Chen et al. 2024, "Diffusion Forcing", section 4.3).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.core.validation import PgdiffError, check_level
from pgdiff.diffusion.differentiation import recordable
from pgdiff.diffusion.inpainting import check_given
from pgdiff.diffusion.level_schedules import LevelMatrix
from pgdiff.diffusion.schedules import NoiseSchedule, factors

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens"]


@dataclass(frozen=True, eq=False)
class Measurement:
    """Measured features and their noise level.

    A token that was measured as a whole starts at the measurement's level, and goes down with the
    other tokens once they reach it. In a token that was measured in part, noise is added to the
    measured features until the token reaches the measurement's level. Its column visits exactly
    this level, at which the measured values are used without added noise.

    Attributes:
        mask: `[batch or 1, tokens, features]`, True at measured features.
        values: `[batch, tokens, features]`, as measured, normalised; ignored where the mask is
            False.
        level: noise level of the measurement, in [0, 1): one number, or `[batch]`, one for each
            trajectory. 0 is an exact measurement.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import Measurement, full_sequence
        >>> mask = torch.tensor([[[True], [False]]])
        >>> measurement = Measurement(mask, torch.zeros(1, 2, 1), level=0.25)
        >>> measurement.levels(full_sequence(steps=2, tokens=2)).tolist()
        [[0.25, 1.0], [0.25, 0.5], [0.0, 0.0]]
    """

    mask: Bool[Tensor, "#batch tokens features"]
    values: Signal
    level: float | Float[Tensor, " batch"]

    def __post_init__(self) -> None:
        check_given(self.mask, self.values, how="were measured")
        level: Any = self.level
        each = level.tolist() if hasattr(level, "tolist") else level
        many = isinstance(each, list | tuple)
        for one in each if many else [each]:
            check_level("level", one)
        if many and len(each) != len(self.values):
            raise PgdiffError(
                f"`level` must have shape [{len(self.values)}], one for each trajectory. "
                f"Got [{len(each)}]."
            )

    def to(self, *, device: torch.device, dtype: torch.dtype) -> "Measurement":
        """Return a copy on another device and in another type."""
        level = self.level
        if isinstance(level, Tensor):
            level = recordable(level.to(device=device, dtype=dtype))
        values = recordable(self.values.to(device=device, dtype=dtype))
        return Measurement(recordable(self.mask.to(device)), values, level)

    @property
    def tokens(self) -> Bool[Tensor, "#batch tokens"]:
        """Tokens whose features were all measured."""
        return self.mask.all(dim=-1)

    @property
    def parts(self) -> Bool[Tensor, "#batch tokens"]:
        """Tokens of which some, but not all, features were measured."""
        return self.mask.any(dim=-1) & ~self.tokens

    def levels(self, levels: LevelMatrix) -> LevelMatrix:
        """Return the level matrix of a sampling with this measurement.

        Tokens that were measured as a whole are lowered to at most the measurement's level. For
        tokens measured in part, the first row below this level is raised to it. If that row is the
        last, clean one, the row before it is lowered to the level instead, unless it is the first.
        """
        measured = self._level_like(levels)
        levels = torch.where(self.tokens, torch.minimum(levels, measured), levels)
        crossed = (levels[1:] < measured) & (levels[:-1] > measured) & self.parts
        ends = crossed & (levels[1:] == 0)
        raised = torch.zeros_like(levels, dtype=torch.bool)
        raised[1:] = crossed & ~ends
        raised[1:-1] |= ends[1:]
        return torch.where(raised, measured, levels)

    def check_start(self, level: Level) -> None:
        """Raise if a measured token starts below the measurement's level, which would ignore it."""
        late = self.mask.any(dim=-1) & (level < self._level_like(level))
        if late.any():
            row, token = late.nonzero()[0].tolist()
            raise PgdiffError(
                f"`levels` must start at the measurement's level or above in the measured token "
                f"{token}. Got {float(level[min(row, len(level) - 1), token])}."
            )

    def hold(
        self,
        x: Signal,
        level: Level,
        *,
        noise_schedule: NoiseSchedule,
        noise: Signal,
        most: Level | None = None,
    ) -> Signal:
        """Return `x` with measured features in place in tokens at or above the measurement's level.

        Args:
            x: noisy tokens.
            level: levels of the tokens.
            noise_schedule: signal and noise at a level.
            noise: standard normal noise, constant over the rows of one sampling.
            most: tokens above this level are left unchanged, because the solver itself has raised
                their noise.
        """
        measured = self._level_like(level)
        measured_alpha, measured_sigma = factors(noise_schedule, measured)
        alpha, sigma = factors(noise_schedule, level)
        # The forward process from the measurement's level to the token's.
        present = (alpha / measured_alpha * measured_sigma).square()
        lacking = (sigma.square() - present).clamp(min=0).sqrt()
        noisier = level >= measured
        if most is not None:
            noisier = noisier & (level <= most)
        held = self.mask & noisier[..., None]
        return torch.where(held, alpha * self.values + lacking * noise, x)

    def _level_like(self, like: Tensor) -> Float[Tensor, "#batch 1"]:
        """Return the measurement's level of each trajectory, or of all, like another tensor."""
        return torch.as_tensor(self.level, dtype=like.dtype, device=like.device).reshape(-1, 1)
