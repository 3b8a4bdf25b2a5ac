"""A guide by a policy's density of actions."""

import inspect
import os
from collections.abc import Sequence
from typing import Any, Unpack

from jaxtyping import Float
from torch import Tensor

from pgdiff.agents import Actor
from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_range
from pgdiff.diffusion.guidance.rules import Place
from pgdiff.guides.agent_adapter import (
    check_estimates,
    check_fit,
    check_has_actions,
    decisions_of,
    resolve_agent,
)
from pgdiff.guides.base import GradientGuide, GuidanceOptions, move_to_segment
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Segment

LIMIT = 0.99
"""Default limit of scaled actions; the slope of a squashed density is unbounded at 1."""


@register("guide", "policy")
class Policy(GradientGuide):
    """A guide towards a policy's actions (Jackson et al. 2024, "Policy-guided diffusion").

    The objective is `sum_k log pi(a_k | o_k) / temperature` over the tokens up to a generated
    terminal. `a_k` is the action at token k: the first of an action chunk, or for previous actions
    the first of those that lead to the next token. With the rule "score" and scale 1 the model's
    density is multiplied by the policy's density of each action to the power of 1 / temperature.
    The published method has `gradient_at="x"`, `rule="policy_guided"` and
    `scale_schedule="sine_bump"`.

    As published, the policy moves only actions: observations should not move to states in which
    the policy is confident. The denoiser adapts the observations to the actions. `fields=None`
    moves both.

    Args:
        agent: an `Actor`, such as `pgdiff.agents.IQL`; a live model of Stable-Baselines3; or the
            path of its zip, or of the folder of an agent that this package trained.
        scale: strength of the gradient; 0 only ranks candidates.
        temperature: above 0; smaller values follow the policy more closely.
        limit: for agents whose `log_prob` has this argument: largest scaled action, in (0, 1), with
            the density of a squashed policy, which continues as its tangent. 0.99 if None.
        deviation: for agents whose `log_prob` has this argument: standard deviation of a Gaussian
            around the policy's action that replaces its density; the agent's density if None.
        gradient_at: where the gradient is taken; see `GradientGuide`.
        name: name of the guide in error messages and plots.
        fields: fields of the segment that the guide moves; all if None.
        settings: other arguments of `GradientGuide`.

    Raises:
        PgdiffError: the object is not an actor, a setting is out of range, or the agent does not
            have the setting.

    Example:
        >>> import torch
        >>> from pgdiff import Segment
        >>> from pgdiff.guides import Policy
        >>> class Rest:
        ...     def log_prob(self, observation, action):
        ...         return -action.square().sum(-1)
        >>> segment = Segment(observations=torch.zeros(1, 3, 2), actions=torch.ones(1, 3, 2))
        >>> Policy(Rest(), temperature=2.0).objective(segment, torch.zeros(1, 3)).tolist()
        [-3.0]
    """

    def __init__(
        self,
        agent: Actor | str | os.PathLike[str] | Any,
        *,
        scale: float = 1.0,
        temperature: float = 1.0,
        limit: float | None = None,
        deviation: float | None = None,
        gradient_at: Place = "x0",
        name: str = "policy",
        fields: Sequence[str] | None = ("actions",),
        **settings: Unpack[GuidanceOptions],
    ) -> None:
        super().__init__(name=name, scale=scale, gradient_at=gradient_at, fields=fields, **settings)
        self.agent: Actor = resolve_agent(agent, name="agent", methods=("log_prob",))
        self.temperature = check_range("temperature", temperature, low=0.0, open_low=True)
        accepted = inspect.signature(self.agent.log_prob).parameters
        for key, value in (("limit", limit), ("deviation", deviation)):
            if value is not None and key not in accepted:
                raise PgdiffError(
                    f"`{key}` must be None for this agent, whose log_prob has no such argument. "
                    f"Got {value}, and a {type(self.agent).__name__}."
                )
        self.limit = check_range(
            "limit", LIMIT if limit is None else limit, low=0, high=1, open_low=True, open_high=True
        )
        if deviation is not None:
            check_range("deviation", deviation, low=0.0, open_low=True)
        self.deviation = deviation
        self._options = {} if deviation is None else {"deviation": deviation}
        if "limit" in accepted:
            self._options["limit"] = self.limit

    def check_model(self, model: TrajectoryDiffusion) -> None:
        """Raise if a model has no actions, or belongs to another task than the agent."""
        check_has_actions(model.codec.spec, name=self.name)
        check_fit(self.agent, model, name=self.name)

    def objective(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """Return the log-density of each segment's actions, divided by the temperature.

        Raises:
            PgdiffError: the segment has no actions, or the agent does not return one number for
                each token.
        """
        move_to_segment(self.agent, segment)
        observations, actions = decisions_of(segment, name=self.name)
        density = self.agent.log_prob(observations, actions, **self._options)
        density = check_estimates(density, actions, method="log_prob", name=self.name)
        # No action is taken after the end of the task. Detached, since a density of either sign
        # must not move the end.
        counted = segment.in_episode[:, : density.shape[1]].detach()
        return (counted * density).sum(dim=1) / self.temperature
