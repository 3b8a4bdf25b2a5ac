"""A guide by a critic's estimates along a plan."""

import os
from collections.abc import Sequence
from typing import Any, Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.agents import ActionCritic
from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_in, check_range
from pgdiff.diffusion.guidance.rules import Place
from pgdiff.guides.agent_adapter import (
    check_estimates,
    check_fit,
    check_has_actions,
    decisions_of,
    resolve_agent,
)
from pgdiff.guides.base import GradientGuide, GuidanceOptions, move_to_segment
from pgdiff.guides.value import check_log, tangent_log
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Segment


@register("guide", "critic")
class Critic(GradientGuide):
    """A guide towards high values of a critic.

    The objective is a weighted mean of `Q(o_k, a_k)` or of the state value `V(o_k)` over the tokens
    up to a generated terminal. `a_k` is the action at token k: the first of an action chunk, or for
    previous actions the first of those that lead to the next token.

    Args:
        critic: an `ActionCritic`, such as `pgdiff.agents.IQL`, or an object with a method
            `value(observation)`; a live model of Stable-Baselines3; or the path of its zip, or of
            the folder of an agent that this package trained.
        of: "action" for Q, "value" for V; if None, Q for models with actions and V for others.
        heads: "min" takes the minimum of the critic's heads at each token (clipped double
            Q-learning, Fujimoto et al. 2018), "mean" their mean.
        where: "every" for the mean over all tokens, "discounted" for weights `discount^(k stride)`
            that add up to 1, "end" for the last token, or the token of a generated terminal.
        discount: discount factor of "discounted" per environment step, in (0, 1].
        transform: "log" for the logarithm of the mean, whose gradient is equally strong at small
            and at large values; "none" for the mean itself.
        floor: value below which the logarithm continues as its tangent, in the critic's units.
        scale: strength of the gradient; 0 only ranks candidates.
        gradient_at: where the gradient is taken; see `GradientGuide`.
        name: name of the guide in error messages and plots.
        fields: fields of the segment that the guide moves; all if None.
        settings: other arguments of `GradientGuide`.

    Raises:
        PgdiffError: the object is not a critic, or a setting is out of range.

    Example:
        >>> import torch
        >>> from pgdiff import Segment
        >>> from pgdiff.guides import Critic
        >>> class Height:
        ...     def value(self, observation):
        ...         return observation[..., 1]
        >>> segment = Segment(observations=torch.full((1, 4, 2), 3.0))
        >>> Critic(Height(), of="value").objective(segment, torch.zeros(1, 4)).tolist()
        [3.0]
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
        gradient_at: Place = "x0",
        name: str = "critic",
        fields: Sequence[str] | None = None,
        **settings: Unpack[GuidanceOptions],
    ) -> None:
        super().__init__(name=name, scale=scale, gradient_at=gradient_at, fields=fields, **settings)
        methods = {"action": ("q",), "value": ("value",), None: ("q", "value")}
        if of is not None:
            check_in("of", of, ("action", "value"))
        self.critic = resolve_agent(critic, name="critic", methods=methods[of])
        self.of = of
        self.heads = check_in("heads", heads, ("min", "mean"))
        self.where = check_in("where", where, ("every", "discounted", "end"))
        self.discount = check_range("discount", discount, low=0.0, high=1.0, open_low=True)
        self.transform = check_in("transform", transform, ("none", "log"))
        self.floor = check_range("floor", floor, low=0.0, open_low=True)

    def check_rewards(self, least: float) -> None:
        """Raise if recorded rewards down to `least` do not fit the objective."""
        if self.transform == "log":
            check_log(self.name, least_reward=least)

    def check_model(self, model: TrajectoryDiffusion) -> None:
        """Raise if a model lacks the required actions, or belongs to another task."""
        if self._uses_actions(model.codec.spec.action_size is not None):
            check_has_actions(model.codec.spec, name=self.name)
        elif not hasattr(self.critic, "value"):
            raise PgdiffError(
                f"`critic` of '{self.name}' must have the method value(observation) to judge "
                f"observations alone. Got a {type(self.critic).__name__}, which values actions."
            )
        check_fit(self.critic, model, name=self.name)

    def objective(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """Return the critic's estimate of each segment, or its logarithm.

        Raises:
            PgdiffError: the segment lacks the required actions, or the critic does not return one
                number for each token.
        """
        move_to_segment(self.critic, segment)
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
        if not self._uses_actions(segment.decisions is not None):
            values = self.critic.value(segment.observations)
            return check_estimates(values, segment.observations, method="value", name=self.name)
        observations, actions = decisions_of(segment, name=self.name)
        values = self.critic.q(observations, actions)
        heads = check_estimates(values, actions, method="q", name=self.name)
        heads = heads.reshape(-1, *actions.shape[:2])
        return heads.amin(dim=0) if self.heads == "min" else heads.mean(dim=0)

    def _uses_actions(self, available: bool) -> bool:
        """Return whether the critic values actions, given whether segments have actions."""
        if self.of is not None:
            return self.of == "action"
        return available and hasattr(self.critic, "q")
