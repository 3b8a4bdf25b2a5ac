"""State of a planner between calls of `predict`, with one row for each environment."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from pgdiff.core.validation import PgdiffError
from pgdiff.planning.replanning import shift_plans


class ObservationHistory(NamedTuple):
    """The last steps of each environment before the present one, the latest at the end.

    Attributes:
        observations: `[environments, steps, observation]`, observations in raw units.
        actions: `[environments, steps, action]`, executed actions; of size 0 for a model without
            actions.
        levels: `[environments, steps]`, noise level of each observation.
        moved: `[environments, steps, observation]`, the model's estimate minus the observation; NaN
            for a missing observation.
        recorded: `[environments]`, number of steps at the end that belong to the present episode.
    """

    observations: Float[np.ndarray, "environments steps observation"]
    actions: Float[np.ndarray, "environments steps action"]
    levels: Float[np.ndarray, "environments steps"]
    moved: Float[np.ndarray, "environments steps observation"]
    recorded: Int[np.ndarray, " environments"]

    @classmethod
    def empty(
        cls, environments: int, steps: int, *, observation: int, action: int
    ) -> "ObservationHistory":
        """Return a history without any recorded step."""
        return cls(
            observations=np.zeros((environments, steps, observation), np.float32),
            actions=np.zeros((environments, steps, action), np.float32),
            levels=np.zeros((environments, steps), np.float32),
            moved=np.zeros((environments, steps, observation), np.float32),
            recorded=np.zeros(environments, np.int64),
        )

    def reset_where(self, started: Bool[np.ndarray, "*environments"]) -> "ObservationHistory":
        """Return the history without the steps of environments whose episode has just started."""
        reset = np.broadcast_to(started, self.recorded.shape)
        return self._replace(
            moved=np.where(reset[:, None, None], np.float32(0.0), self.moved),
            recorded=np.where(reset, 0, self.recorded),
        )

    def append(
        self,
        observations: Float[np.ndarray, "environments observation"],
        actions: Float[np.ndarray, "environments action"],
        levels: Float[np.ndarray, " environments"],
        moved: Float[np.ndarray, "environments observation"],
    ) -> "ObservationHistory":
        """Return the history with one more step, and without its earliest."""

        def push(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            return np.concatenate([old[:, 1:], new[:, None].astype(old.dtype)], axis=1)

        return ObservationHistory(
            observations=push(self.observations, observations),
            actions=push(self.actions, actions[:, : self.actions.shape[-1]]),
            levels=push(self.levels, levels),
            moved=push(self.moved, moved),
            recorded=np.minimum(self.recorded + 1, self.levels.shape[1]),
        )

    def last(self, environments: Int[np.ndarray, " some"], steps: int) -> "ObservationHistory":
        """Return the last steps of some environments."""
        first = self.levels.shape[1] - steps
        return ObservationHistory(
            observations=self.observations[environments, first:],
            actions=self.actions[environments, first:],
            levels=self.levels[environments, first:],
            moved=self.moved[environments, first:],
            recorded=np.full(len(environments), steps, np.int64),
        )


class PlannerState(NamedTuple):
    """The state that `Planner.predict` returns and takes; its arrays are never changed in place.

    Attributes:
        waypoints: `[environments, tokens, observation]`, current plan of each environment.
        age: `[environments]`, steps since the plan was made; negative without a plan.
        seed: `[environments]`, seed of each environment's noise.
        plans: `[environments]`, number of plans made so far; each plan has other noise.
        condition: raw values of the episodes' conditions by name, `[environments, ...]` each, such
            as "goal" and maps; NaN for an environment whose value was not given.
        actions: `[environments, steps, action]`, actions of the current plans; None for a model
            without actions.
        past: the last observations and actions; None without a history.

    Example:
        >>> from pgdiff.planning import PlannerState
        >>> state = PlannerState.empty([0, 1], tokens=8, observation=4)
        >>> state.needs_replan(every=10)
        array([ True,  True])
    """

    waypoints: Float[np.ndarray, "environments tokens observation"]
    age: Int[np.ndarray, " environments"]
    seed: Int[np.ndarray, " environments"]
    plans: Int[np.ndarray, " environments"]
    condition: Mapping[str, Shaped[np.ndarray, "environments ..."]] = {}
    actions: Float[np.ndarray, "environments steps action"] | None = None
    past: ObservationHistory | None = None

    @classmethod
    def empty(
        cls,
        seeds: Sequence[int],
        *,
        tokens: int,
        observation: int,
        condition: Mapping[str, np.ndarray] | None = None,
    ) -> "PlannerState":
        """Return the state of environments without a plan, one for each seed."""
        count = len(seeds)
        return cls(
            waypoints=np.zeros((count, tokens, observation), dtype=np.float32),
            age=np.full(count, -1, dtype=np.int64),
            seed=np.asarray(seeds, dtype=np.int64),
            plans=np.zeros(count, dtype=np.int64),
            condition={} if condition is None else dict(condition),
        )

    @property
    def goal(self) -> Float[np.ndarray, "environments goal"] | None:
        """Condition of the name "goal"; None without goals."""
        return self.condition.get("goal")

    def with_condition(self, values: Mapping[str, Any], where: Any = None) -> "PlannerState":
        """Return the state with other values of conditions.

        Args:
            values: `[environments, ...]` by name, raw units; values of other names stay.
            where: one flag for each environment, True where the values are set, such as the first
                step of an episode; None for all environments.

        Example:
            >>> import numpy as np
            >>> from pgdiff.planning import PlannerState
            >>> state = PlannerState.empty([0, 1], tokens=8, observation=4)
            >>> state = state.with_condition({"goal": np.zeros((2, 2))})
            >>> state.with_condition({"goal": np.ones((2, 2))}, where=[False, True]).goal
            array([[0., 0.],
                   [1., 1.]], dtype=float32)
        """
        count = len(self.age)
        flags = np.asarray(True if where is None else where, dtype=bool)
        if flags.shape not in ((), (count,)):
            raise PgdiffError(
                f"`where` must hold {count} flags, one for each environment. "
                f"Got the shape {list(flags.shape)}."
            )
        flags = np.broadcast_to(flags, count)
        condition = dict(self.condition)
        for name, value in values.items():
            new = np.asarray(value, dtype=np.float32)
            if new.shape == (count,):
                new = new[:, None]
            old = condition.get(name, np.full_like(new, np.nan))
            if new.ndim < 2 or len(new) != count or new.shape != old.shape:
                shape = [count, *old.shape[1:]] if name in condition else [count, "..."]
                raise PgdiffError(
                    f"`{name}` must be of shape [{', '.join(map(str, shape))}]. "
                    f"Got {list(new.shape)}."
                )
            condition[name] = np.where(flags.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        return self._replace(condition=condition)

    def sizes(self) -> dict[str, tuple[int, ...] | None]:
        """Return the shapes that must fit the planner, without the number of environments.

        They are `[tokens, features]` of the plans and `[steps, features]` of the history's
        observations, its actions and the plans' actions; None for a part that is None.
        """
        past, actions = self.past, self.actions
        return {
            "a plan": self.waypoints.shape[1:],
            "a history": None if past is None else past.observations.shape[1:],
            "actions of a history": None if past is None else past.actions.shape[1:],
            "actions of a plan": None if actions is None else actions.shape[1:],
        }

    def rows(self, rows: Sequence[int]) -> "PlannerState":
        """Return the state of these environments, in this order."""
        kept = list(rows)
        past = (
            None if self.past is None else ObservationHistory(*(part[kept] for part in self.past))
        )
        return self._replace(
            waypoints=self.waypoints[kept],
            age=self.age[kept],
            seed=self.seed[kept],
            plans=self.plans[kept],
            condition={name: value[kept] for name, value in self.condition.items()},
            actions=None if self.actions is None else self.actions[kept],
            past=past,
        )

    def reset_where(self, episode_start: Any) -> "PlannerState":
        """Return the state without the plans of environments whose episode has just started.

        Args:
            episode_start: one flag for each environment, or one for all; None if no episode has
                started.
        """
        if episode_start is None:
            return self
        started = np.asarray(episode_start, dtype=bool)
        if started.shape not in ((), self.age.shape):
            raise PgdiffError(
                f"`episode_start` must hold {len(self.age)} flags, one for each environment. "
                f"Got the shape {list(started.shape)}."
            )
        past = None if self.past is None else self.past.reset_where(started)
        return self._replace(age=np.where(started, -1, self.age), past=past)

    def needs_replan(self, every: int | None) -> Bool[np.ndarray, " environments"]:
        """Return True for each environment that needs a new plan; `every` None is open loop."""
        first: np.ndarray = self.age < 0
        return first if every is None else first | (self.age >= every)

    def with_plans(
        self,
        due: Bool[np.ndarray, " environments"],
        waypoints: Float[np.ndarray, "due tokens observation"],
        actions: Float[np.ndarray, "due steps action"] | None = None,
    ) -> "PlannerState":
        """Return the state with new plans in the environments where `due` is True."""
        all_waypoints = self.waypoints.copy()
        all_waypoints[due] = waypoints
        all_actions = None
        if actions is not None:
            shape = (len(due), *actions.shape[1:])
            all_actions = np.zeros(shape, actions.dtype)
            if self.actions is not None:
                all_actions[:] = self.actions
            all_actions[due] = actions
        return self._replace(
            waypoints=all_waypoints,
            age=np.where(due, 0, self.age),
            plans=self.plans + due,
            actions=all_actions,
        )

    def next_waypoint(
        self, stride: int, lookahead: int = 1
    ) -> tuple[Float[np.ndarray, "environments observation"], Int[np.ndarray, " environments"]]:
        """Return the target way-point of each environment, and the steps left to it.

        Past the end of a plan the target is its last way-point, `lookahead * stride` steps ahead.

        Args:
            stride: environment steps between way-points.
            lookahead: number of way-points from the present one to the target.
        """
        last = self.waypoints.shape[1] - 1
        token = np.minimum(self.age // stride + lookahead, last)
        left = token * stride - self.age
        steps = np.where(left >= 1, left, lookahead * stride)
        return self.waypoints[np.arange(len(token)), token], steps

    def expected_observation(self, stride: int) -> Float[np.ndarray, "environments observation"]:
        """Return the plans' observation of the present step, interpolated between tokens.

        Args:
            stride: environment steps between way-points.
        """
        rest = shift_plans(self.waypoints, None, np.maximum(self.age, 0), stride)
        return rest.observations[:, 0]

    def plan_action(self) -> Float[np.ndarray, "environments action"]:
        """Return the plans' action of the present step; past the end of a plan its last action."""
        assert self.actions is not None
        step = np.minimum(self.age, self.actions.shape[1] - 1)
        action: np.ndarray = self.actions[np.arange(len(step)), step]
        return action
