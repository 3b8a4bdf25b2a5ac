"""Distributions of the noise levels in training."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import from_config, register
from pgdiff.core.validation import PgdiffError, check_flag, check_range
from pgdiff.diffusion.schedules import NoiseSchedule

Level = Float[Tensor, "batch tokens"]


@runtime_checkable
class LevelDistribution(Protocol):
    """A distribution of noise levels of a batch of sequences; a frozen, registered dataclass."""

    @property
    def per_token(self) -> bool:
        """True if each token of a sequence gets a separate level."""
        ...

    def draw(
        self, batch: int, tokens: int, *, noise_schedule: NoiseSchedule, generator: torch.Generator
    ) -> Level:
        """Draw levels in [0, 1] on the generator's device."""
        ...


@register("level_distribution", "sequence")
@dataclass(frozen=True)
class SequenceLevels:
    """One level for each sequence, shared by all its tokens.

    The levels of a batch are evenly spaced with one common random offset, which lowers the
    variance of the loss (Kingma et al. 2021, appendix I.1).

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import CosineSchedule, SequenceLevels
        >>> level = SequenceLevels().draw(
        ...     4, 3, noise_schedule=CosineSchedule(), generator=torch.Generator().manual_seed(0)
        ... )
        >>> level.shape, bool((level == level[:, :1]).all())
        (torch.Size([4, 3]), True)
    """

    @property
    def per_token(self) -> bool:
        """Always False."""
        return False

    def draw(
        self, batch: int, tokens: int, *, noise_schedule: NoiseSchedule, generator: torch.Generator
    ) -> Level:
        """Return evenly spaced levels."""
        return _even(batch, generator)[:, None].expand(-1, tokens)


@register("level_distribution", "independent")
@dataclass(frozen=True)
class IndependentLevels:
    """A uniform level for each token, independent within a sequence.

    Chen et al. (2024), "Diffusion Forcing", algorithm 1. Over the batch each token's levels are
    evenly spaced as in `SequenceLevels`, with a separate offset and order for each token.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import CosineSchedule, IndependentLevels
        >>> level = IndependentLevels().draw(
        ...     4, 3, noise_schedule=CosineSchedule(), generator=torch.Generator().manual_seed(0)
        ... )
        >>> bool((level == level[:, :1]).all())
        False
    """

    @property
    def per_token(self) -> bool:
        """Always True."""
        return True

    def draw(
        self, batch: int, tokens: int, *, noise_schedule: NoiseSchedule, generator: torch.Generator
    ) -> Level:
        """Return evenly spaced levels, in another order for each token."""
        return _shuffled(batch, tokens, generator)


@register("level_distribution", "forcing")
@dataclass(frozen=True, kw_only=True)
class ForcingLevels:
    """Independent levels with the mixtures of Diffusion Forcing's public code for planning.

    Attributes:
        start: share of the sequences whose first token is nearly clean, as an observation is.
        start_below: upper end of that token's level, which is uniform in [0, `start_below`).
        cut: share of the sequences in which all tokens from a random one on are pure noise, so that
            the model learns shorter plans too. The first two tokens are never cut.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import CosineSchedule, ForcingLevels
        >>> level = ForcingLevels(start=1.0).draw(
        ...     4, 3, noise_schedule=CosineSchedule(), generator=torch.Generator().manual_seed(0)
        ... )
        >>> bool((level[:, 0] < 0.25).all())
        True
    """

    start: float = 0.5
    start_below: float = 0.25
    cut: float = 0.0

    def __post_init__(self) -> None:
        check_range("start", self.start, low=0.0, high=1.0)
        check_range("start_below", self.start_below, low=0.0, high=1.0, open_low=True)
        check_range("cut", self.cut, low=0.0, high=1.0)

    @property
    def per_token(self) -> bool:
        """Always True."""
        return True

    def draw(
        self, batch: int, tokens: int, *, noise_schedule: NoiseSchedule, generator: torch.Generator
    ) -> Level:
        """Draw levels, then the first token's and the cut of some sequences."""
        level = _shuffled(batch, tokens, generator)
        near, share, place = (_shuffled(batch, 1, generator)[:, 0] for _ in range(3))
        first = torch.where(near < self.start, self.start_below * level[:, 0], level[:, 0])
        level = torch.cat([first[:, None], level[:, 1:]], dim=1)
        # A shorter plan has at least two tokens.
        length = 2 + (place * max(tokens - 2, 0)).long()
        behind = torch.arange(tokens, device=level.device) >= length[:, None]
        return torch.where(behind & (share < self.cut)[:, None], 1.0, level)


@register("level_distribution", "mixture")
@dataclass(frozen=True, kw_only=True)
class MixtureLevels:
    """A mixture of distributions: each sequence draws its levels from one of them.

    Attributes:
        parts: distributions of the mixture.
        weights: relative probability of each part; equal if None.

    Example:
        >>> from pgdiff.diffusion import IndependentLevels, MixtureLevels, SequenceLevels
        >>> mixture = MixtureLevels(parts=(SequenceLevels(), IndependentLevels()), weights=(3, 1))
        >>> mixture.per_token
        True
    """

    parts: tuple[LevelDistribution, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        # YAML and the command line give lists, and parts by name.
        given = self.parts if isinstance(self.parts, Iterable) else ()
        parts = tuple(
            from_config("level_distribution", p) if isinstance(p, Mapping) else p for p in given
        )
        laws = (isinstance(p, LevelDistribution) and not isinstance(p, type) for p in parts)
        if not parts or not all(laws):
            raise PgdiffError(
                "`parts` must be one level distribution or more, each with `draw` and `per_token`. "
                f"Got {self.parts!r}."
            )
        object.__setattr__(self, "parts", parts)
        if self.weights is not None:
            weights = tuple(self.weights) if isinstance(self.weights, Iterable) else ()
            if len(weights) != len(parts):
                raise PgdiffError(
                    f"`weights` must hold one number for each of `parts`, {len(parts)}. "
                    f"Got {self.weights}."
                )
            object.__setattr__(self, "weights", weights)
        for index, weight in enumerate(self.weights or ()):
            check_range(f"weights[{index}]", weight, low=0.0, open_low=True)

    @property
    def per_token(self) -> bool:
        """True if it is True for any part."""
        return any(part.per_token for part in self.parts)

    def draw(
        self, batch: int, tokens: int, *, noise_schedule: NoiseSchedule, generator: torch.Generator
    ) -> Level:
        """Choose a part for each sequence, then draw each part for its sequences at once."""
        device = generator.device
        ends = torch.tensor(self.weights or [1.0] * len(self.parts), device=device).cumsum(dim=0)
        # Evenly spaced: each part's share of the batch is exact to within one sequence.
        place = ends[-1] * _even(batch, generator)
        choice = torch.searchsorted(ends[:-1].contiguous(), place, right=True)
        level = torch.empty(batch, tokens, device=device)
        for index, part in enumerate(self.parts):
            chosen = choice == index
            count = int(chosen.sum())
            level[chosen] = part.draw(
                count, tokens, noise_schedule=noise_schedule, generator=generator
            )
        return level


@register("level_distribution", "log_normal")
@dataclass(frozen=True, kw_only=True)
class LogNormalLevels:
    """Levels at which `log(sigma / alpha)` is normal (Karras et al. 2022, table 1: training).

    Values beyond the schedule's noisiest level are set to that level.

    Attributes:
        mean: mean of the logarithm.
        std: standard deviation of the logarithm.
        per_token: if True, draw a level for each token, not for each sequence.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import EDMSchedule, LogNormalLevels
        >>> level = LogNormalLevels(mean=-1.2, std=1.2).draw(
        ...     4, 3, noise_schedule=EDMSchedule(), generator=torch.Generator().manual_seed(0)
        ... )
        >>> level.shape
        torch.Size([4, 3])
    """

    mean: float = -1.2
    std: float = 1.2
    per_token: bool = False

    def __post_init__(self) -> None:
        check_range("mean", self.mean)
        check_range("std", self.std, low=0.0, open_low=True)
        check_flag("per_token", self.per_token)

    def draw(
        self, batch: int, tokens: int, *, noise_schedule: NoiseSchedule, generator: torch.Generator
    ) -> Level:
        """Return the levels of evenly spaced quantiles."""
        quantile = _shuffled(batch, tokens if self.per_token else 1, generator)
        log_ratio = self.mean + self.std * torch.special.ndtri(quantile)
        return noise_schedule.level_at(-2 * log_ratio).expand(-1, tokens)


def _even(count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
    """Return numbers in [0, 1), each uniform, together evenly spaced."""
    device = generator.device
    offset = torch.rand((), generator=generator, device=device)
    return (torch.arange(count, device=device) / count + offset) % 1.0


def _shuffled(batch: int, tokens: int, generator: torch.Generator) -> Level:
    """Return columns of evenly spaced numbers, each with a separate random offset and order."""
    device = generator.device
    offset = torch.rand(tokens, generator=generator, device=device)
    order = torch.rand(batch, tokens, generator=generator, device=device).argsort(dim=0)
    return (order / batch + offset) % 1.0
