"""A critic's estimates along a plan as a guide."""

import os
from collections.abc import Sequence
from typing import Any, Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.agents import ActionCritic
from pgdiff.diffusion.guidance_rules import Place
from pgdiff.guides.agents import (
    check_estimates,
    check_fit,
    check_has_actions,
    decisions_of,
    opened,
)
from pgdiff.guides.logarithm import tangent_log
from pgdiff.guides.steered import Steered, SteeredSettings, place
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Segment
from pgdiff.validation import PgdiffError, check_in, check_range


class Critic(Steered):
    """Steers towards what a critic values.

    The energy is a weighted mean, over the tokens up to a generated terminal, of `Q(o_k, a_k)` or
    of the state value `V(o_k)`. `a_k` is the action at the token's row: where tokens hold action
    chunks, the first of the chunk, and where they hold the actions that lead to them, the first of
    those that lead to the next.

    Args:
        critic: an `ActionCritic`, such as `pgdiff.agents.IQL`, or what has a method
            `value(observation)`; a live model of Stable-Baselines3; or the path of its zip, or of
            the folder of an agent that this package trained.
        of: "action" for Q, "value" for V; Q where the model's tokens hold actions if None.
        heads: "min" takes the least of the critic's heads at each token (clipped double Q-learning,
            Fujimoto et al. 2018), "mean" their mean.
        where: "every" for the mean over all tokens, "discounted" with weights
            `discount^(k stride)` that add up to 1, "end" for the last token alone, or
            the one that a generated terminal ends.
        discount: of "discounted", per environment step, in (0, 1].
        transform: "log" for the logarithm of the whole, whose push is as strong where values are
            small as where they are large; "none" for the value itself.
        floor: least value under the logarithm, in the critic's units; it goes on as a tangent.
        scale: how far the gradient moves a sample; 0 for choosing among candidates only.
        at: where the gradient is taken; see `Steered`.
        name: how errors and pictures call it.
        fields: of the segment, which alone are moved; all if None.
        settings: the other arguments of `Steered`.

    Raises:
        PgdiffError: no critic, or a setting out of its range.
    """

    def __init__(
        self,
        critic: ActionCritic | str | os.PathLike[str] | Any,
        *,
        of: Literal["action", "value"] | None = None,
        heads: Literal["min", "mean"] = "min",
        where: Literal["every", "discounted", "end"] = "every",
        discount: float = 0.99,
        transform: Literal["none", "log"] = "none",
        floor: float = 1e-3,
        scale: float = 1.0,
        at: Place = "x0",
        name: str = "critic",
        fields: Sequence[str] | None = None,
        **settings: Unpack[SteeredSettings],
    ) -> None:
        super().__init__(name=name, scale=scale, at=at, fields=fields, **settings)
        methods = {"action": ("q",), "value": ("value",), None: ("q", "value")}
        if of is not None:
            check_in("of", of, ("action", "value"))
        self.critic = opened(critic, name="critic", methods=methods[of])
        self.of = of
        self.heads = check_in("heads", heads, ("min", "mean"))
        self.where = check_in("where", where, ("every", "discounted", "end"))
        self.discount = check_range("discount", discount, low=0.0, high=1.0, open_low=True)
        self.transform = check_in("transform", transform, ("none", "log"))
        self.floor = check_range("floor", floor, low=0.0, open_low=True)

    def check_model(self, model: TrajectoryDiffusion) -> None:
        """Refuse a model without the actions that are asked for, or of another task."""
        if self._asks_action(model.layout.action_size is not None):
            check_has_actions(model.layout, name=self.name)
        elif not hasattr(self.critic, "value"):
            raise PgdiffError(
                f"`critic` of '{self.name}' must have the method value(observation), where "
                f"observations alone are judged. Got a {type(self.critic).__name__}, which values "
                "actions."
            )
        check_fit(self.critic, model, name=self.name)

    def energy(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """The critic's estimate of each segment, or its logarithm.

        Raises:
            PgdiffError: a segment without the actions that are asked for, or a critic that gives
                other than one number for each token.
        """
        place(self.critic, segment)
        estimates = self._estimates(segment)
        counted = segment.in_episode[:, : estimates.shape[1]].detach()
        if self.where == "end":
            last = (counted > 0.5).sum(dim=1, keepdim=True) - 1
            value = estimates.gather(1, last)[:, 0]
        else:
            steps = torch.arange(estimates.shape[1], device=estimates.device) * segment.stride
            rate = self.discount if self.where == "discounted" else 1.0
            weights = rate ** steps.to(estimates) * counted
            value = (estimates * weights).sum(dim=1) / weights.sum(dim=1)
        return value if self.transform == "none" else tangent_log(value, floor=self.floor)

    def _estimates(self, segment: Segment) -> Float[Tensor, "batch rows"]:
        if not self._asks_action(segment.decisions is not None):
            found = self.critic.value(segment.observations)
            return check_estimates(found, segment.observations, method="value", name=self.name)
        observations, actions = decisions_of(segment, name=self.name)
        found = self.critic.q(observations, actions)
        heads = check_estimates(found, actions, method="q", name=self.name)
        heads = heads.reshape(-1, *actions.shape[:2])
        return heads.amin(dim=0) if self.heads == "min" else heads.mean(dim=0)

    def _asks_action(self, there: bool) -> bool:
        """Whether actions are judged, where there are some or none."""
        if self.of is not None:
            return self.of == "action"
        return there and hasattr(self.critic, "q")
