"""Constraints: costs that plans avoid."""

from collections.abc import Callable, Sequence
from typing import Unpack

from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion.guidance.rules import Place
from pgdiff.guides.base import GradientGuide, GuidanceOptions, move_to_segment
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Segment

Cost = Callable[[Segment], Float[Tensor, " batch"] | Float[Tensor, "batch parts"]]


@register("guide", "constraint")
class Constraint(GradientGuide):
    """A guide away from costs: the objective is the negative sum of a cost of the segment.

    Args:
        cost: differentiable function of a segment in raw units that returns `[batch]`, or
            `[batch, parts]` with one number for each token or other part; for example
            `pgdiff.guides.Disc`, `Box`, `SpeedLimit` or `ActionLimit`. It may have a method
            `check(spec)` that raises if a model's `SegmentSpec` does not fit.
        scale: strength of the gradient; 0 only ranks candidates.
        gradient_at: where the gradient is taken; see `GradientGuide`.
        name: name of the guide in error messages and plots.
        fields: fields of the segment that the guide moves; all if None.
        settings: other arguments of `GradientGuide`.

    Example:
        >>> import torch
        >>> from pgdiff import Segment
        >>> from pgdiff.guides import Constraint, Disc
        >>> guide = Constraint(Disc(center=(0.0, 0.0), radius=1.0))
        >>> segment = Segment(observations=torch.tensor([[[0.5, 0.0], [3.0, 0.0]]]))
        >>> guide.objective(segment, torch.zeros(1, 2)).tolist()
        [-0.25]
    """

    def __init__(
        self,
        cost: Cost,
        *,
        scale: float = 1.0,
        gradient_at: Place = "x0",
        name: str = "constraint",
        fields: Sequence[str] | None = None,
        **settings: Unpack[GuidanceOptions],
    ) -> None:
        super().__init__(name=name, scale=scale, gradient_at=gradient_at, fields=fields, **settings)
        if not callable(cost) or isinstance(cost, type):
            raise PgdiffError(f"`cost` must be a function of a segment. Got {cost!r}.")
        self.cost = cost

    def check_model(self, model: TrajectoryDiffusion) -> None:
        """Raise if a model's segments do not fit the cost."""
        if hasattr(self.cost, "check"):
            self.cost.check(model.codec.spec)

    def objective(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """Return the negative cost of each segment.

        Raises:
            PgdiffError: the cost has another shape.
        """
        move_to_segment(self.cost, segment)
        cost = self.cost(segment)
        batch = len(segment.observations)
        if not isinstance(cost, Tensor) or cost.ndim not in (1, 2) or len(cost) != batch:
            got = list(cost.shape) if isinstance(cost, Tensor) else type(cost).__name__
            raise PgdiffError(
                f"`cost` of '{self.name}' must return a tensor of shape [{batch}] or "
                f"[{batch}, parts]. Got {got}."
            )
        return -cost.reshape(batch, -1).sum(dim=1)
