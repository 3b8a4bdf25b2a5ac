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

from pgdiff.diffusion.known import Known
from pgdiff.diffusion.sampler import Denoise
from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.validation import PgdiffError, check_in, check_positive_int, check_range

Signal = Float[Tensor, "batch tokens features"]
Directions = Float[Tensor, "directions batch tokens features"]
Rate = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""Slope of the path and its divergence along every direction, at a point and a log rho."""

LARGEST_EXACT = 256
"""Most features in all tokens together for which the exact trace is taken."""

LARGEST_NOISE = 1e4
"""Ratio sigma / alpha at which a schedule whose alpha falls to 0 counts as noise alone."""


@dataclass(frozen=True)
class LogLikelihood:
    """Natural logarithm of the density of each trajectory, in the units of what was given.

    Attributes:
        value: `[batch]`, nats, for all features that are not known together.
        standard_error: `[batch]`, that of `value` over the probes; 0 for the exact trace.
    """

    value: Float[Tensor, " batch"]
    standard_error: Float[Tensor, " batch"]


def log_likelihood(
    denoise: Denoise,
    x: Signal,
    *,
    schedule: NoiseSchedule,
    method: Literal["exact", "hutchinson"] = "exact",
    probes: int = 16,
    generator: torch.Generator | None = None,
    steps: int = 100,
    noise_min: float = 1e-3,
    noise_max: float | None = None,
    known: Known | None = None,
) -> LogLikelihood:
    """Log-density of clean trajectories under what a denoiser has learned.

    With `y = x / alpha`, `rho = sigma / alpha` and all tokens at one level the equation is `dy /
    d(log rho) = y - x0_hat(alpha y)`, and `log p` falls along it by the divergence of the right
    side. Both are integrated from `noise_min` to `noise_max` by the classical Runge-Kutta method in
    `log rho`, in float64 whatever `x` is. The end has the law that sampling starts from, normal
    with standard deviation `noise_max`: the value is that of the samples which a perfect
    deterministic solver would draw. Data whose mean is m differ from them by about |m| / noise_max.

    The density is that of the data with noise of `noise_min`, which is the finest detail that it
    knows. It is that of normalised values; in raw units subtract the logarithm of the normaliser's
    scale of every feature that is not known. Gradients are not passed on.

    Args:
        denoise: clean estimate x0_hat of `x` at its levels, which come as `[1 or batch, tokens]`.
        x: `[batch, tokens, features]`, clean, normalised.
        schedule: signal and noise at a level.
        method: how the trace of the denoiser's Jacobian is taken: "exact" by one backward pass for
            each feature of each token, "hutchinson" estimates it (Hutchinson 1990).
        probes: random directions of the estimate, at least 2. Each is kept along the whole path, so
            that their spread gives the standard error.
        generator: source of the probes; "hutchinson" needs it.
        steps: Runge-Kutta steps, each of four calls of `denoise`.
        noise_min: ratio sigma / alpha that counts as clean.
        noise_max: ratio that counts as noise alone; that of level 1, or 10,000 if it is above that,
            where None.
        known: features that are given, in place of those of `x`: the density is then that of the
            others, given these. Tokens known as a whole have level 0. Of tokens known in part the
            denoiser must have learned that those features are given.

    Raises:
        PgdiffError: too many features for the exact trace, bounds that are out of order or beyond
            level 1, a denoiser that is not differentiable or not finite.
    """
    check_in("method", method, ("exact", "hutchinson"))
    steps = check_positive_int("steps", steps)
    probes = check_positive_int("probes", probes, minimum=2)
    low, high = _bounds(schedule, noise_min=noise_min, noise_max=noise_max)
    # In inference mode nothing can be differentiated, not even what is made anew.
    with torch.inference_mode(False), torch.no_grad():
        x = x.detach().clone()
        known = _checked(known, x)
        free = ~known.mask.expand_as(x)
        exact = method == "exact"
        directions = _unit(free) if exact else _rademacher(free, probes, generator)

        def rate(y: Tensor, log_rho: float) -> tuple[Tensor, Tensor]:
            log_snr = torch.full((1, x.shape[1]), -2 * log_rho, dtype=torch.float64)
            level = schedule.level_at(log_snr.to(x.device))
            alpha = schedule.alpha(level)[..., None]
            level = known.levels(level).to(x.dtype)
            slope, divergence = _slope(
                lambda y: denoise(known.hold((alpha * y).to(x.dtype)), level).double(),
                y,
                free,
                directions,
            )
            return slope, divergence.sum(dim=0, keepdim=True) if exact else divergence

        y, divergence = _runge_kutta(rate, x.double(), low, high, steps=steps)
        # log N(y; 0, rho^2 I) over what is free.
        square = (y / math.exp(high)).square() + math.log(2 * math.pi) + 2 * high
        values = divergence - 0.5 * torch.where(free, square, 0.0).sum(dim=(1, 2))
        if not torch.isfinite(values).all():
            raise PgdiffError(
                "The log-likelihood must be finite. Got NaN or Inf: check `x` and the model."
            )
        value = values.mean(dim=0)
        error = torch.zeros_like(value) if exact else values.std(dim=0) / math.sqrt(probes)
        return LogLikelihood(value, error)


def _bounds(
    schedule: NoiseSchedule, *, noise_min: float, noise_max: float | None
) -> tuple[float, float]:
    """Ends of the path in log rho."""
    log_snr = float(schedule.log_snr(torch.ones((), dtype=torch.float64)))
    last = math.exp(-log_snr / 2) if log_snr > -700 else math.inf
    if noise_max is None:
        noise_max = min(last, LARGEST_NOISE)
    check_range("noise_min", noise_min, low=0.0, open_low=True)
    check_range("noise_max", noise_max, low=noise_min, open_low=True)
    if noise_max > last * (1 + 1e-6):
        raise PgdiffError(
            "`noise_max` must be at most sigma / alpha of level 1, beyond which the denoiser knows "
            f"nothing, {last:.6g} for {schedule!r}. Got {noise_max:g}."
        )
    return math.log(noise_min), math.log(noise_max)


def _checked(known: Known | None, x: Tensor) -> Known:
    """What is known, on the device of `x` and with its type; nothing where it is None."""
    if not torch.isfinite(x).all():
        raise PgdiffError("`x` must be finite. Got NaN or Inf.")
    if known is None:
        return Known(torch.zeros_like(x[:1], dtype=torch.bool), x[:1])
    if known.values.shape[1:] != x.shape[1:] or len(known.values) not in (1, len(x)):
        raise PgdiffError(
            f"`known` must have the shape of `x`, {list(x.shape)}, or a batch of 1. "
            f"Got {list(known.values.shape)}."
        )
    if bool(known.mask.flatten(1).all(dim=1).any()):
        raise PgdiffError("`known` must leave something of every trajectory. Got all of one known.")
    return Known(known.mask.to(x.device), known.values.to(x))


def _unit(free: Tensor) -> Directions:
    """Unit vectors of all features that are free in some trajectory."""
    some = free.any(dim=0).flatten()
    if int(some.sum()) > LARGEST_EXACT:
        raise PgdiffError(
            f"`method` must be 'hutchinson' for more than {LARGEST_EXACT} features in all tokens "
            f"together. Got 'exact' for {int(some.sum())}."
        )
    eye = torch.eye(len(some), dtype=torch.float64, device=free.device)[some]
    return eye.reshape(-1, 1, *free.shape[1:]) * free


def _rademacher(free: Tensor, probes: int, generator: torch.Generator | None) -> Directions:
    """Random signs for what is free."""
    if generator is None:
        raise PgdiffError("`generator` must be given for the method 'hutchinson'. Got None.")
    draws = torch.randint(2, (probes, *free.shape), generator=generator, device=generator.device)
    return (2.0 * draws.double() - 1.0).to(free.device) * free


def _slope(
    clean: Callable[[Tensor], Tensor], y: Tensor, free: Tensor, directions: Directions
) -> tuple[Signal, Float[Tensor, "directions batch"]]:
    """Slope `f = y - x0_hat`, 0 where known, and `v . (df / dy) v` of every direction v."""
    with torch.enable_grad():
        point = y.detach().requires_grad_(True)
        x0_hat = clean(point)
        if not x0_hat.requires_grad:
            raise PgdiffError(
                "`denoise` must be differentiable in `x`. Got a result that is detached from it."
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
    """End of the path from `low` to `high`, and the integral of its divergence."""
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
