"""Affine maps of features to a unit range, fitted to data; constant features map to 0."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.registry import register, registered
from pgdiff.validation import PgdiffError, check_in

# A feature whose spread is below this share of its magnitude is constant up to the rounding of
# float32 (6e-8), which a division by the spread would blow up.
_CONSTANT = 1e-6

_BLOCK_ROWS = 262_144


@dataclass(frozen=True, eq=False)
class Normalizer:
    """`factor * (x - center) / scale` per feature; differentiable, for any leading shape.

    A constant feature has scale 1, so that it maps to 0 and back exactly; it leaves the other
    features alone.

    Attributes:
        center: `[features]` float32; a sequence of numbers is made a tensor.
        scale: `[features]` float32, positive; likewise.
        factor: `[features]` float32, positive, of what is in the unit range; 1 if empty.
    """

    center: Float[Tensor, "features"]
    scale: Float[Tensor, "features"]
    factor: Float[Tensor, " factors"] = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        for name in ("center", "scale", "factor"):
            # A configuration that is read back holds plain numbers.
            value = torch.as_tensor(getattr(self, name), dtype=torch.float32)
            with torch.inference_mode(False):  # autograd cannot use a tensor that is made in it
                value = value.clone() if value.is_inference() else value
            if name == "factor" and not len(value):
                value = torch.ones_like(self.scale)
            object.__setattr__(self, name, value)
            if value.ndim != 1 or value.shape != self.center.shape:
                raise PgdiffError(
                    "`center`, `scale` and `factor` must have one equal shape [features]. "
                    f"Got {list(self.center.shape)}, and {list(value.shape)} of `{name}`."
                )
            if not bool(torch.isfinite(value).all()):
                raise PgdiffError(f"`{name}` must be finite. Got NaN or Inf.")
        for name in ("scale", "factor"):
            if not bool((getattr(self, name) > 0).all()):
                raise PgdiffError(f"`{name}` must be positive. Got {getattr(self, name).tolist()}.")

    @property
    def features(self) -> int:
        """Number of features."""
        return len(self.center)

    @classmethod
    def fit(cls, x: Float[np.ndarray, "*rows features"] | Float[Tensor, "*rows features"]) -> Self:
        """Fit to data, block by block in float64.

        Args:
            x: `[..., features]`, for example `episodes.observations`.

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
        low, high = np.full(1, np.inf), np.full(1, -np.inf)
        for block in _blocks(x):
            low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        # Half of each first: the sum may overflow where the values do not.
        return cls(*_stats(low / 2 + high / 2, high / 2 - low / 2, np.maximum(-low, high)))


@register("normalizer", "standard")
class StandardNormalizer(Normalizer):
    """Maps to mean 0 and standard deviation 1."""

    @classmethod
    def fit(cls, x: Float[np.ndarray, "*rows features"] | Float[Tensor, "*rows features"]) -> Self:
        """Fit to mean and standard deviation of each feature; see `Normalizer.fit`."""
        rows, mean, square, largest = 0, np.float64(0), np.float64(0), np.float64(0)
        for block in _blocks(x):
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
            largest = np.maximum(largest, np.abs(block).max(axis=0))
        return cls(*_stats(np.asarray(mean), np.sqrt(square / rows), np.asarray(largest)))


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


def _stats(center: np.ndarray, scale: np.ndarray, largest: np.ndarray) -> tuple[Tensor, Tensor]:
    scale = np.where(scale <= _CONSTANT * np.abs(largest), 1.0, scale)
    return torch.from_numpy(center.astype(np.float32)), torch.from_numpy(scale.astype(np.float32))


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
        torch.cat([part.center.repeat(count) for part, count in pairs]),
        torch.cat([part.scale.repeat(count) for part, count in pairs]),
    )
