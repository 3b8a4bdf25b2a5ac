"""Features that are seen through noise: a measurement is a noisy sample at some level.

A model with a noise level for each token needs no other description of a bad measurement. What was
measured as x0 plus noise of deviation s is, times alpha, a sample at the level whose sigma / alpha
is s; from there it is denoised with the rest of the plan (Chen et al. 2024, "Diffusion Forcing",
section 4.3).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.diffusion.differentiation import recordable
from pgdiff.diffusion.known import check_given
from pgdiff.diffusion.level_schedules import LevelMatrix
from pgdiff.diffusion.schedules import NoiseSchedule, factors
from pgdiff.validation import PgdiffError, check_level

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens"]


@dataclass(frozen=True, eq=False)
class Observed:
    """Features that were measured, and how noisily.

    A token all of whose features were measured has the measurement's level from the start, and goes
    down with the others once they come to it. In a token that was measured in part, the measured
    features get what noise they lack for the token's level until then; and its column visits the
    measurement's level itself, since what was measured counts as it is there, not at the last
    level above.

    Attributes:
        mask: `[batch or 1, tokens, features]`: what was measured.
        values: `[batch, tokens, features]`, as measured, normalised; ignored elsewhere.
        level: noise level of the measurement, in [0, 1): one number, or `[batch]`, one for each
            trajectory. At 0 it is the truth.
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

    def to(self, *, device: torch.device, dtype: torch.dtype) -> "Observed":
        """The same on another device."""
        level = self.level
        if isinstance(level, Tensor):
            level = recordable(level.to(device=device, dtype=dtype))
        values = recordable(self.values.to(device=device, dtype=dtype))
        return Observed(recordable(self.mask.to(device)), values, level)

    @property
    def tokens(self) -> Bool[Tensor, "#batch tokens"]:
        """Tokens all of whose features were measured."""
        return self.mask.all(dim=-1)

    @property
    def parts(self) -> Bool[Tensor, "#batch tokens"]:
        """Tokens of which some features were measured, but not all."""
        return self.mask.any(dim=-1) & ~self.tokens

    def levels(self, levels: LevelMatrix) -> LevelMatrix:
        """The level matrix of a sampling with this measurement.

        Tokens that were measured as a whole have at most its level. Of those measured in part, the
        first row below its level is raised to it, or, where that row is the clean end, the row
        before is lowered to it, unless it is the first.
        """
        own = self._own(levels)
        levels = torch.where(self.tokens, torch.minimum(levels, own), levels)
        crossed = (levels[1:] < own) & (levels[:-1] > own) & self.parts
        ends = crossed & (levels[1:] == 0)
        raised = torch.zeros_like(levels, dtype=torch.bool)
        raised[1:] = crossed & ~ends
        raised[1:-1] |= ends[1:]
        return torch.where(raised, own, levels)

    def check_start(self, level: Level) -> None:
        """Refuse levels of a first row at which the measurement would not be looked at.

        Raises:
            PgdiffError: a token that was measured starts at less than the measurement's level.
        """
        late = self.mask.any(dim=-1) & (level < self._own(level))
        if late.any():
            row, token = late.nonzero()[0].tolist()
            raise PgdiffError(
                f"`levels` must start at the measurement's level or above in token {token}, which "
                f"was measured. Got {float(level[min(row, len(level) - 1), token])}."
            )

    def hold(
        self,
        x: Signal,
        level: Level,
        *,
        schedule: NoiseSchedule,
        noise: Signal,
        most: Level | None = None,
    ) -> Signal:
        """Put the measurement into `x` where its tokens are not less noisy than it is.

        Args:
            x: noisy tokens.
            level: of the tokens.
            schedule: signal and noise at a level.
            noise: standard normal, the same in every row of one sampling.
            most: of a token above this level nothing is held: a solver has raised its noise, and
                knows by how much.
        """
        own = self._own(level)
        own_alpha, own_sigma = factors(schedule, own)
        alpha, sigma = factors(schedule, level)
        # The forward law from the measurement's level to the token's.
        lacking = (sigma.square() - (alpha / own_alpha * own_sigma).square()).clamp(min=0).sqrt()
        still = level >= own if most is None else (level >= own) & (level <= most)
        held = self.mask & still[..., None]
        return torch.where(held, alpha * self.values + lacking * noise, x)

    def _own(self, like: Tensor) -> Float[Tensor, "#batch 1"]:
        """The measurement's level of each trajectory, or of all."""
        return torch.as_tensor(self.level, dtype=like.dtype, device=like.device).reshape(-1, 1)
