"""Affine maps of features to a unit range, fitted to data; constant features map to 0."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.registry import register, registered
from pgdiff.validation import PgdiffError, check_in

# A feature whose spread is below this share of its magnitude is constant up to the rounding of
# float32 (6e-8), which a division by the spread would blow up.
_CONSTANT = 1e-6

_BLOCK_ROWS = 262_144

N = TypeVar("N", bound="Normalizer")


@dataclass(frozen=True, eq=False)
class Normalizer:
    """`factor * (x - center) / scale` per feature; differentiable, for any leading shape.

    A constant feature has scale 1, so that it maps to 0 and back exactly; it leaves the other
    features alone.

    Attributes:
        center: `[features]` float32; a sequence of numbers is made a tensor.
        scale: `[features]` float32, positive; likewise.
        factor: `[features]` float32, positive, of what is in the unit range; 1 if empty.
        variance: `[features]` float32, at least 0, of the fitted data in the unit range, before
            `factor`; 1 if empty, as in a model that was saved without it.
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
                    "`center`, `scale`, `factor` and `variance` must have one equal shape "
                    f"[features]. Got {list(self.center.shape)}, and {list(value.shape)} of "
                    f"`{name}`."
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
        """Variance of each feature of the fitted data after `normalize`; 0 of a constant one."""
        return self.variance * self.factor.square()

    @property
    def constant(self) -> Bool[Tensor, " features"]:
        """Features that were constant in the fitted data, so that their scale means nothing."""
        return self.variance == 0

    @property
    def features(self) -> int:
        """Number of features."""
        return len(self.center)

    @classmethod
    def fit(cls, x: Float[np.ndarray, "*rows features"] | Float[Tensor, "*rows features"]) -> Self:
        """Fit to data, block by block in float64.

        Args:
            x: `[..., features]`, for example `selected(episodes, "observations")`.

        Raises:
            PgdiffError: if there are no rows, or some value is NaN or infinite.
        """
        raise NotImplementedError

    def normalize(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Map raw units to the unit range; device and type are those of `x`."""
        return (x - self.center.to(x)) / self.scale.to(x) * self.factor.to(x)

    def unnormalize(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Map back to raw units; device and type are those of `x`."""
        return x / self.factor.to(x) * self.scale.to(x) + self.center.to(x)

    def log_slope(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Logarithm of the derivative of each normalised feature by its raw one, at `x`, raw."""
        return (self.factor.to(x).log() - self.scale.to(x).log()).expand_as(x)


@register("normalizer", "limits")
class LimitsNormalizer(Normalizer):
    """Maps the range of the data, lowest to highest value, to [-1, 1] (Diffuser's choice)."""

    @classmethod
    def fit(cls, x: Float[np.ndarray, "*rows features"] | Float[Tensor, "*rows features"]) -> Self:
        """Fit to the lowest and highest value of each feature; see `Normalizer.fit`."""
        data = _Moments.of(x)
        # Half of each first: the sum may overflow where the values do not.
        center, half = data.low / 2 + data.high / 2, data.high / 2 - data.low / 2
        return _made(cls, center, half, data)


@register("normalizer", "standard")
class StandardNormalizer(Normalizer):
    """Maps to mean 0 and standard deviation 1."""

    @classmethod
    def fit(cls, x: Float[np.ndarray, "*rows features"] | Float[Tensor, "*rows features"]) -> Self:
        """Fit to mean and standard deviation of each feature; see `Normalizer.fit`."""
        data = _Moments.of(x)
        return _made(cls, data.mean, np.sqrt(data.variance), data)


@dataclass(frozen=True)
class _Moments:
    """Range, mean and variance of each feature, in float64."""

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray | Tensor) -> Self:
        rows, mean, square = 0, np.float64(0), np.float64(0)
        low, high = np.full(1, np.inf), np.full(1, -np.inf)
        for block in _blocks(x):
            low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
            # Chan, Golub and LeVeque 1979, eq. 1.5: joins mean and squared deviations of blocks.
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
    """Return numbers as a float32 tensor that autograd can use, whatever mode the caller is in."""
    with torch.inference_mode(False):
        tensor = torch.as_tensor(values, dtype=torch.float32)
        return tensor.clone() if tensor.is_inference() else tensor


def _blocks(x: np.ndarray | Tensor) -> Iterable[np.ndarray]:
    if isinstance(x, Tensor):
        x = x.detach().cpu().numpy()
    x = np.asarray(x)
    if x.ndim < 2 or x.size == 0:
        raise PgdiffError(
            f"`x` must have the shape [..., features] and hold a value. Got {list(x.shape)}."
        )
    rows = x.reshape(-1, x.shape[-1])
    for first in range(0, len(rows), _BLOCK_ROWS):
        block = rows[first : first + _BLOCK_ROWS].astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad):
            raise PgdiffError(f"`x` must be finite. Got NaN or Inf in row {first + bad[0]}.")
        yield block


def _made(kind: type[N], center: np.ndarray, scale: np.ndarray, data: _Moments) -> N:
    largest = np.maximum(np.abs(data.low), np.abs(data.high))
    constant = scale <= _CONSTANT * largest
    scale = np.where(constant, 1.0, scale)
    variance = np.where(constant, 0.0, data.variance / scale**2)
    stats = (center, scale, np.ones_like(scale), variance)
    return kind(*(torch.from_numpy(np.asarray(part, np.float32)) for part in stats))


def fit_normalizer(
    kind: str, fields: Sequence[np.ndarray], *, repeats: Sequence[int] | None = None
) -> Normalizer:
    """Fit a normaliser of this kind to the features of several fields side by side.

    Args:
        kind: "limits" or "standard".
        fields: arrays `[steps, size]`, in the order of a token's features.
        repeats: how often each field's features stand in a token, one after the other; once if
            None.
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
