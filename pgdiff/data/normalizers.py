"""Maps of features to a unit range, fitted to data; constant features map to 0."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.core.registry import register, registered
from pgdiff.core.validation import PgdiffError, check_in, check_range
from pgdiff.data.fields import token_field

# A feature whose spread is below this share of its magnitude is treated as constant: dividing by
# the spread would amplify the rounding of float32 (6e-8).
_CONSTANT = 1e-6

_BLOCK_ROWS = 262_144

N = TypeVar("N", bound="Normalizer")


@dataclass(frozen=True, eq=False)
class Normalizer:
    """Affine map `factor * (x - center) / scale` per feature; differentiable, any leading shape.

    A constant feature has scale 1 and therefore maps to 0 and back exactly, without an effect on
    other features.

    Attributes:
        center: `[features]` float32; sequences of numbers are converted to tensors.
        scale: `[features]` float32, positive; sequences are converted as well.
        factor: `[features]` float32, positive; multiplies the unit range. 1 if empty.
        variance: `[features]` float32, at least 0: variance of the fitted data in the unit range,
            before `factor`. 1 if empty, as in models saved without it.

    Example:
        >>> import torch
        >>> from pgdiff.data import Normalizer
        >>> normalizer = Normalizer([1.0, 0.0], [2.0, 5.0])
        >>> normalizer.normalize(torch.tensor([[3.0, 10.0]]))
        tensor([[1., 2.]])
    """

    center: Float[Tensor, "features"]
    scale: Float[Tensor, "features"]
    factor: Float[Tensor, " factors"] = field(default_factory=lambda: torch.zeros(0))
    variance: Float[Tensor, " variances"] = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        for name in ("center", "scale", "factor", "variance"):
            # A configuration that is read back holds plain numbers.
            value = as_statistics(getattr(self, name))
            if name in ("factor", "variance") and not len(value):
                value = as_statistics(torch.ones_like(self.scale))
            object.__setattr__(self, name, value)
            if value.ndim != 1 or value.shape != self.center.shape:
                raise PgdiffError(
                    "`center`, `scale`, `factor` and `variance` must have the same shape "
                    f"[features]. Got {list(self.center.shape)} for `center` and "
                    f"{list(value.shape)} for `{name}`."
                )
            if not bool(torch.isfinite(value).all()):
                raise PgdiffError(f"`{name}` must be finite. Got NaN or Inf.")
        for name in ("scale", "factor"):
            if not bool((getattr(self, name) > 0).all()):
                raise PgdiffError(f"`{name}` must be positive. Got {getattr(self, name).tolist()}.")
        if not bool((self.variance >= 0).all()):
            raise PgdiffError(f"`variance` must be at least 0. Got {self.variance.tolist()}.")

    @property
    def normalized_variance(self) -> Float[Tensor, " features"]:
        """Variance of each feature of the fitted data after `normalize`; 0 for a constant."""
        return self.variance * self.factor.square()

    @property
    def constant(self) -> Bool[Tensor, " features"]:
        """Mask of features that were constant in the fitted data; their scale is arbitrary."""
        return self.variance == 0

    @property
    def features(self) -> int:
        """Number of features."""
        return len(self.center)

    @classmethod
    def fit(cls, x: Float[np.ndarray, "*rows features"] | Float[Tensor, "*rows features"]) -> Self:
        """Fit to data, block by block and in float64.

        Args:
            x: `[..., features]`, for example `selected(episodes, "observations")`.

        Raises:
            PgdiffError: if there are no rows, or a value is NaN or infinite.
        """
        raise NotImplementedError

    def normalize(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Map raw units to the unit range; the result has device and type of `x`."""
        return (x - self.center.to(x)) / self.scale.to(x) * self.factor.to(x)

    def unnormalize(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Map the unit range to raw units; the result has device and type of `x`."""
        return x / self.factor.to(x) * self.scale.to(x) + self.center.to(x)

    def log_slope(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Return the log derivative of each normalised feature by its raw feature, at raw `x`."""
        return (self.factor.to(x).log() - self.scale.to(x).log()).expand_as(x)


@register("normalizer", "limits")
class LimitsNormalizer(Normalizer):
    """Map of the range of the data, lowest to highest value, to [-1, 1], as in Diffuser.

    Example:
        >>> import numpy as np, torch
        >>> from pgdiff.data import LimitsNormalizer
        >>> normalizer = LimitsNormalizer.fit(np.array([[0.0], [10.0]]))
        >>> normalizer.normalize(torch.tensor([[5.0], [10.0]])).tolist()
        [[0.0], [1.0]]
    """

    @classmethod
    def fit(cls, x: Float[np.ndarray, "*rows features"] | Float[Tensor, "*rows features"]) -> Self:
        """Fit to the lowest and highest value of each feature; see `Normalizer.fit`."""
        data = _Moments.from_data(x)
        # Halved before adding: the sum can overflow where the values do not.
        center, half = data.low / 2 + data.high / 2, data.high / 2 - data.low / 2
        return _build(cls, center, half, data)


@register("normalizer", "standard")
class StandardNormalizer(Normalizer):
    """Map of the data to mean 0 and standard deviation 1.

    Example:
        >>> import numpy as np, torch
        >>> from pgdiff.data import StandardNormalizer
        >>> normalizer = StandardNormalizer.fit(np.array([[1.0], [3.0]]))
        >>> normalizer.normalize(torch.tensor([[3.0]])).tolist()
        [[1.0]]
    """

    @classmethod
    def fit(cls, x: Float[np.ndarray, "*rows features"] | Float[Tensor, "*rows features"]) -> Self:
        """Fit to mean and standard deviation of each feature; see `Normalizer.fit`."""
        data = _Moments.from_data(x)
        return _build(cls, data.mean, np.sqrt(data.variance), data)


@dataclass(frozen=True)
class _Moments:
    """Range, mean and variance of each feature, in float64."""

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def from_data(cls, x: np.ndarray | Tensor) -> Self:
        rows, mean, square = 0, np.float64(0), np.float64(0)
        low, high = np.full(1, np.inf), np.full(1, -np.inf)
        for block in _blocks(x):
            low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
            # Chan, Golub and LeVeque 1979, eq. 1.5: merges mean and squared deviations of blocks.
            count, block_mean = len(block), block.mean(axis=0)
            step = block_mean - mean
            square = (
                square
                + ((block - block_mean) ** 2).sum(axis=0)
                + step**2 * (rows * count / (rows + count))
            )
            mean = mean + step * (count / (rows + count))
            rows += count
        return cls(low, high, np.asarray(mean), np.asarray(square / rows))


def as_statistics(values: Any) -> Tensor:
    """Return numbers as a float32 tensor that autograd can use, even in inference mode."""
    with torch.inference_mode(False):
        tensor = torch.as_tensor(values, dtype=torch.float32)
        return tensor.clone() if tensor.is_inference() else tensor


def _blocks(x: np.ndarray | Tensor) -> Iterable[np.ndarray]:
    if isinstance(x, Tensor):
        x = x.detach().cpu().numpy()
    x = np.asarray(x)
    if x.ndim < 2 or x.size == 0:
        raise PgdiffError(
            f"`x` must have the shape [..., features] and at least one value. Got {list(x.shape)}."
        )
    rows = x.reshape(-1, x.shape[-1])
    for first in range(0, len(rows), _BLOCK_ROWS):
        block = rows[first : first + _BLOCK_ROWS].astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad):
            raise PgdiffError(f"`x` must be finite. Got NaN or Inf in row {first + bad[0]}.")
        yield block


def _build(kind: type[N], center: np.ndarray, scale: np.ndarray, data: _Moments) -> N:
    largest = np.maximum(np.abs(data.low), np.abs(data.high))
    constant = scale <= _CONSTANT * largest
    scale = np.where(constant, 1.0, scale)
    variance = np.where(constant, 0.0, data.variance / scale**2)
    stats = (center, scale, np.ones_like(scale), variance)
    return kind(*(torch.from_numpy(np.asarray(part, np.float32)) for part in stats))


def fit_normalizer(
    kind: str, fields: Sequence[np.ndarray], *, repeats: Sequence[int] | None = None
) -> Normalizer:
    """Fit a normaliser to the concatenated features of several fields.

    Args:
        kind: "limits" or "standard".
        fields: arrays `[steps, size]`, in the order of a token's features.
        repeats: number of consecutive copies of each field's features in a token; 1 if None.

    Example:
        >>> import numpy as np
        >>> from pgdiff.data import fit_normalizer
        >>> normalizer = fit_normalizer("limits", [np.array([[0.0], [4.0]])], repeats=[2])
        >>> normalizer.center.tolist(), normalizer.scale.tolist()
        ([2.0, 2.0], [2.0, 2.0])
    """
    choices: dict[str, type[Normalizer]] = registered("normalizer")
    chosen = choices[check_in("normalizer", kind, choices)]
    parts = [chosen.fit(np.asarray(field)) for field in fields]
    counts = [1] * len(parts) if repeats is None else repeats
    pairs = list(zip(parts, counts, strict=True))
    return chosen(
        *(
            torch.cat([getattr(part, name).repeat(count) for part, count in pairs])
            for name in ("center", "scale", "factor", "variance")
        )
    )


FieldPart = tuple[str, Float[np.ndarray, "rows size"], int]
"""Name of a field, its recorded values and its copies in a token (see `token_fields`)."""

_LIMIT = 0.999


@register("normalizer", "arctanh")
@dataclass(frozen=True, eq=False)
class ArctanhNormalizer(StandardNormalizer):
    """Map to mean 0 and standard deviation 1, with bounded actions passed through arctanh first.

    A feature with `low < high` is mapped from [low, high] to [-1, 1], clipped to `limit` and passed
    through arctanh. Its samples therefore stay within the bounds, whatever noise and guides do. The
    code of policy-guided diffusion (Jackson et al. 2024) treats actions in this way, with limit
    0.999. Features with `low` and `high` 0 are only standardised.

    Attributes:
        low: `[features]` least value of a bounded feature, else 0; sequences become tensors.
        high: `[features]` greatest value of a bounded feature, else 0.
        limit: largest magnitude that is passed to arctanh, in (0, 1).

    Example:
        >>> import torch
        >>> from pgdiff.data import ArctanhNormalizer
        >>> normalizer = ArctanhNormalizer([0.0], [1.0], low=[-2.0], high=[2.0])
        >>> normalizer.unnormalize(torch.tensor([[100.0], [-100.0]])).tolist()
        [[2.0], [-2.0]]
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
                    f"`{name}` must be {self.features} finite numbers, one per feature. "
                    f"Got {list(value.shape)}."
                )
            object.__setattr__(self, name, value)
        if bool((self.low > self.high).any()):
            raise PgdiffError(
                "`low` must be at most `high` in every feature. "
                f"Got {self.low.tolist()} and {self.high.tolist()}."
            )

    def normalize(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Map raw units to standardised units; the result has device and type of `x`."""
        inner = torch.where(self._squashed(x), torch.arctanh(self._clipped(x)), x)
        return super().normalize(inner)

    def unnormalize(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Map standardised units to raw units; the result has device and type of `x`."""
        inner = super().unnormalize(x)
        middle, half = self._span(x)
        return torch.where(self._squashed(x), middle + half * torch.tanh(inner), inner)

    def log_slope(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Return the log derivative of each feature; bounded ones have the factor 1 / (1 - u^2)."""
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

    Flags (bool) always map to -1 and 1: a standardised flag of a rare event would be tens of
    standard deviations away from 0.

    Args:
        kind: "limits", "standard" or "arctanh".
        parts: name, recorded values and copies of each field, in the order of a token.
        scales: factor of each normalised field, by name; larger values give the field more weight
            in the loss. 1 by default.

    Raises:
        PgdiffError: if a scale is not positive, or its field is not in the token.

    Example:
        >>> import numpy as np
        >>> from pgdiff.data import fit_tokens
        >>> parts = [("observations", np.array([[0.0], [4.0]]), 1)]
        >>> fit_tokens("limits", parts, scales={"observations": 3.0}).factor.tolist()
        [3.0]
    """
    fitted = _fit_parts(kind, parts)
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


def _fit_parts(kind: str, parts: Sequence[FieldPart]) -> Normalizer:
    if kind != "arctanh":
        return _map_flags(
            fit_normalizer(kind, [a for _, a, _ in parts], repeats=[n for _, _, n in parts]), parts
        )
    bounds = [_bounds(name, values) for name, values, _ in parts]
    repeats = [count for _, _, count in parts]
    inner = []
    for (name, values, _), (low, high) in zip(parts, bounds, strict=True):
        if token_field(name).bounded:
            plain = ArctanhNormalizer(
                torch.zeros_like(low), torch.ones_like(low), low=low, high=high
            )
            values = plain.normalize(torch.from_numpy(np.array(values))).numpy()
        inner.append(values)
    fitted = _map_flags(fit_normalizer("standard", inner, repeats=repeats), parts)
    low, high = (
        torch.cat([pair[end].repeat(n) for pair, n in zip(bounds, repeats, strict=True)])
        for end in (0, 1)
    )
    return ArctanhNormalizer(
        fitted.center, fitted.scale, variance=fitted.variance, low=low, high=high
    )


def _map_flags(fitted: Normalizer, parts: Sequence[FieldPart]) -> Normalizer:
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
    """Return the least and greatest value of a bounded field; zeros for other fields."""
    if not token_field(name).bounded:
        none = torch.zeros(values.shape[-1])
        return none, none
    low, high = (torch.from_numpy(np.asarray(end(values, axis=0))) for end in (np.min, np.max))
    return low, high
