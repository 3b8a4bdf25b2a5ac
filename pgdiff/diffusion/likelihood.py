"""Log-likelihood by the probability-flow equation.

Song et al. (2021), "Score-based generative modeling through stochastic differential equations",
section 4.3 and eq. 39, in the coordinates of Karras et al. (2022).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.validation import PgdiffError, check_in, check_positive_int, check_range
from pgdiff.diffusion.inpainting import Inpainting
from pgdiff.diffusion.sampler import Denoise
from pgdiff.diffusion.schedules import NoiseSchedule

Signal = Float[Tensor, "batch tokens features"]
Directions = Float[Tensor, "directions batch tokens features"]
Rate = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""Function of a point and a log rho: slope of the path, and its divergence in each direction."""

LARGEST_EXACT = 256
"""Largest number of features, over all tokens, for the exact trace."""

LARGEST_NOISE = 1e4
"""Ratio sigma / alpha that counts as pure noise for schedules whose alpha falls to 0."""


@dataclass(frozen=True)
class LogLikelihood:
    """Natural logarithm of the density of each trajectory, in the units of the input.

    Attributes:
        value: `[batch]`, in nats, joint over all features that are not given.
        standard_error: `[batch]`, standard error of `value` over the probes; 0 for the exact trace.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import LogLikelihood
        >>> LogLikelihood(torch.tensor([-3.5]), torch.zeros(1)).value.tolist()
        [-3.5]
    """

    value: Float[Tensor, " batch"]
    standard_error: Float[Tensor, " batch"]


def log_likelihood(
    denoise: Denoise,
    x: Signal,
    *,
    noise_schedule: NoiseSchedule,
    method: Literal["exact", "hutchinson"] = "exact",
    probes: int = 16,
    generator: torch.Generator | None = None,
    steps: int = 100,
    noise_min: float = 1e-3,
    noise_max: float | None = None,
    inpainting: Inpainting | None = None,
) -> LogLikelihood:
    """Return the log-density of clean trajectories under a denoiser.

    With `y = x / alpha`, `rho = sigma / alpha` and all tokens at one level the equation is `dy /
    d(log rho) = y - x0_hat(alpha y)`, and `log p` falls along the path by the divergence of the
    right side. Both are integrated from `noise_min` to `noise_max` by the classical Runge-Kutta
    method in `log rho`, in float64 for any type of `x`. The end point follows the distribution that
    sampling starts from, a normal with standard deviation `noise_max`. The result is therefore the
    density of the samples of a perfect deterministic solver. For data with mean m their density
    differs from the data's by about |m| / noise_max.

    The density is that of the data with added noise of `noise_min`, the finest detail that it
    resolves, in normalised units. For raw units subtract the logarithm of the normaliser's scale
    of every feature that is not given. Gradients are not passed on.

    Args:
        denoise: clean estimate x0_hat of `x` at its levels `[1 or batch, tokens]`.
        x: `[batch, tokens, features]`, clean, normalised.
        noise_schedule: signal and noise at a level.
        method: trace of the denoiser's Jacobian: "exact" needs one backward pass for each feature
            of each token, "hutchinson" estimates it (Hutchinson 1990).
        probes: number of random directions of the estimate, at least 2; more directions lower the
            standard error. Each is kept along the whole path, so that their spread gives it.
        generator: source of the probes; required by "hutchinson".
        steps: number of Runge-Kutta steps, each with four calls of `denoise`.
        noise_min: ratio sigma / alpha that counts as clean.
        noise_max: ratio sigma / alpha that counts as pure noise; the ratio at level 1, but at most
            10,000, if None.
        inpainting: given features, which replace those of `x`; the density is then that of the
            other features, conditional on these. Tokens given as a whole have level 0. For tokens
            given in part, the denoiser must have been trained with these features given.

    Raises:
        PgdiffError: too many features for the exact trace, bounds out of order or beyond level 1,
            or a denoiser that is not differentiable or not finite.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import CosineSchedule, log_likelihood
        >>> density = log_likelihood(
        ...     lambda x, level: 0.0 * x, torch.zeros(2, 3, 1), noise_schedule=CosineSchedule()
        ... )
        >>> density.value.shape
        torch.Size([2])
    """
    check_in("method", method, ("exact", "hutchinson"))
    steps = check_positive_int("steps", steps)
    probes = check_positive_int("probes", probes, minimum=2)
    low, high = _bounds(noise_schedule, noise_min=noise_min, noise_max=noise_max)
    # Tensors that are made in inference mode cannot be differentiated.
    with torch.inference_mode(False), torch.no_grad():
        x = x.detach().clone()
        fixed = _checked(inpainting, x)
        free = ~fixed.mask.expand_as(x)
        exact = method == "exact"
        directions = _unit(free) if exact else _rademacher(free, probes, generator)

        def rate(y: Tensor, log_rho: float) -> tuple[Tensor, Tensor]:
            log_snr = torch.full((1, x.shape[1]), -2 * log_rho, dtype=torch.float64)
            level = noise_schedule.level_at(log_snr.to(x.device))
            alpha = noise_schedule.alpha(level)[..., None]
            level = fixed.levels(level).to(x.dtype)
            slope, divergence = _slope(
                lambda y: denoise(fixed.hold((alpha * y).to(x.dtype)), level).double(),
                y,
                free,
                directions,
            )
            return slope, divergence.sum(dim=0, keepdim=True) if exact else divergence

        y, divergence = _runge_kutta(rate, x.double(), low, high, steps=steps)
        # log N(y; 0, rho^2 I) over the free features.
        square = (y / math.exp(high)).square() + math.log(2 * math.pi) + 2 * high
        values = divergence - 0.5 * torch.where(free, square, 0.0).sum(dim=(1, 2))
        if not torch.isfinite(values).all():
            raise PgdiffError(
                "The log-likelihood must be finite. Got NaN or Inf. Check `x` and the model."
            )
        value = values.mean(dim=0)
        error = torch.zeros_like(value) if exact else values.std(dim=0) / math.sqrt(probes)
        return LogLikelihood(value, error)


def _bounds(
    noise_schedule: NoiseSchedule, *, noise_min: float, noise_max: float | None
) -> tuple[float, float]:
    """Return the ends of the path in log rho."""
    log_snr = float(noise_schedule.log_snr(torch.ones((), dtype=torch.float64)))
    last = math.exp(-log_snr / 2) if log_snr > -700 else math.inf
    if noise_max is None:
        noise_max = min(last, LARGEST_NOISE)
    check_range("noise_min", noise_min, low=0.0, open_low=True)
    check_range("noise_max", noise_max, low=noise_min, open_low=True)
    if noise_max > last * (1 + 1e-6):
        raise PgdiffError(
            "`noise_max` must be at most sigma / alpha of level 1, the largest noise of training, "
            f"{last:.6g} for {noise_schedule!r}. Got {noise_max:g}."
        )
    return math.log(noise_min), math.log(noise_max)


def _checked(inpainting: Inpainting | None, x: Tensor) -> Inpainting:
    """Return the given features on the device and in the type of `x`; none if None."""
    if not torch.isfinite(x).all():
        raise PgdiffError("`x` must be finite. Got NaN or Inf.")
    if inpainting is None:
        return Inpainting(torch.zeros_like(x[:1], dtype=torch.bool), x[:1])
    if inpainting.values.shape[1:] != x.shape[1:] or len(inpainting.values) not in (1, len(x)):
        raise PgdiffError(
            f"`inpainting` must have the shape of `x`, {list(x.shape)}, or a batch of 1. "
            f"Got {list(inpainting.values.shape)}."
        )
    if bool(inpainting.mask.flatten(1).all(dim=1).any()):
        raise PgdiffError(
            "`inpainting` must leave at least one feature of every trajectory free. "
            "Got a trajectory with all features given."
        )
    return Inpainting(inpainting.mask.to(x.device), inpainting.values.to(x))


def _unit(free: Tensor) -> Directions:
    """Return the unit vectors of all features that are free in some trajectory."""
    some = free.any(dim=0).flatten()
    if int(some.sum()) > LARGEST_EXACT:
        raise PgdiffError(
            f"`method` must be 'hutchinson' for more than {LARGEST_EXACT} features in all tokens "
            f"together. Got 'exact' for {int(some.sum())}."
        )
    eye = torch.eye(len(some), dtype=torch.float64, device=free.device)[some]
    return eye.reshape(-1, 1, *free.shape[1:]) * free


def _rademacher(free: Tensor, probes: int, generator: torch.Generator | None) -> Directions:
    """Return random signs at the free features."""
    if generator is None:
        raise PgdiffError("`generator` must be given for the method 'hutchinson'. Got None.")
    draws = torch.randint(2, (probes, *free.shape), generator=generator, device=generator.device)
    return (2.0 * draws.double() - 1.0).to(free.device) * free


def _slope(
    clean: Callable[[Tensor], Tensor], y: Tensor, free: Tensor, directions: Directions
) -> tuple[Signal, Float[Tensor, "directions batch"]]:
    """Return the slope `f = y - x0_hat`, 0 where given, and `v . (df / dy) v` of directions v."""
    with torch.enable_grad():
        point = y.detach().requires_grad_(True)
        x0_hat = clean(point)
        if not x0_hat.requires_grad:
            raise PgdiffError(
                "`denoise` must be differentiable in `x`. Got a result without a gradient."
            )
        along = []
        for number, v in enumerate(directions, start=1):
            more = number < len(directions)
            (pulled,) = torch.autograd.grad(x0_hat, point, v, retain_graph=more)
            along.append((v * (v - pulled)).sum(dim=(1, 2)))
    return torch.where(free, y - x0_hat.detach(), 0.0), torch.stack(along)


def _runge_kutta(
    rate: Rate, y: Tensor, low: float, high: float, *, steps: int
) -> tuple[Tensor, Tensor]:
    """Return the end of the path from `low` to `high`, and the integral of its divergence."""
    h = (high - low) / steps
    total: Tensor | float = 0.0
    for step in range(steps):
        s = low + step * h
        slope1, rise1 = rate(y, s)
        slope2, rise2 = rate(y + h / 2 * slope1, s + h / 2)
        slope3, rise3 = rate(y + h / 2 * slope2, s + h / 2)
        slope4, rise4 = rate(y + h * slope3, s + h)
        y = y + h / 6 * (slope1 + 2 * slope2 + 2 * slope3 + slope4)
        total = total + h / 6 * (rise1 + 2 * rise2 + 2 * rise3 + rise4)
    assert isinstance(total, Tensor)
    return y, total
