"""The protocol of planners, which a class registered as the kind "planner" satisfies."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from pgdiff.trajectory import Plan


@runtime_checkable
class PlannerLike(Protocol):
    """Protocol of planners: plans from observations, and acts along them.

    A class that is registered as the kind "planner" can be named in the planner of a recipe, as
    `planner: {name: NAME, ...}`. It is built with the arguments `model`, `guides`, `controller`,
    `seed`, `device` and `threads`, and with settings of its own, which are plain values or
    registered dataclasses.

    Example:
        >>> import pgdiff
        >>> from pgdiff.planning import PlannerLike
        >>> from pgdiff.testing import example_episodes
        >>> tokens = pgdiff.Tokens(horizon=8)
        >>> model = pgdiff.TrajectoryDiffusion.from_episodes(example_episodes(), tokens)
        >>> isinstance(pgdiff.Planner(model), PlannerLike)
        True
    """

    @property
    def condition_keys(self) -> tuple[str, ...]:
        """Names of the values that each episode must give."""

    def plan(
        self,
        observation: Any,
        *,
        condition: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> Plan:
        """Return a plan from one observation."""
        ...

    def initial_state(
        self, seeds: Sequence[int], condition: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the state of environments without a plan, one for each seed."""
        ...

    def keep_rows(self, state: Any, rows: Sequence[int]) -> Any:
        """Return the state of some environments."""
        ...

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Float[np.ndarray, "*environments action"], Any]:
        """Return actions and the next state, by Stable-Baselines3's protocol."""
        ...
