"""Classifier-free guidance: two estimates of one network, with and without the condition."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.registry import register
from pgdiff.validation import check_range

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens"]
ConditionVector = Float[Tensor, "#batch condition"]
"""What a network hears of a condition: encoded values and a last entry 1, or zeros alone where it
is absent. A batch of 1 stands for all rows alike."""


@register("classifier_free", "weighted")
@dataclass(frozen=True, kw_only=True)
class ClassifierFree:
    """How strongly the condition steers (Ho & Salimans 2022).

    `x0_hat = unconditional + weight * (conditional - unconditional)`: weight 1 is the conditional
    estimate, 0 the unconditional one, and more than 1 overdoes the condition. The weight of the
    paper's equation 6 is `weight - 1`. Both estimates come from one call of the network with twice
    the batch; weights 0 and 1 need one of them, and one call with the batch as it is.

    Attributes:
        weight: of the condition; negative values lead away from it.
        rescale: in [0, 1]; how far the standard deviation of each trajectory's estimate goes back
            to that of its conditional estimate, against too large values at large weights (Lin et
            al. 2024, "Common diffusion noise schedules and sample steps are flawed", section 3.4:
            their rule for a network's output, applied to x0_hat). It is taken over the features of
            all tokens but those at level 0, which are given. Weights 0 and 1 are left as they are.
    """

    weight: float = 1.0
    rescale: float = 0.0

    def __post_init__(self) -> None:
        check_range("weight", self.weight)
        check_range("rescale", self.rescale, low=0.0, high=1.0)

    def estimate(
        self,
        denoise: Callable[[Signal, Level, ConditionVector], Signal],
        x: Signal,
        level: Level,
        condition: ConditionVector,
    ) -> Signal:
        """Guided clean estimate x0_hat.

        Args:
            denoise: clean estimate of `x` at its levels under a condition.
            x: noisy tokens.
            level: their levels; a batch of 1 stands for all rows alike, and stays one.
            condition: of every trajectory.
        """
        if self.weight == 1:
            return denoise(x, level, condition)
        absent = torch.zeros_like(condition[:1])
        if self.weight == 0:
            return denoise(x, level, absent)
        both = level if len(level) == 1 else torch.cat([level, level])
        branches = [part.expand(len(x), -1) for part in (condition, absent)]
        estimates = denoise(torch.cat([x, x]), both, torch.cat(branches))
        conditional, unconditional = estimates.chunk(2)
        guided = unconditional + self.weight * (conditional - unconditional)
        if self.rescale == 0:
            return guided
        counted = (level > 0)[..., None].expand(x.shape)
        spread, target = _spread(guided, counted), _spread(conditional, counted)
        # Lin et al. 2024, equations 15 and 16; where nothing is spread, nothing is changed.
        ratio = torch.where(spread > 0, target / spread, 1.0)
        return guided * (self.rescale * ratio + (1 - self.rescale))


def drop_condition(
    condition: ConditionVector, *, dropout: float, generator: torch.Generator
) -> ConditionVector:
    """Make the whole condition absent in a share of rows, so that a model learns both estimates.

    Args:
        condition: of every trajectory.
        dropout: probability of each row.
        generator: on the condition's device.
    """
    keep = torch.rand(len(condition), 1, generator=generator, device=generator.device) >= dropout
    return condition * keep


def _spread(x: Signal, counted: Tensor) -> Float[Tensor, "batch 1 1"]:
    """Standard deviation of each trajectory's counted entries."""
    count = counted.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    mean = (x * counted).sum(dim=(1, 2), keepdim=True) / count
    return (((x - mean) * counted).square().sum(dim=(1, 2), keepdim=True) / count).sqrt()
