"""A schedule from a table, such as those of discrete-time codes."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion.schedules.base import check_leak


@register("noise_schedule", "tabulated")
@dataclass(frozen=True, kw_only=True)
class TabulatedSchedule:
    """A table of `alpha^2` at K equally spaced levels, with linear interpolation of alpha.

    Entry t of the table, `alphas_cumprod[t]` of diffusers' schedulers, belongs to level
    `(t + 1) / K`; level 0 is clean.

    Attributes:
        alphas_cumprod: K falling numbers in [0, 1).
        allow_leak: whether to accept a table that leaves signal at level 1.

    Example:
        >>> from pgdiff.diffusion import TabulatedSchedule
        >>> TabulatedSchedule(alphas_cumprod=(0.64, 0.25, 0.0))
        TabulatedSchedule(3 entries from 0.64 to 0)
    """

    alphas_cumprod: tuple[float, ...]
    allow_leak: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        table = tuple(float(entry) for entry in self.alphas_cumprod)
        object.__setattr__(self, "alphas_cumprod", table)
        if not table:
            raise PgdiffError("`alphas_cumprod` must hold at least one number. Got none.")
        for index, (before, entry) in enumerate(zip((1.0, *table[:-1]), table, strict=True)):
            if not 0 <= entry < before:
                raise PgdiffError(
                    "`alphas_cumprod` must fall from entry to entry, from below 1 to at least 0. "
                    f"Got {entry} at entry {index}, after {before}."
                )
        check_leak(self, allow_leak=self.allow_leak)

    def __repr__(self) -> str:
        table = self.alphas_cumprod
        return f"TabulatedSchedule({len(table)} entries from {table[0]:.3g} to {table[-1]:.3g})"

    @cached_property
    def _lost(self) -> Tensor:
        """`1 - alpha` at levels 0, 1 / K, ..., 1, exact near level 0."""
        table = torch.tensor(self.alphas_cumprod, dtype=torch.float64)
        lost = (1 - table) / (1 + table.sqrt())
        return torch.cat([torch.zeros(1, dtype=torch.float64), lost])

    def _lost_at(self, level: Tensor) -> Tensor:
        table = self._lost.to(level.device)
        position = level.double().clamp(0.0, 1.0) * (len(table) - 1)
        below = position.floor().long().clamp(max=len(table) - 2)
        return torch.lerp(table[below], table[below + 1], position - below)

    def alpha(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return alpha, interpolated in float64."""
        return (1 - self._lost_at(level)).to(level.dtype)

    def sigma(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `sqrt(1 - alpha^2)`, which preserves variance."""
        lost = self._lost_at(level)
        return (lost * (2 - lost)).sqrt().to(level.dtype)

    def log_snr(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the log signal-to-noise ratio; -infinite at level 1 if the table ends with 0."""
        lost = self._lost_at(level)
        return (2 * torch.log1p(-lost) - torch.log(lost * (2 - lost))).to(level.dtype)

    def level_at(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the level by inverse interpolation of alpha in the table."""
        table = self._lost.to(log_snr.device)
        exact = log_snr.double()
        # 1 - alpha without cancellation: sigma^2 / (1 + alpha).
        lost = torch.sigmoid(-exact) / (1 + torch.sigmoid(exact).sqrt())
        above = torch.searchsorted(table, lost).clamp(1, len(table) - 1)
        share = (lost - table[above - 1]) / (table[above] - table[above - 1])
        level = (above - 1 + share) / (len(table) - 1)
        return level.clamp(0.0, 1.0).to(log_snr.dtype)
