"""How a planner acts: Stable-Baselines3's `predict` protocol."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning.controllers import Controller, checked_actions
from pgdiff.planning.goals import checked_goals
from pgdiff.planning.inputs import plan_seeds, split_goal
from pgdiff.planning.memory import PlanMemory
from pgdiff.planning.noisy_start import filled_in, missing
from pgdiff.planning.past import Past, estimated, trust
from pgdiff.planning.previous import Previous, shifted
from pgdiff.torch_threads import on_own_threads
from pgdiff.trajectory import Plan
from pgdiff.validation import PgdiffError, as_array, check_seed


class Acting:
    """What `Planner` does with its plans; its attributes are described there."""

    model: TrajectoryDiffusion
    controller: Controller | Literal["actions"] | None
    replan_every: int | None
    lookahead: int
    keep_plan: bool
    warm_start: float | None
    observation_level: float
    missing_level: float | None
    context: int
    seed: int
    threads: int | None
    observation_shape: tuple[int, ...]
    plan_batch: Callable[..., list[Plan]]
    _observed: Callable[[np.ndarray], np.ndarray]

    @property
    def wants_goal(self) -> bool:
        """Whether its plans are made for a goal that is to be told."""
        raise NotImplementedError

    def initial_state(
        self,
        seeds: Sequence[int],
        goals: Float[np.ndarray, "environments goal"] | None = None,
    ) -> PlanMemory:
        """State of environments that have no plan yet.

        Args:
            seeds: of each environment's noise.
            goals: what each is to reach, `[environments, goal]`, for planners that want one.
        """
        seeds = [check_seed("seed", seed) for seed in seeds]
        if goals is not None:
            goals = checked_goals(goals, count=len(seeds))
        (observation,), layout = self.observation_shape, self.model.layout
        memory = PlanMemory.empty(seeds, tokens=layout.horizon, observation=observation, goal=goals)
        if self.context:
            past = Past.empty(
                len(seeds),
                self.context * layout.stride,
                observation=observation,
                action=layout.action_size or 0,
            )
            memory = memory._replace(past=past)
        return memory

    def keep_rows(self, state: PlanMemory, rows: Sequence[int]) -> PlanMemory:
        """Return the state of some of the environments, for when the others' episodes are over.

        Args:
            state: what `predict` returned last.
            rows: the environments' places in the batch, in the order of the next one.
        """
        return state.rows(rows)

    @on_own_threads
    def predict(
        self,
        observation: Float[np.ndarray, "*environments observation"] | Mapping[str, np.ndarray],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Float[np.ndarray, "*environments action"], PlanMemory]:
        """Act by Stable-Baselines3's protocol.

        Args:
            observation: `[observation]` of one environment or `[environments, observation]`; or the
                Dict observation of an environment like the one that was recorded, whose goal is
                then the plan's. With `missing_level`, one that is NaN throughout is not there.
            state: what the last call returned; None to begin.
            episode_start: where `observation` is the first of an episode, one flag an environment.
                In a vector environment that resets in the next step (Gymnasium's default) that is
                a step after `terminated | truncated`; see the page on planning.
            deterministic: accepted for the protocol. A planner draws noise either way, from its
                seed, so that the same seed gives the same actions.

        Returns:
            Actions, shaped as the observations are, and the state for the next call.

        Raises:
            PgdiffError: no controller, a state of other environments, or as `plan`.
        """
        if self.controller is None:
            raise PgdiffError(
                "`controller` must be given to act. Pass an InverseDynamics, or a tracker such as "
                "env.unwrapped.tracker(), to Planner. Got None."
            )
        flat, goal = split_goal(observation, self.model)
        flat = as_array("observation", flat)
        single = flat.ndim == 1
        observations = np.atleast_2d(flat)
        memory = self._memory(state, len(observations)).begun(episode_start)
        absent = np.zeros(len(observations), bool)
        if self.missing_level is not None:
            absent = missing(observations)
        if absent.any():
            observations = filled_in(observations, absent, memory, self.model.layout.stride)
        seen = self._observed(observations)
        levels = np.where(absent, self.missing_level or 0.0, self.observation_level)
        observations, moved = seen, np.zeros_like(seen)
        if memory.past is not None:
            moved = estimated(self.model, seen, levels, memory.past) - seen
            share = trust(self.model, levels, memory.past)
            observations = (seen + share * moved).astype(seen.dtype)
            moved[absent] = np.nan  # what stands in for an observation measures nothing
        if goal is not None and self.wants_goal:
            told = np.atleast_2d(goal)
            if memory.goal is not None:  # what is missing tells no goal
                told = np.where(absent[:, None], memory.goal, told)
            memory = memory._replace(goal=told)
        due = memory.due(self.replan_every)
        if due.any():
            plans = self.plan_batch(
                observations[due],
                seeds=plan_seeds(memory.seed[due], memory.plans[due]),
                goals=None if memory.goal is None else memory.goal[due],
                previous=self._previous(memory, due),
                levels=levels[due] if memory.past is None else np.zeros(due.sum()),
            )
            own = [plan.actions for plan in plans if plan.actions is not None]
            waypoints = np.stack([plan.observations for plan in plans])
            memory = memory.with_plans(due, waypoints, np.stack(own) if own else None)
            if levels.any() and memory.past is None:
                # The plan's own beginning is what it takes a noisy observation for.
                observations = observations.copy()
                observations[due] = waypoints[:, 0]
        if self.controller == "actions":
            action = self._done(memory.action())
        else:
            waypoint, steps_left = memory.target(self.model.layout.stride, self.lookahead)
            action = self.controller.act(observations, waypoint, steps_left)
            action = checked_actions(action, count=len(seen), size=self.model.layout.action_size)
        memory = memory._replace(age=memory.age + 1)
        if memory.past is not None:
            past = memory.past.then(seen, self._done(action), levels, moved)
            memory = memory._replace(past=past)
        return (action[0] if single else action), memory

    def _memory(self, state: Any, count: int) -> PlanMemory:
        if state is None:
            return self.initial_state(plan_seeds(np.full(count, self.seed), np.arange(count)))
        if not isinstance(state, PlanMemory) or len(state.age) != count:
            raise PgdiffError(
                f"`state` must be what predict returned for the same {count} environments, or "
                f"None. Got {type(state).__name__}"
                + (f" of {len(state.age)}." if isinstance(state, PlanMemory) else ".")
            )
        found, wanted = state.sizes(), self.initial_state([self.seed]).sizes()
        if (state.age >= 0).any():  # else there is no plan yet that could have actions
            wanted["actions of a plan"] = self._plan_actions()
        for name, size in wanted.items():
            if found[name] != size:
                raise PgdiffError(
                    "`state` must be what predict returned for a planner of the same model, "
                    f"`horizon` and `context`. Got {name} of the sizes {found[name]}, where this "
                    f"one has {size}."
                )
        return state

    def _plan_actions(self) -> tuple[int, ...] | None:
        """Steps and size of the actions of a plan; None where it has none."""
        layout = self.model.layout
        made = layout.segment(torch.zeros(1, layout.horizon, layout.features)).every_action
        return None if made is None else tuple(made.shape[1:])

    def _done(self, action: np.ndarray) -> np.ndarray:
        """Return the action within the recorded range: a model has learned of none beyond it.

        Nor does an environment do any that is out of its own range, which most recordings fill.
        """
        limits = self.model.action_range
        if limits is None:
            return np.asarray(action)
        done: np.ndarray = np.clip(action, *np.asarray(limits, dtype=action.dtype))
        return done

    def _previous(self, memory: PlanMemory, due: np.ndarray) -> Previous | None:
        """What is left of the plans that are followed where new ones are due."""
        if not (self.keep_plan or self.warm_start):
            return None
        actions = None if memory.actions is None else memory.actions[due]
        layout = self.model.layout
        one_each = "actions" in layout.slices and "action_chunks" not in layout.slices
        return shifted(
            memory.waypoints[due],
            actions,
            memory.age[due],
            layout.stride,
            action_stride=layout.stride if one_each else 1,
        )
