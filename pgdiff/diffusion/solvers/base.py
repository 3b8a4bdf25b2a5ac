"""The solver protocol, and the step that a solver receives."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens"]
Factor = Float[Tensor, "#batch tokens 1"]
Levels = Float[Tensor, "rows #batch tokens"]

FIRST_ORDER_BELOW = 1e-6
"""Smallest alpha for steps of second order, which divide by it."""

CLEAN_BELOW = 1e-30
"""Largest sigma that counts as clean: division by it would overflow in float32."""


@dataclass(frozen=True, eq=False)
class Step:
    """One row of the sampling for a solver: every token goes from its level to the next.

    Quantities are computed at their first use; a solver that does not use `x0_hat` does not call
    the network there.

    Attributes:
        x: sample.
        level: `[batch or 1, tokens]`, level of every token.
        level_to: `[batch or 1, tokens]`, level after the step, never above `level`.
        noise_schedule: signal and noise at a level.
        estimate: returns the guided clean estimate of any sample at any levels; calls the network.
        noise: draws standard normal noise of the shape of `x`.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import DDIM, FlowSchedule, Step
        >>> step = Step(
        ...     x=torch.ones(1, 2, 1), level=torch.full((1, 2), 1.0),
        ...     level_to=torch.full((1, 2), 0.5), noise_schedule=FlowSchedule(),
        ...     estimate=lambda x, level: torch.zeros_like(x), noise=lambda: torch.zeros(1, 2, 1),
        ... )
        >>> DDIM().step(step, None)[0].flatten().tolist()
        [0.5, 0.5]
    """

    x: Signal
    level: Level
    level_to: Level
    noise_schedule: NoiseSchedule
    estimate: Callable[[Signal, Level], Signal]
    noise: Callable[[], Signal]

    @cached_property
    def x0_hat(self) -> Signal:
        """Clean estimate at `x`."""
        return self.estimate(self.x, self.level)

    @cached_property
    def moving(self) -> Bool[Tensor, "#batch tokens 1"]:
        """True at tokens that change their level; the sampler copies the others."""
        return (self.level_to < self.level)[..., None]

    @cached_property
    def alpha(self) -> Factor:
        """Factor of the clean value in `x`."""
        return self.noise_schedule.alpha(self.level)[..., None]

    @cached_property
    def sigma(self) -> Factor:
        """Standard deviation of the noise in `x`."""
        return self.noise_schedule.sigma(self.level)[..., None]

    @cached_property
    def alpha_to(self) -> Factor:
        """Factor of the clean value after the step."""
        return self.noise_schedule.alpha(self.level_to)[..., None]

    @cached_property
    def sigma_to(self) -> Factor:
        """Standard deviation of the noise after the step."""
        return self.noise_schedule.sigma(self.level_to)[..., None]

    @cached_property
    def epsilon(self) -> Signal:
        """Estimated noise in `x`, `(x - alpha x0_hat) / sigma`; sigma is 1 at clean tokens."""
        sigma = torch.where(self.sigma > CLEAN_BELOW, self.sigma, 1.0)
        return (self.x - self.alpha * self.x0_hat) / sigma

    @cached_property
    def ratio(self) -> Factor:
        """`sigma_to / sigma`; sigma is 1 at clean tokens."""
        return self.sigma_to / torch.where(self.sigma > 0, self.sigma, 1.0)

    @cached_property
    def kept(self) -> Factor:
        """Correlation of the noise before and after the step in the forward process.

        `(alpha / alpha_to) (sigma_to / sigma)`; an alpha_to of 0 is replaced by 1.
        """
        return self.alpha / torch.where(self.alpha_to > 0, self.alpha_to, 1.0) * self.ratio

    @cached_property
    def fresh(self) -> Factor:
        """Share of `sigma^2` that the forward process adds between the levels: `1 - kept^2`."""
        return (1 - self.kept.square()).clamp(min=0.0)

    @cached_property
    def log_ratio(self) -> Factor:
        """`log(alpha / sigma)` of `x`: -infinite in pure noise, infinite at clean tokens."""
        return self.noise_schedule.log_snr(self.level)[..., None] / 2

    @cached_property
    def rise(self) -> Factor:
        """Rise of `log(alpha / sigma)`: 0 at tokens that stay, infinite from or to an end."""
        risen = self.noise_schedule.log_snr(self.level_to)[..., None] / 2 - self.log_ratio
        return torch.where(self.moving, risen, 0.0)

    @cached_property
    def second_order(self) -> Bool[Tensor, "#batch tokens 1"]:
        """True at tokens that may take a step of second order.

        Steps from an alpha below `FIRST_ORDER_BELOW` and steps into level 0 are of first order.
        """
        return self.moving & (self.alpha >= FIRST_ORDER_BELOW) & (self.sigma_to > CLEAN_BELOW)

    def keep(self, stepped: Signal) -> Signal:
        """Return `stepped`, with unchanged tokens where the level stays."""
        return torch.where(self.moving, stepped, self.x)


class Kernel(NamedTuple):
    """The Gaussian distribution of a stochastic step.

    Attributes:
        mean: mean of the sample after the step.
        spread: standard deviation, equal for all features of a token.
        gain: derivative of the mean with respect to the clean estimate.
    """

    mean: Signal
    spread: Factor
    gain: Factor


@runtime_checkable
class Solver(Protocol):
    """One step of every token from its level to its next level.

    A solver is a frozen, registered dataclass; its memory between rows is in its state. A token
    that does not move must leave its state and the state of other tokens unchanged; the result of
    `step` for it is ignored. A solver may have a method `check(noise_schedule=, distilled=)` that
    raises if the solver does not fit.

    Example:
        >>> from pgdiff.diffusion import DDIM, Solver
        >>> isinstance(DDIM(), Solver)
        True
    """

    def begin(self, levels: Levels) -> Any:
        """Return the state before the first row of the level matrix; None without a state."""
        ...

    def step(self, at: Step, state: Any) -> tuple[Signal, Any]:
        """Return the sample with every token at its next level, and the next state."""
        ...
