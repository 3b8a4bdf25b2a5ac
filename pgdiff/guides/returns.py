"""The return of a plan."""

from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.critics import SegmentValue
from pgdiff.diffusion.guidance_rules import Place
from pgdiff.guides.steered import Steered, SteeredSettings, place
from pgdiff.guides.value import check_schedule, noisy_energy
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Segment
from pgdiff.validation import PgdiffError, check_range


class Return(Steered):
    """Steers towards plans of high return, or of a return that is asked for.

    The return R, in units of the recorded rewards, is what a `SegmentValue` predicts, or the
    discounted sum `sum_k discount^(k stride) r_k` of the rewards that a model generates whose
    `fields` hold "rewards", up to a generated terminal. The energy is R, or `-(R - target)^2 / (2
    width^2)`.

    The gradient with respect to generated rewards moves those alone, and the rest of a plan only as
    the denoiser follows them in later steps; at="denoiser" moves all at once.

    The other way to ask for a return needs no guide: a model that was trained on returns as a
    condition (`conditions=[ReturnCondition()]`) is asked by `Planner(model, condition={"return":
    100.0}, classifier_free=ClassifierFree(weight=1.5))`.

    Args:
        value: predicts the return of a segment to its episode's end; None for generated rewards.
        target: return that is asked for; None for as much as possible.
        width: distance from the target at which the energy is -1/2, in units of the return.
        discount: of generated rewards, per environment step, in (0, 1]; 0.99 if None. A value has
            its own.
        scale: how far the gradient moves a sample; 0 for choosing among candidates only.
        at: where the gradient is taken; if None, "x" for a value, which was trained on noisy
            segments, "x0" for generated rewards.
        name: how errors and pictures call it.
        fields: of the segment, which alone are moved; all if None.
        settings: the other arguments of `Steered`.
    """

    def __init__(
        self,
        value: SegmentValue | None = None,
        *,
        target: float | None = None,
        width: float = 1.0,
        discount: float | None = None,
        scale: float = 1.0,
        at: Place | None = None,
        name: str = "return",
        fields: Sequence[str] | None = None,
        **settings: Unpack[SteeredSettings],
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
        if at is None:
            at = "x0" if value is None else "x"
        super().__init__(name=name, scale=scale, at=at, fields=fields, **settings)
        self.value = value
        self.target = None if target is None else check_range("target", target)
        self.width = check_range("width", width, low=0.0, open_low=True)
        self.discount = check_range(
            "discount", 0.99 if discount is None else discount, low=0.0, high=1.0, open_low=True
        )

    def check_model(self, model: TrajectoryDiffusion) -> None:
        """Refuse a model without rewards, or whose segments or noise the value has not learned."""
        layout = model.layout
        if self.value is None:
            if "rewards" not in layout.slices:
                raise _no_rewards(self.name)
            return
        check_schedule(self.value, model, name=self.name)
        for name, own, given in (
            ("stride", self.value.stride, layout.stride),
            ("horizon", self.value.horizon, layout.horizon),
            ("observation", self.value.normalizer.features, dict(layout.fields)["observations"]),
        ):
            if own != given:
                raise PgdiffError(
                    f"`{name}` of the model must be that of the value of '{self.name}', {own}. "
                    f"Got {given}."
                )

    def energy(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """The return of each segment, or how near it is to the target.

        Raises:
            PgdiffError: a segment without rewards, or of another kind than the value has learned.
        """
        found = self._returns(segment, level)
        if self.target is None:
            return found
        return -((found - self.target) / self.width).square() / 2

    def _returns(self, segment: Segment, level: Tensor) -> Float[Tensor, " batch"]:
        if self.value is not None:
            place(self.value, segment)
            mean_reward = noisy_energy(self.value, segment, level, at=self.at)
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
        "Got neither: train the model with fields=('observations', 'rewards')."
    )
