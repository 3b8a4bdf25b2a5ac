"""Training levels: from which noise levels a model learns."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.registry import from_config, register
from pgdiff.validation import PgdiffError, check_flag, check_range

Level = Float[Tensor, "batch tokens"]


@runtime_checkable
class TrainingLevels(Protocol):
    """A law of the noise levels of a batch of sequences; a frozen, registered dataclass."""

    @property
    def per_token(self) -> bool:
        """Whether tokens of one sequence get levels of their own."""
        ...

    def draw(
        self, batch: int, tokens: int, *, schedule: NoiseSchedule, generator: torch.Generator
    ) -> Level:
        """Draw levels in [0, 1] on the generator's device."""
        ...


@register("levels", "sequence")
@dataclass(frozen=True)
class SequenceLevels:
    """One level for each sequence, the same for all its tokens.

    The levels of a batch are evenly spaced with one common random offset, which lowers the
    variance of the loss (Kingma et al. 2021, appendix I.1).
    """

    @property
    def per_token(self) -> bool:
        """Never."""
        return False

    def draw(
        self, batch: int, tokens: int, *, schedule: NoiseSchedule, generator: torch.Generator
    ) -> Level:
        """Evenly spaced levels."""
        return _even(batch, generator)[:, None].expand(-1, tokens)


@register("levels", "independent")
@dataclass(frozen=True)
class IndependentLevels:
    """A uniform level for each token, independent within a sequence.

    Chen et al. (2024), "Diffusion Forcing", algorithm 1. Over the batch each token's levels are
    evenly spaced as in `SequenceLevels`, with an offset and an order of the token's own.
    """

    @property
    def per_token(self) -> bool:
        """Always."""
        return True

    def draw(
        self, batch: int, tokens: int, *, schedule: NoiseSchedule, generator: torch.Generator
    ) -> Level:
        """Evenly spaced levels, in another order for each token."""
        return _shuffled(batch, tokens, generator)


@register("levels", "forcing")
@dataclass(frozen=True, kw_only=True)
class ForcingLevels:
    """Independent levels, with the mixtures that Diffusion Forcing's public code plans with.

    Attributes:
        start: share of the sequences whose first token is nearly clean, as an observation is.
        start_below: its level is then uniform in [0, `start_below`).
        cut: share of the sequences of which all tokens behind a drawn one, the third at the
            earliest, are noise alone, so that shorter plans are learned too.
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
        """Always."""
        return True

    def draw(
        self, batch: int, tokens: int, *, schedule: NoiseSchedule, generator: torch.Generator
    ) -> Level:
        """Draw levels, then the first token's and the cut of some sequences."""
        level = _shuffled(batch, tokens, generator)
        near, share, place = (_shuffled(batch, 1, generator)[:, 0] for _ in range(3))
        first = torch.where(near < self.start, self.start_below * level[:, 0], level[:, 0])
        level = torch.cat([first[:, None], level[:, 1:]], dim=1)
        # Of at least two tokens, and of all where there are no more.
        length = 2 + (place * max(tokens - 2, 0)).long()
        behind = torch.arange(tokens, device=level.device) >= length[:, None]
        return torch.where(behind & (share < self.cut)[:, None], 1.0, level)


@register("levels", "mixture")
@dataclass(frozen=True, kw_only=True)
class MixtureLevels:
    """The levels of each sequence are drawn from one of several laws.

    Attributes:
        parts: the laws.
        weights: how probable each is, up to a common factor; alike if None.
    """

    parts: tuple[TrainingLevels, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        # YAML and the command line have lists, and parts by their names.
        given = self.parts if isinstance(self.parts, Iterable) else ()
        parts = tuple(from_config("levels", p) if isinstance(p, Mapping) else p for p in given)
        laws = (isinstance(p, TrainingLevels) and not isinstance(p, type) for p in parts)
        if not parts or not all(laws):
            raise PgdiffError(
                "`parts` must be one law of levels or more, each with `draw` and `per_token`. "
                f"Got {self.parts!r}."
            )
        object.__setattr__(self, "parts", parts)
        if self.weights is not None:
            weights = tuple(self.weights) if isinstance(self.weights, Iterable) else ()
            if len(weights) != len(parts):
                raise PgdiffError(
                    f"`weights` must be as many as `parts`, {len(parts)}. Got {self.weights}."
                )
            object.__setattr__(self, "weights", weights)
        for place, weight in enumerate(self.weights or ()):
            check_range(f"weights[{place}]", weight, low=0.0, open_low=True)

    @property
    def per_token(self) -> bool:
        """If any part's is."""
        return any(part.per_token for part in self.parts)

    def draw(
        self, batch: int, tokens: int, *, schedule: NoiseSchedule, generator: torch.Generator
    ) -> Level:
        """Choose a part for each sequence, then draw each part for its sequences at once."""
        device = generator.device
        ends = torch.tensor(self.weights or [1.0] * len(self.parts), device=device).cumsum(dim=0)
        # Evenly spaced too: the parts' shares of the batch are right to within one sequence.
        place = ends[-1] * _even(batch, generator)
        choice = torch.searchsorted(ends[:-1].contiguous(), place, right=True)
        level = torch.empty(batch, tokens, device=device)
        for index, part in enumerate(self.parts):
            chosen = choice == index
            count = int(chosen.sum())
            level[chosen] = part.draw(count, tokens, schedule=schedule, generator=generator)
        return level


@register("levels", "log_normal")
@dataclass(frozen=True, kw_only=True)
class LogNormalLevels:
    """The logarithm of `sigma / alpha` is normal (Karras et al. 2022, table 1: training).

    What lies beyond the schedule's noisiest level goes there.

    Attributes:
        mean: of that logarithm.
        std: its standard deviation.
        per_token: draw for each token, not for each sequence.
    """

    mean: float = -1.2
    std: float = 1.2
    per_token: bool = False

    def __post_init__(self) -> None:
        check_range("mean", self.mean)
        check_range("std", self.std, low=0.0, open_low=True)
        check_flag("per_token", self.per_token)

    def draw(
        self, batch: int, tokens: int, *, schedule: NoiseSchedule, generator: torch.Generator
    ) -> Level:
        """Levels at evenly spaced quantiles."""
        quantile = _shuffled(batch, tokens if self.per_token else 1, generator)
        log_ratio = self.mean + self.std * torch.special.ndtri(quantile)
        return schedule.level_at(-2 * log_ratio).expand(-1, tokens)


def _even(count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
    """Numbers in [0, 1), each uniform, together evenly spaced."""
    device = generator.device
    offset = torch.rand((), generator=generator, device=device)
    return (torch.arange(count, device=device) / count + offset) % 1.0


def _shuffled(batch: int, tokens: int, generator: torch.Generator) -> Level:
    """Columns of such numbers, independent of each other: offset and order are their own."""
    device = generator.device
    offset = torch.rand(tokens, generator=generator, device=device)
    order = torch.rand(batch, tokens, generator=generator, device=device).argsort(dim=0)
    return (order / batch + offset) % 1.0
