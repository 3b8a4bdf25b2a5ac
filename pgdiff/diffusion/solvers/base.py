"""What a solver is."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens 1"]


@runtime_checkable
class Solver(Protocol):
    """One step of every token from its level to its next level.

    Levels come as `[batch or 1, tokens, 1]`. Tokens whose level does not change, level 0 included,
    must come out finite; the sampler copies them.
    """

    @property
    def stochastic(self) -> bool:
        """Whether `step` needs noise."""
        ...

    def step(
        self,
        x: Signal,
        x0_hat: Signal,
        level: Level,
        level_to: Level,
        *,
        schedule: NoiseSchedule,
        noise: Signal | None,
    ) -> Signal:
        """Take `x` from `level` to `level_to`, given the clean estimate and fresh noise."""
        ...
