"""Actions through the area tangent, and the normaliser of a token's fields side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.data.normalizers import (
    Normalizer,
    StandardNormalizer,
    as_statistics,
    fit_normalizer,
)
from pgdiff.registry import register
from pgdiff.validation import PgdiffError, check_in, check_range

FieldPart = tuple[str, Float[np.ndarray, "rows size"], int]
"""Name, recorded values and repeats in a token of a field (`pgdiff.data.segments.token_fields`)."""

_ACTIONS = ("actions", "action_chunks", "previous_actions")
_LIMIT = 0.999


@register("normalizer", "arctanh")
@dataclass(frozen=True, eq=False)
class ArctanhNormalizer(StandardNormalizer):
    """Mean 0 and deviation 1, of actions after the inverse hyperbolic tangent.

    A feature with `low < high` is first mapped from there to [-1, 1], clipped to `limit`, and put
    through arctanh: what samples make of it lies within its bounds, wherever noise or a guide takes
    them. Policy-guided diffusion's code (Jackson et al. 2024) treats actions so, with the limit
    0.999. Other features have `low` and `high` 0 and are standardised as they are.

    Attributes:
        low: `[features]` least value of a feature, or 0 for none; a sequence is made a tensor.
        high: `[features]` greatest value, or 0.
        limit: greatest value that goes into arctanh, in (0, 1).
    """

    low: Float[Tensor, " bounds"] = field(default_factory=lambda: torch.zeros(0))
    high: Float[Tensor, " bounds"] = field(default_factory=lambda: torch.zeros(0))
    limit: float = _LIMIT

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("limit", self.limit, low=0.0, high=1.0, open_low=True, open_high=True)
        for name in ("low", "high"):
            value = as_statistics(getattr(self, name))
            if not len(value):
                value = as_statistics(torch.zeros_like(self.center))
            if value.shape != self.center.shape or not bool(torch.isfinite(value).all()):
                raise PgdiffError(
                    f"`{name}` must be {self.features} finite numbers, one a feature. "
                    f"Got {list(value.shape)}."
                )
            object.__setattr__(self, name, value)
        if bool((self.low > self.high).any()):
            raise PgdiffError("`low` must be at most `high` in every feature. Got more.")

    def normalize(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Map raw units to standard ones; device and type are those of `x`."""
        inner = torch.where(self._squashed(x), torch.arctanh(self._clipped(x)), x)
        return super().normalize(inner)

    def unnormalize(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Map back to raw units; device and type are those of `x`."""
        inner = super().unnormalize(x)
        middle, half = self._span(x)
        return torch.where(self._squashed(x), middle + half * torch.tanh(inner), inner)

    def log_slope(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Logarithm of each feature's derivative; 1 / (1 - u^2) of one that is squashed."""
        _, half = self._span(x)
        u = self._clipped(x)
        return super().log_slope(x) - torch.where(
            self._squashed(x), (half * (1 - u.square())).log(), 0.0
        )

    def _squashed(self, x: Tensor) -> Tensor:
        return (self.low < self.high).to(x.device)

    def _span(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = (self.high - self.low).to(x) / 2
        return (self.high + self.low).to(x) / 2, torch.where(half > 0, half, 1.0)

    def _clipped(self, x: Tensor) -> Tensor:
        middle, half = self._span(x)
        return ((x - middle) / half).clamp(-self.limit, self.limit)


def fit_tokens(
    kind: str, parts: Sequence[FieldPart], *, scales: Mapping[str, float] | None = None
) -> Normalizer:
    """Fit a normaliser to the fields of a token.

    Flags, which are bool, are mapped to -1 and 1 whatever their share: a standardised flag of a
    rare event would lie tens of deviations off.

    Args:
        kind: "limits", "standard" or "arctanh".
        parts: of each field, in the order of a token.
        scales: factors of fields, by name, once they are normalised; 1 if not named.

    Raises:
        PgdiffError: a scale that is not positive, or of a field that the token has not.
    """
    fitted = _fitted(kind, parts)
    if scales is None:
        return fitted
    if not isinstance(scales, Mapping):
        raise PgdiffError(f"`field_scales` must be numbers by name of a field. Got {scales!r}.")
    for name, scale in scales.items():
        check_in("field_scales", name, [name for name, _, _ in parts])
        check_range(f"field_scales.{name}", scale, low=0.0, open_low=True)
    sizes = [values.shape[-1] * repeats for _, values, repeats in parts]
    factors = [float(scales.get(name, 1.0)) for name, _, _ in parts]
    factor = torch.tensor(factors).repeat_interleave(torch.tensor(sizes))
    return replace(fitted, factor=factor)


def _fitted(kind: str, parts: Sequence[FieldPart]) -> Normalizer:
    if kind != "arctanh":
        return _with_flags(
            fit_normalizer(kind, [a for _, a, _ in parts], repeats=[n for _, _, n in parts]), parts
        )
    bounds = [_bounds(name, values) for name, values, _ in parts]
    repeats = [count for _, _, count in parts]
    inner = []
    for (name, values, _), (low, high) in zip(parts, bounds, strict=True):
        if name in _ACTIONS:
            plain = ArctanhNormalizer(
                torch.zeros_like(low), torch.ones_like(low), low=low, high=high
            )
            values = plain.normalize(torch.from_numpy(np.array(values))).numpy()
        inner.append(values)
    fitted = _with_flags(fit_normalizer("standard", inner, repeats=repeats), parts)
    low, high = (
        torch.cat([pair[end].repeat(n) for pair, n in zip(bounds, repeats, strict=True)])
        for end in (0, 1)
    )
    return ArctanhNormalizer(
        fitted.center, fitted.scale, variance=fitted.variance, low=low, high=high
    )


def _with_flags(fitted: Normalizer, parts: Sequence[FieldPart]) -> Normalizer:
    flags = torch.cat(
        [
            torch.full((values.shape[-1] * repeats,), values.dtype == np.bool_)
            for _, values, repeats in parts
        ]
    )
    center, scale = (torch.where(flags, 0.5, stat) for stat in (fitted.center, fitted.scale))
    variance = fitted.variance * (fitted.scale / scale).square()
    return type(fitted)(center, scale, variance=variance)


def _bounds(name: str, values: np.ndarray) -> tuple[Tensor, Tensor]:
    """Least and greatest recorded action; zeros for other fields."""
    if name not in _ACTIONS:
        none = torch.zeros(values.shape[-1])
        return none, none
    low, high = (torch.from_numpy(np.asarray(end(values, axis=0))) for end in (np.min, np.max))
    return low, high
