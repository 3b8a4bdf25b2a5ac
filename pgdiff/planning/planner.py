"""The planner: a trajectory diffusion model that acts in Gymnasium environments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.serialization import resolve_device
from pgdiff.core.threads import check_threads, on_own_threads
from pgdiff.core.validation import (
    PgdiffError,
    as_array,
    check_part,
    check_positive_int,
    check_seed,
)
from pgdiff.data import ObservationLayout
from pgdiff.diffusion import (
    DPMSolver,
    Guidance,
    Inpainting,
    LogSnrSpacing,
    Measurement,
    NoiseSource,
    SamplerStep,
    Sampling,
)
from pgdiff.diffusion.guidance.guidance import check_differentiable
from pgdiff.guides import Guide, bind
from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning.conditions import (
    Values,
    check_given,
    checked_defaults,
    checked_values,
    episode_values,
    guide_keys,
    required_keys,
)
from pgdiff.planning.controllers import (
    Controller,
    WaypointController,
    checked_actions,
    clip_action,
    make_controller,
)
from pgdiff.planning.goals import GOAL, Goals, conditioned_on_goal, cycle_over, inpaints_goal
from pgdiff.planning.inputs import checked_observations, plan_seeds, split_goal, warn_far
from pgdiff.planning.observation_filter import (
    ObservationFilter,
    checked_levels,
    estimate_present,
    fill_missing,
    find_missing,
    join_measured,
    split_measured,
    trust,
)
from pgdiff.planning.replanning import PreviousPlan, Replanning, shift_plans, start_from
from pgdiff.planning.selection import Selection, make_plans
from pgdiff.planning.state import ObservationHistory, PlannerState
from pgdiff.trajectory import Condition, Plan

LAST_LOG_SNR = 6.0
"""Default log-SNR at the start of the final denoising step. Guidance also changes the final
estimate, and no later step can correct it, so the final step must start from little noise. Uniform
spacing achieves this only with many steps."""

PLANNING = Sampling(steps=5, solver=DPMSolver(), spacing=LogSnrSpacing(high=LAST_LOG_SNR))
"""Default sampling of plans."""


@register("planner", "planner")
class Planner:
    """A planner that samples guided plans from an observation and acts along them.

    It follows Stable-Baselines3's `predict` protocol for one environment or many, so that SB3's
    `evaluate_policy(planner, env)` works. The state that `predict` returns holds everything that
    later calls need. The noise of a plan depends on the seed of its environment and on the number
    of plans made there, so that plans do not depend on the other environments.

    Args:
        model: a trained trajectory diffusion model.
        guides: objectives that move the samples and score the candidates by their sum.
        controller: computes actions that follow the plan: a `Controller`; a way-point controller
            such as `InverseDynamics`; or "actions" for the actions of the plan, if the model
            generates actions. Only `predict` needs it.
        candidates: number of plans that are sampled for each environment; the one with the highest
            objective is chosen. More candidates find better plans and take more time.
        condition: default values of conditions by name, raw units, for the model, the guides and
            the in-painting of a "goal": a number or an array each. `plan` and the state of
            `predict` can hold other values. None switches a condition off.
        sampling: settings of the sampling; None for five steps of DPM-Solver++ of order 2 at equal
            distances of log-SNR up to 6. Its `horizon`, at least 2, is the horizon of plans.
        replanning: settings of replanning; None for a new plan every 10 steps.
        selection: settings of the choice of a candidate.
        goals: settings of the in-painting of goals.
        filter: settings of noisy and missing observations.
        seed: seed from which the environments' seeds are derived.
        device: device of the model; "auto" is CUDA if available.
        threads: PyTorch's number of threads during `plan`, `plan_batch`, `explain` and `predict`,
            on which the last bits of a plan depend; None to leave it unchanged.

    Example:
        >>> import pgdiff
        >>> from pgdiff import Planner, Tokens, TrajectoryDiffusion
        >>> from pgdiff.testing import example_episodes
        >>> episodes = example_episodes()
        >>> model = TrajectoryDiffusion.from_episodes(episodes, Tokens(horizon=8, stride=2))
        >>> planner = Planner(model, pgdiff.guides.Goal((0.0, 0.0)), candidates=4)
        >>> planner.plan(episodes.observations[0]).observations.shape
        (8, 4)
    """

    @torch.inference_mode(False)  # weights that move to a device within it could not be trained
    def __init__(
        self,
        model: TrajectoryDiffusion,
        guides: Guide | Sequence[Guide] = (),
        controller: Controller | WaypointController | Literal["actions"] | None = None,
        *,
        candidates: int = 8,
        condition: Mapping[str, Any] | None = None,
        sampling: Sampling | None = None,
        replanning: Replanning | None = None,
        selection: Selection | None = None,
        goals: Goals | None = None,
        filter: ObservationFilter | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
        threads: int | None = None,
    ) -> None:
        check_part("model", model, TrajectoryDiffusion)
        self.sampling: Sampling = _part("sampling", sampling, PLANNING, Sampling)
        self.replanning: Replanning = _part("replanning", replanning, Replanning(), Replanning)
        self.selection: Selection = _part("selection", selection, Selection(), Selection)
        self.goals: Goals = _part("goals", goals, Goals(), Goals)
        self.filter: ObservationFilter = _part(
            "filter", filter, ObservationFilter(), ObservationFilter
        )
        if self.sampling.horizon is not None:
            model = model.with_horizon(self.sampling.horizon)
        if model.codec.spec.waypoints < 2:
            raise PgdiffError(
                "`model` must plan at least 2 way-points, the present observation and a target. "
                f"Got {model.codec.spec.waypoints}."
            )
        self.model = model.to(resolve_device(device)).eval()
        self.guides = tuple(guides) if isinstance(guides, Sequence) else (guides,)
        self.candidates = check_positive_int("candidates", candidates)
        self.condition = checked_defaults(condition, model, self.guides)
        self._switched_off = tuple(key for key, value in (condition or {}).items() if value is None)
        self._controller = controller
        self.bound_controller = make_controller(controller, model, self.replanning)
        for part in (self.selection, self.goals, self.filter):
            part.check(self.model)
        self._check_sampling([bind(guide, model) for guide in self.guides])
        self.seed = check_seed("seed", seed)
        self.noise_device = str(resolve_device(self.sampling.noise_device or self.model.device))
        self.threads = check_threads(threads)
        self.plans_made = 0
        self._warned_far = False

    def _check_sampling(self, guidance: Sequence[Guidance]) -> None:
        """Raise if the sampling does not fit the model, the condition or the guides."""
        sampling, model, weighting = self.sampling, self.model, self.sampling.classifier_free
        names, dropout = model.conditions.names, model.conditions.dropout
        if weighting is not None and not names:
            raise PgdiffError("`condition` must be given with `classifier_free`. Got None.")
        # Without default values, an episode must give values if the model needs them.
        needed = GOAL in names or weighting is not None or (bool(names) and dropout == 0)
        model.check_trained_condition(
            given=needed or bool(set(names) & set(self.condition)),
            weight=1.0 if weighting is None else weighting.weight,
        )
        model.level_matrix(sampling.replace(horizon=None))
        if hasattr(sampling.solver, "check"):
            sampling.solver.check(
                noise_schedule=model.process.noise_schedule, distilled=model.distilled
            )
        check_differentiable(guidance, particles=sampling.particles is not None)
        measured = self.filter.active and not self.filter.history_tokens
        if (
            sampling.monte_carlo is not None
            and measured
            and (~model.codec.pattern("start")[0]).any()
        ):
            raise PgdiffError(
                "`monte_carlo` must be None with `noise_level` or `missing_level` for a model "
                "whose first token holds more than the observation, because its futures would "
                "start from different states. Got both. Set `history_tokens`, so that all start "
                "from one estimate."
            )
        if sampling.particles is not None:
            sampling.particles.check(sampling.solver, guidance)
            if self.filter.active:
                raise PgdiffError(
                    "`filter` must not have `noise_level` or `missing_level` with `particles`. "
                    "Got both."
                )

    @property
    def controller(self) -> Controller | WaypointController | str | None:
        """The controller that was given; `replace(controller=...)` returns another planner."""
        return self._controller

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of a flat observation."""
        return (self.model.codec.spec.observation_size,)

    def replace(self, **changes: Any) -> "Planner":
        """Return a planner with other arguments, such as `planner.replace(candidates=1)`."""
        names = "model guides controller candidates sampling replanning selection goals filter"
        arguments = {name: getattr(self, name) for name in f"{names} seed threads".split()}
        arguments["device"] = self.model.device
        condition: dict[str, Any] = dict.fromkeys(self._switched_off)
        condition |= {name: value[0].tolist() for name, value in self.condition.items()}
        arguments["condition"] = condition
        return Planner(**(arguments | changes))

    # ---------------------------------------------------------------------------------- planning

    def plan(
        self,
        observation: Float[np.ndarray, " observation"] | Mapping[str, np.ndarray],
        *,
        condition: Mapping[str, Any] | None = None,
        seed: int | None = None,
        callback: Callable[[SamplerStep], None] | None = None,
    ) -> Plan:
        """Plan from one observation.

        Args:
            observation: `[observation]`, raw units; or a Dict observation for a model that was
                trained on Dict observations, whose goal is used without another goal.
            condition: raw values by name, such as `{"goal": (7.0, 9.0)}`: a number or an array
                each. They replace the planner's default values. The goal is that of the last
                way-point: the pattern "start_goal" in-paints it, the condition "goal" conditions
                on it, and guides get it.
            seed: seed of the noise; None for the planner's seed.
            callback: called after every row of the sampling with the normalised samples of all
                candidates.

        Returns:
            The plan, with all candidates and their scores.

        Raises:
            PgdiffError: an observation or a value has a wrong shape or is not finite, or a guide's
                objective is not a finite, differentiable number for each candidate.
        """
        flat, values = self.episode(observation, condition)
        (plan,) = self.plan_batch(
            flat[None],
            seeds=[self.seed if seed is None else seed],
            condition=values,
            callback=callback,
        )
        return plan

    def episode(
        self,
        observation: Float[np.ndarray, " observation"] | Mapping[str, np.ndarray],
        condition: Mapping[str, Any] | None,
    ) -> tuple[np.ndarray, Values]:
        """Return the flat observation and the values of the conditions, as arrays of batch 1.

        Args:
            observation: as in `plan`.
            condition: as in `plan`.
        """
        flat, goal = split_goal(observation, self.model)
        values = episode_values(condition)
        if goal is not None and GOAL not in values and GOAL in self.condition_keys:
            values[GOAL] = goal.astype(np.float32)[None]
        return as_array("observation", flat), values

    @on_own_threads
    def plan_batch(
        self,
        observations: Float[np.ndarray, "environments observation"],
        *,
        seeds: Sequence[int],
        condition: Values | None = None,
        previous: PreviousPlan | None = None,
        levels: Float[np.ndarray, " environments"] | None = None,
        callback: Callable[[SamplerStep], None] | None = None,
    ) -> list[Plan]:
        """Plan for many environments in one batched call; see `plan`.

        Args:
            observations: `[environments, observation]`, raw units.
            seeds: seed of each environment's noise.
            condition: raw values by name, `[environments, ...]` each; they replace the default
                values.
            previous: rest of the current plans, for `keep_previous` and `warm_start`.
            levels: noise level of each observation; None for `filter.noise_level`.
            callback: as in `plan`; the candidates of an environment are neighbours in the batch.

        Raises:
            PgdiffError: as `plan`, or the number of seeds or levels is wrong.
        """
        observations = self._check_observations(observations)
        count = len(observations)
        if len(seeds) != count:
            raise PgdiffError(
                f"`seeds` must hold {count} seeds, one for each environment. Got {len(seeds)}."
            )
        seeds = [check_seed("seed", seed) for seed in seeds]
        values = checked_values(condition, self.model, self.guides, count=count)
        with torch.inference_mode(False), torch.no_grad():
            return self._sample_plans(observations, seeds, values, previous, levels, callback)

    def _sample_plans(
        self,
        observations: Float[np.ndarray, "environments observation"],
        seeds: Sequence[int],
        values: Values,
        previous: PreviousPlan | None,
        levels: Float[np.ndarray, " environments"] | None,
        callback: Callable[[SamplerStep], None] | None,
    ) -> list[Plan]:
        """Plan from checked inputs; the arguments are those of `plan_batch`."""
        count = len(observations)
        proposal = self.proposal(observations, values, levels)
        batch = count * self.candidates
        generators = [torch.Generator(self.noise_device).manual_seed(seed) for seed in seeds]
        noise = NoiseSource(generators, batch=batch)
        sampling, start = proposal.sampling, None
        inpainting, measurement = proposal.inpainting, proposal.measurement
        if previous is not None and previous.exists.any():
            start, matrix, inpainting, measurement = start_from(
                previous,
                self.model,
                inpainting,
                self.model.level_matrix(sampling),
                candidates=self.candidates,
                keep=self._keeps_previous,
                warm_start=self.replanning.warm_start,
                noise=noise,
                measurement=measurement,
            )
            sampling = sampling.replace(level_schedule=matrix)
        samples = self.model.sample(
            batch,
            sampling,
            guides=proposal.guidance,
            inpainting=inpainting,
            measurement=measurement,
            condition=proposal.condition,
            seed=noise,
            start=start,
            callback=callback,
        )
        self.plans_made += count
        scores = samples.objective.reshape(count, -1).cpu().numpy()
        moves = None
        best = np.where(np.isnan(scores).any(axis=1), 0, scores.argmax(axis=1))
        if self.selection.plausibility is not None:
            plausibility = self.selection.plausibility
            inpainting = join_measured(inpainting, measurement, samples.x)
            distances = plausibility.moves(self.model, samples.x, inpainting, proposal.condition)
            moves = distances.reshape(count, -1).cpu().numpy()
            best = plausibility.best(scores, moves)
        return make_plans(
            samples.x, self.model, scores=scores, moves=moves, best=best, goals=proposal.goals
        )

    def proposal(
        self,
        observations: Float[np.ndarray, "environments observation"],
        values: Values,
        levels: Float[np.ndarray, " environments"] | None = None,
    ) -> "Proposal":
        """Return the inputs of the sampling of each environment's candidates.

        Args:
            observations: `[environments, observation]`, raw units.
            values: raw values of the episodes' conditions by name, `[environments, ...]` each.
            levels: noise level of each observation; None for `filter.noise_level`.
        """
        count, model = len(observations), self.model
        start = self._each_candidate(observations)
        goals = values.get(GOAL)
        if goals is None and GOAL in self.condition:
            goals = self.condition[GOAL].expand(count, -1).float().numpy()
        raw = {name: value.to(start.device) for name, value in self.condition.items()}
        raw |= {name: self._each_candidate(value) for name, value in values.items()}
        if goals is not None:
            raw[GOAL] = self._each_candidate(goals)
        condition = None
        if model.conditions.names:
            of_model = {name: raw[name] for name in raw if name in model.conditions.names}
            of_model = model.conditions.from_plan(start, of_model)
            condition = Condition(values=of_model) if of_model else None
        check_given(
            raw,
            self.guides,
            conditioned=condition is not None,
            classifier_free=self.sampling.classifier_free,
        )
        factors = None
        if self.selection.scale_ladder is not None:
            ladder = cycle_over(self.selection.scale_ladder, self.candidates)
            factors = ladder.repeat(count).to(start)
        guidance = tuple(bind(guide, model, raw, factors=factors) for guide in self.guides)
        held, arrival = raw.get(GOAL) if self.holds_goal else None, None
        if held is not None and self.goals.tokens is not None:
            arrival = cycle_over(self.goals.tokens, self.candidates).repeat(count).to(held.device)
        inpainting, measurement = model.inpaint(start, held, arrival), None
        noise = checked_levels(self.filter.noise_level if levels is None else levels, count=count)
        if noise.any():
            inpainting, measurement = split_measured(inpainting, noise, candidates=self.candidates)
        sampling = self.sampling.replace(horizon=None)
        if condition is None:
            sampling = sampling.replace(classifier_free=None)
        return Proposal(
            sampling, guidance, inpainting, measurement, condition, values=raw, goals=goals
        )

    @property
    def observation_layout(self) -> ObservationLayout | None:
        """Order of the fields of Dict observations; None for flat ones."""
        return self.model.codec.observation_layout

    @property
    def missing_level(self) -> float | None:
        """Noise level of the prediction that replaces a missing observation; None if refused."""
        return self.filter.missing_level

    @property
    def condition_keys(self) -> tuple[str, ...]:
        """Names of the values that plans need from each episode, without the default values."""
        keys = required_keys(
            self.model,
            self.guides,
            self.sampling.classifier_free,
            given=self.condition,
            inpaints=self.goals.hold and inpaints_goal(self.model),
        )
        return tuple(key for key in keys if key not in {*self.condition, *self._switched_off})

    @property
    def holds_goal(self) -> bool:
        """Whether a goal is in-painted, and not only passed to guides or as a condition."""
        guided = any(GOAL in guide_keys(guide) for guide in self.guides)
        used_otherwise = conditioned_on_goal(self.model) or guided
        return self.goals.hold and (inpaints_goal(self.model) or not used_otherwise)

    @property
    def _keeps_previous(self) -> bool:
        """Whether the current plan is a candidate, which needs a choice between candidates."""
        return self.selection.keep_previous and len(self.guides) > 0 and self.candidates > 1

    def _each_candidate(self, values: Any) -> Tensor:
        """Return the values of each environment, repeated for each of its candidates."""
        tensor = torch.tensor(values, dtype=torch.float32, device=self.model.device)
        return tensor.repeat_interleave(self.candidates, dim=0)

    def _check_observations(self, observations: np.ndarray) -> np.ndarray:
        """Return checked observations; warn once if one is far outside the training data."""
        checked = checked_observations(
            as_array("observations", observations), shape=self.observation_shape
        )
        if not self._warned_far:
            self._warned_far = warn_far(checked, self.model)
        return checked

    # ------------------------------------------------------------------------------------ acting

    def initial_state(
        self,
        seeds: Sequence[int],
        condition: Mapping[str, Any] | None = None,
    ) -> PlannerState:
        """Return the state of environments without a plan.

        Args:
            seeds: seed of each environment's noise.
            condition: raw values of the episodes' conditions by name, `[environments, ...]` each;
                `condition_keys` are needed.
        """
        seeds = [check_seed("seed", seed) for seed in seeds]
        values = checked_values(condition, self.model, self.guides, count=len(seeds))
        (observation,), spec = self.observation_shape, self.model.codec.spec
        state = PlannerState.empty(
            seeds, tokens=spec.waypoints, observation=observation, condition=values
        )
        if self.filter.history_tokens:
            past = ObservationHistory.empty(
                len(seeds),
                self.filter.history_tokens * spec.stride,
                observation=observation,
                action=spec.action_size or 0,
            )
            state = state._replace(past=past)
        return state

    def keep_rows(self, state: PlannerState, rows: Sequence[int]) -> PlannerState:
        """Return the state of some environments, after the episodes of the others have ended.

        Args:
            state: the last state that `predict` returned.
            rows: indices of the environments in the present batch, in the order of the next batch.
        """
        return state.rows(rows)

    @on_own_threads
    def predict(
        self,
        observation: Float[np.ndarray, "*environments observation"] | Mapping[str, np.ndarray],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Float[np.ndarray, "*environments action"], PlannerState]:
        """Return actions and the next state, by Stable-Baselines3's protocol.

        Args:
            observation: `[observation]` of one environment or `[environments, observation]`; or the
                Dict observation of an environment like the recorded one, whose goal the plans then
                use. With `missing_level`, an observation is missing if all its features are NaN.
            state: state that the last call returned; None at the beginning.
            episode_start: one flag for each environment, True if `observation` is the first of an
                episode. A vector environment that resets in the next step (Gymnasium's default)
                returns it one step after `terminated | truncated`; see the page on planning.
            deterministic: ignored; plans always draw noise, which depends on the seed alone.

        Returns:
            Actions with the batch axis of the observations, and the state for the next call.

        Raises:
            PgdiffError: the planner has no controller, the state is of other environments, or as
                `plan`.
        """
        if self.bound_controller is None:
            raise PgdiffError(
                "`controller` must be given to act. Pass an InverseDynamics, or a tracker such as "
                "env.unwrapped.tracker(), to Planner. Got None."
            )
        flat, goal = split_goal(observation, self.model)
        flat = as_array("observation", flat)
        single = flat.ndim == 1
        raw = np.atleast_2d(flat)
        state = self._check_state(state, len(raw)).reset_where(episode_start)
        seen = self._see(raw, state)
        if goal is not None and GOAL in self.condition_keys:
            # A missing observation has no goal.
            state = state.with_condition({GOAL: np.atleast_2d(goal)}, where=~seen.missing)
        present = seen.present
        due = state.needs_replan(self.replanning.every)
        if due.any():
            state = self._replan(state, due, seen)
            if seen.levels.any() and state.past is None:
                # The plan begins with its estimate of a noisy observation.
                present = present.copy()
                present[due] = state.waypoints[due, 0]
        action = checked_actions(
            self.bound_controller.act(present, state),
            count=len(raw),
            size=self.model.codec.spec.action_size,
        )
        state = state._replace(age=state.age + 1)
        if state.past is not None:
            executed = clip_action(action, self.model.codec.action_range)
            past = state.past.append(seen.observations, executed, seen.levels, seen.moved)
            state = state._replace(past=past)
        return (action[0] if single else action), state

    def _see(self, raw: np.ndarray, state: PlannerState) -> "Seen":
        """Check observations, replace missing ones, and filter noisy ones by the history."""
        missing = np.zeros(len(raw), bool)
        if self.filter.missing_level is not None:
            missing = find_missing(raw)
        if missing.any():
            raw = fill_missing(raw, missing, state, self.model.codec.spec.stride)
        observations = self._check_observations(raw)
        levels = np.where(missing, self.filter.missing_level or 0.0, self.filter.noise_level)
        present, moved = observations, np.zeros_like(observations)
        if state.past is not None:
            moved = estimate_present(self.model, observations, levels, state.past) - observations
            share = trust(self.model, levels, state.past)
            present = (observations + share * moved).astype(observations.dtype)
            moved[missing] = np.nan  # the replacement of a missing observation measures nothing
        return Seen(observations, present, levels, moved, missing)

    def _replan(self, state: PlannerState, due: np.ndarray, seen: "Seen") -> PlannerState:
        """Return the state with new plans in the environments where `due` is True."""
        plans = self.plan_batch(
            seen.present[due],
            seeds=plan_seeds(state.seed[due], state.plans[due]),
            condition={name: value[due] for name, value in state.condition.items()},
            previous=self._rest_of_plans(state, due),
            levels=seen.levels[due] if state.past is None else np.zeros(due.sum()),
        )
        actions = [plan.actions for plan in plans if plan.actions is not None]
        waypoints = np.stack([plan.observations for plan in plans])
        return state.with_plans(due, waypoints, np.stack(actions) if actions else None)

    def _check_state(self, state: Any, count: int) -> PlannerState:
        """Return the state, or a new one for None; raise if it does not fit the planner."""
        if state is None:
            return self.initial_state(plan_seeds(np.full(count, self.seed), np.arange(count)))
        if not isinstance(state, PlannerState) or len(state.age) != count:
            raise PgdiffError(
                f"`state` must be the state that predict returned for these {count} environments, "
                f"or None. Got {type(state).__name__}"
                + (f" of {len(state.age)}." if isinstance(state, PlannerState) else ".")
            )
        sizes, own_sizes = state.sizes(), self.initial_state([self.seed]).sizes()
        if (state.age >= 0).any():  # without a plan, the state has no actions
            own_sizes["actions of a plan"] = self.model.codec.spec.action_shape
        for name, size in own_sizes.items():
            if sizes[name] != size:
                raise PgdiffError(
                    "`state` must come from a planner with the same model, `horizon` and "
                    f"`history_tokens`. Got {name} of the sizes {sizes[name]}, but this planner "
                    f"needs {size}."
                )
        return state

    def _rest_of_plans(self, state: PlannerState, due: np.ndarray) -> PreviousPlan | None:
        """Return the rest of the current plans in the environments where `due` is True."""
        if not (self._keeps_previous or self.replanning.warm_start):
            return None
        spec = self.model.codec.spec
        return shift_plans(
            state.waypoints[due],
            None if state.actions is None else state.actions[due],
            state.age[due],
            spec.stride,
            action_stride=spec.action_stride,
        )


class Seen(NamedTuple):
    """The observations of one step, checked and filtered.

    Attributes:
        observations: `[environments, observation]`, raw units, missing ones replaced.
        present: `[environments, observation]`, estimates of the present state.
        levels: `[environments]`, noise level of each observation.
        moved: `[environments, observation]`, the model's estimate minus the observation; NaN for a
            missing observation.
        missing: `[environments]`, whether the observation is missing.
    """

    observations: Float[np.ndarray, "environments observation"]
    present: Float[np.ndarray, "environments observation"]
    levels: Float[np.ndarray, " environments"]
    moved: Float[np.ndarray, "environments observation"]
    missing: Bool[np.ndarray, " environments"]


@dataclass(frozen=True, eq=False)
class Proposal:
    """Inputs of the sampling of candidates.

    Attributes:
        sampling: settings of the sampling.
        guidance: bound guides.
        inpainting: in-painting of the candidates.
        measurement: measurement of the candidates; None without noisy observations.
        condition: raw values of the model's conditions; None without conditions.
        values: all raw values by name, `[candidates, ...]` of all environments, or a batch of 1.
        goals: goal of each environment; None without goals.
    """

    sampling: Sampling
    guidance: tuple[Guidance, ...]
    inpainting: Inpainting
    measurement: Measurement | None
    condition: Condition | None
    values: Mapping[str, Tensor]
    goals: Float[np.ndarray, "environments goal"] | None


def _part(name: str, part: Any, default: Any, kind: type) -> Any:
    return default if part is None else check_part(name, part, kind)
