"""A policy's density as a guide."""

import inspect
import os
from collections.abc import Sequence
from typing import Any, Unpack

from jaxtyping import Float
from torch import Tensor

from pgdiff.agents import Actor
from pgdiff.diffusion.guidance_rules import Place
from pgdiff.guides.agents import (
    check_estimates,
    check_fit,
    check_has_actions,
    decisions_of,
    opened,
)
from pgdiff.guides.steered import Steered, SteeredSettings, place
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Segment
from pgdiff.validation import PgdiffError, check_range

LIMIT = 0.99
"""Greatest scaled action at which a squashed density is its own; its slope has no bound at 1."""


class Policy(Steered):
    """Steers towards what a policy would do (Jackson et al. 2024, "Policy-guided diffusion").

    The energy is `sum_k log pi(a_k | o_k) / temperature` over the tokens up to a generated
    terminal, `a_k` being the action at the token's row: where tokens hold action chunks, the first
    of the chunk, and where they hold the actions that lead to them, the first of those that lead to
    the next. With the rule "score" and scale 1 the model's law is tilted by the policy's density of
    each action to the power of 1 / temperature. What is published is `at="x"` with
    `rule="policy_guided"` and `schedule="sine_bump"`.

    As there, the policy moves actions alone: an observation is not to go where the policy happens
    to be sure of itself. The denoiser makes observations follow. `fields=None` moves both.

    Args:
        agent: an `Actor`, such as `pgdiff.agents.IQL`; a live model of Stable-Baselines3; or the
            path of its zip, or of the folder of an agent that this package trained.
        scale: how far the gradient moves a sample; 0 for choosing among candidates only.
        temperature: above 0.
        limit: for agents whose `log_prob` has it: greatest scaled action, in (0, 1), at which the
            density of a squashed policy is its own; it goes on as a tangent. 0.99 if None.
        deviation: for agents whose `log_prob` has it: of a Gaussian about the policy's action that
            is taken in place of its density; the agent's own if None.
        at: where the gradient is taken; see `Steered`.
        name: how errors and pictures call it.
        fields: of the segment, which alone are moved; all if None.
        settings: the other arguments of `Steered`.

    Raises:
        PgdiffError: no actor, a setting out of its range, or one that the agent does not have.
    """

    def __init__(
        self,
        agent: Actor | str | os.PathLike[str] | Any,
        *,
        scale: float = 1.0,
        temperature: float = 1.0,
        limit: float | None = None,
        deviation: float | None = None,
        at: Place = "x0",
        name: str = "policy",
        fields: Sequence[str] | None = ("actions",),
        **settings: Unpack[SteeredSettings],
    ) -> None:
        super().__init__(name=name, scale=scale, at=at, fields=fields, **settings)
        self.agent: Actor = opened(agent, name="agent", methods=("log_prob",))
        self.temperature = check_range("temperature", temperature, low=0.0, open_low=True)
        taken = inspect.signature(self.agent.log_prob).parameters
        for key, value in (("limit", limit), ("deviation", deviation)):
            if value is not None and key not in taken:
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
        if "limit" in taken:
            self._options["limit"] = self.limit

    def check_model(self, model: TrajectoryDiffusion) -> None:
        """Refuse a model without actions, or of another task than the agent's."""
        check_has_actions(model.layout, name=self.name)
        check_fit(self.agent, model, name=self.name)

    def energy(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """Log-density of each segment's actions, over the temperature.

        Raises:
            PgdiffError: a segment without actions, or an agent that gives other than one number for
                each token.
        """
        place(self.agent, segment)
        observations, actions = decisions_of(segment, name=self.name)
        density = self.agent.log_prob(observations, actions, **self._options)
        density = check_estimates(density, actions, method="log_prob", name=self.name)
        # No action is taken after the task has ended. A density may have either sign: it must not
        # pull an end nearer or push it away.
        counted = segment.in_episode[:, : density.shape[1]].detach()
        return (counted * density).sum(dim=1) / self.temperature
