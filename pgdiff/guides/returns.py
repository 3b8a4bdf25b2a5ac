"""A guide by the return of a plan."""

from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_range
from pgdiff.critics import SegmentValue
from pgdiff.diffusion.guidance.rules import Place
from pgdiff.guides.base import GradientGuide, GuidanceOptions, move_to_segment
from pgdiff.guides.value import check_noise_schedule, noisy_objective
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Segment


@register("guide", "return")
class Return(GradientGuide):
    """A guide to plans of high return, or of a target return.

    The return R, in units of the recorded rewards, is the prediction of a `SegmentValue`, or the
    discounted sum `sum_k discount^(k stride) r_k` of generated rewards up to a generated terminal,
    for models whose `fields` hold "rewards". The objective is R, or `-(R - target)^2 /
    (2 width^2)`.

    The gradient with respect to generated rewards moves only these; the denoiser adapts the rest of
    the plan in later steps. `gradient_at="denoiser"` moves all fields at once.

    A return can also be requested without a guide, from a model with returns as a condition
    (`conditions=[ReturnCondition()]`): `Planner(model, condition={"return": 100.0},
    sampling=Sampling(classifier_free=ClassifierFree(weight=1.5)))`.

    Args:
        value: predictor of the return from a segment to the end of its episode; None for generated
            rewards.
        target: target return; None for the highest return.
        width: distance from the target at which the objective is -1/2, in units of the return.
        discount: discount factor of generated rewards per environment step, in (0, 1]; 0.99 if
            None. Must be None with a value, which has a discount already.
        scale: strength of the gradient; 0 only ranks candidates.
        gradient_at: where the gradient is taken; if None, "x" for a value, which was trained on
            noisy segments, and "x0" for generated rewards.
        name: name of the guide in error messages and plots.
        fields: fields of the segment that the guide moves; all if None.
        settings: other arguments of `GradientGuide`.

    Example:
        >>> import torch
        >>> from pgdiff import Segment
        >>> from pgdiff.guides import Return
        >>> segment = Segment(observations=torch.zeros(1, 3, 2), rewards=torch.ones(1, 3, 1))
        >>> Return(discount=0.5).objective(segment, torch.zeros(1, 3)).tolist()
        [1.75]
    """

    def __init__(
        self,
        value: SegmentValue | None = None,
        *,
        target: float | None = None,
        width: float = 1.0,
        discount: float | None = None,
        scale: float = 1.0,
        gradient_at: Place | None = None,
        name: str = "return",
        fields: Sequence[str] | None = None,
        **settings: Unpack[GuidanceOptions],
    ) -> None:
        if value is not None and not isinstance(value, SegmentValue):
            raise PgdiffError(
                f"`value` must be a SegmentValue or None. Got a {type(value).__name__}."
            )
        if value is not None and discount is not None:
            raise PgdiffError(
                f"`discount` must be None with a value, whose own is {value.discount}. "
                f"Got {discount}."
            )
        if gradient_at is None:
            gradient_at = "x0" if value is None else "x"
        super().__init__(name=name, scale=scale, gradient_at=gradient_at, fields=fields, **settings)
        self.value = value
        self.target = None if target is None else check_range("target", target)
        self.width = check_range("width", width, low=0.0, open_low=True)
        self.discount = check_range(
            "discount", 0.99 if discount is None else discount, low=0.0, high=1.0, open_low=True
        )

    def check_model(self, model: TrajectoryDiffusion) -> None:
        """Raise if a model has no rewards, or differs from the training of the value."""
        spec = model.codec.spec
        if self.value is None:
            if "rewards" not in spec.sizes:
                raise _no_rewards(self.name)
            return
        check_noise_schedule(self.value, model, name=self.name)
        for name, trained, present in (
            ("stride", self.value.stride, spec.stride),
            ("horizon", self.value.horizon, spec.waypoints),
            ("observation", self.value.normalizer.features, spec.observation_size),
        ):
            if trained != present:
                raise PgdiffError(
                    f"`{name}` of the model must be that of the value of '{self.name}', "
                    f"{trained}. Got {present}."
                )

    def objective(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """Return the return of each segment, or its log-likelihood of the target.

        Raises:
            PgdiffError: the segment has no rewards, or differs from the training of the value.
        """
        total = self._returns(segment, level)
        if self.target is None:
            return total
        return -((total - self.target) / self.width).square() / 2

    def _returns(self, segment: Segment, level: Tensor) -> Float[Tensor, " batch"]:
        if self.value is not None:
            move_to_segment(self.value, segment)
            mean_reward = noisy_objective(self.value, segment, level, gradient_at=self.gradient_at)
            return mean_reward / (1 - self.value.discount)
        if segment.rewards is None:
            raise _no_rewards(self.name)
        rewards = segment.rewards[..., 0]
        steps = torch.arange(rewards.shape[1], device=rewards.device) * segment.stride
        earned = segment.in_episode * rewards
        total: Tensor = (self.discount ** steps.to(rewards) * earned).sum(dim=1)
        return total


def _no_rewards(name: str) -> PgdiffError:
    return PgdiffError(
        f"`fields` of the model must hold 'rewards' for '{name}', or a SegmentValue must be given. "
        "Got neither. Train the model with fields=('observations', 'rewards')."
    )
