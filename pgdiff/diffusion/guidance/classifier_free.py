"""Classifier-free guidance: estimates of one network with and without the condition."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.context import Context, cat
from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_range

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens"]


@register("classifier_free", "weighted")
@dataclass(frozen=True, kw_only=True)
class ClassifierFree:
    """The strength of the condition (Ho & Salimans 2022).

    `x0_hat = unconditional + weight * (conditional - unconditional)`: weight 1 is the conditional
    estimate, 0 the unconditional one, and more than 1 exaggerates the condition. The weight of the
    paper's equation 6 is `weight - 1`. Both estimates come from one call of the network with twice
    the batch; weights 0 and 1 need only one estimate.

    Attributes:
        weight: weight of the condition; negative values lead away from it.
        rescale: in [0, 1]. 0 leaves the standard deviation of each trajectory's estimate, 1 resets
            it to that of the conditional estimate, which prevents too large values at large weights
            (Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed",
            section 3.4: their rule for a network's output, applied to x0_hat). Tokens at level 0,
            which are given, do not count. Ignored with weights 0 and 1.
        names: names of the entries of the context that are weighted, "condition" for the joint
            conditions; all if None. The others are given in both estimates.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import ClassifierFree
        >>> from pgdiff.core.context import Context
        >>> x, level, context = torch.zeros(1, 2, 1), torch.ones(1, 2), torch.ones(1, 1)
        >>> estimate = ClassifierFree(weight=3.0).estimate(
        ...     lambda x, level, context: x + context.vector[:, None],
        ...     x, level, Context.from_vector(context),
        ... )
        >>> estimate.flatten().tolist()
        [3.0, 3.0]
    """

    weight: float = 1.0
    rescale: float = 0.0
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.names is not None:
            if isinstance(self.names, str) or not self.names:
                raise PgdiffError(
                    f"`names` must be names of entries, or None for all. Got {self.names!r}."
                )
            object.__setattr__(self, "names", tuple(self.names))
        check_range("weight", self.weight)
        check_range("rescale", self.rescale, low=0.0, high=1.0)

    def estimate(
        self,
        denoise: Callable[[Signal, Level, Context], Signal],
        x: Signal,
        level: Level,
        context: Context,
    ) -> Signal:
        """Return the guided clean estimate x0_hat.

        Args:
            denoise: clean estimate of `x` at its levels under a context.
            x: noisy tokens.
            level: levels of the tokens; a batch of 1 applies to all rows and is passed on as 1.
            context: context of every trajectory.
        """
        if self.weight == 1:
            return denoise(x, level, context)
        absent = context.rows(slice(1)).drop() if self.names is None else context.drop(self.names)
        if self.weight == 0:
            return denoise(x, level, absent)
        both = level if len(level) == 1 else torch.cat([level, level])
        contexts = cat([context.expand(len(x)), absent.expand(len(x))])
        estimates = denoise(torch.cat([x, x]), both, contexts)
        conditional, unconditional = estimates.chunk(2)
        guided = unconditional + self.weight * (conditional - unconditional)
        if self.rescale == 0:
            return guided
        counted = (level > 0)[..., None].expand(x.shape)
        spread, target = _spread(guided, counted), _spread(conditional, counted)
        # Lin et al. 2024, equations 15 and 16; estimates without spread are unchanged.
        ratio = torch.where(spread > 0, target / spread, 1.0)
        return guided * (self.rescale * ratio + (1 - self.rescale))


def _spread(x: Signal, counted: Tensor) -> Float[Tensor, "batch 1 1"]:
    """Return the standard deviation of each trajectory's counted entries."""
    count = counted.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    mean = (x * counted).sum(dim=(1, 2), keepdim=True) / count
    return (((x - mean) * counted).square().sum(dim=(1, 2), keepdim=True) / count).sqrt()
