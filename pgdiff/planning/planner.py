"""The planner: a trajectory diffusion model that acts in Gymnasium environments."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion import DPMSolver, LogSnrSpacing, SamplerStep, Solver
from pgdiff.diffusion.classifier_free import ClassifierFree
from pgdiff.diffusion.level_schedules import LevelSchedule
from pgdiff.diffusion.spacing import Spacing
from pgdiff.guides import Guide, bind
from pgdiff.guides.base import score
from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning.controllers import Controller
from pgdiff.planning.from_run import PathLike, planner_arguments
from pgdiff.planning.memory import PlanMemory
from pgdiff.saving import resolve_device
from pgdiff.trajectory import Condition, Plan
from pgdiff.validation import PgdiffError, check_positive_int, check_range, check_seed

LAST_LOG_SNR = 6.0
"""From where the last step goes to clean, by default. A guide moves the last estimate with nothing
after it to mend what it broke, by as much as there was noise: equal steps of the level end with a
step from too much noise unless they are many."""

GOAL = "goal"
"""The condition that `goal` of `plan` gives."""


class Planner:
    """Plans from an observation, guided by learned values, and drives along its plans.

    It follows Stable-Baselines3's `predict` protocol, for one environment or many, so that SB3's
    `evaluate_policy(planner, env)` works. All that it remembers is in the state that `predict`
    returns. The noise of a plan comes from the seed of its environment and the number of plans
    made there: the same seed gives the same plan, whatever is planned beside it.

    Args:
        model: a trained model whose tokens hold observations.
        controller: drives from way-point to way-point; needed by `predict` alone.
        guides: what steers the samples and scores the candidates; their energies add up.
        candidates: plans drawn for each environment; the one of highest score is taken.
        steps: steps of the sampling, of every token.
        condition: what every plan is to be like, in raw units by the names of the model's
            conditions, the same for all environments: a number, or a sequence of them. "goal" may
            be left to `plan`, and is the goal of every plan that is given none.
        classifier_free: how strongly the condition steers; weight 1 if None.
        spacing: which levels a token visits; equal steps of log_snr up to 6 if None.
        levels: when each token visits them; all tokens together if None.
        replan_every: environment steps after which a new plan is made; None for open loop, where a
            plan is followed to its end and its last way-point held until the episode ends.
        solver: DPM-Solver++ of order 2 if None.
        clip: limit of the clean estimate in normalised units; None for no limit, "auto" for 1 with
            the limits normaliser and none with another.
        seed: from which the environments' seeds are derived.
        device: "auto" is CUDA where there is one.
        noise_device: where noise is drawn; "cpu" gives the same noise on every device. That of the
            model if None.
    """

    def __init__(
        self,
        model: TrajectoryDiffusion,
        *,
        controller: Controller | None = None,
        guides: Sequence[Guide] = (),
        candidates: int = 8,
        steps: int = 5,
        condition: Mapping[str, float | Sequence[float]] | None = None,
        classifier_free: ClassifierFree | None = None,
        spacing: Spacing | None = None,
        levels: LevelSchedule | None = None,
        replan_every: int | None = 10,
        solver: Solver | None = None,
        clip: float | Literal["auto"] | None = "auto",
        seed: int = 0,
        device: str | torch.device = "auto",
        noise_device: str | None = None,
    ) -> None:
        if model.layout.horizon < 2:
            raise PgdiffError(
                "`model` must plan at least 2 tokens, now and a way-point. Got a horizon of "
                f"{model.layout.horizon}."
            )
        self.model = model.to(resolve_device(device)).eval()
        self.controller = controller
        self.guides = tuple(guides)
        self.guidance = tuple(bind(guide, model) for guide in self.guides)
        if controller is not None and not isinstance(controller, Controller):
            raise PgdiffError(
                "`controller` must have a method act(observation, waypoint, steps_left). "
                f"Got a {type(controller).__name__}."
            )
        self.candidates = check_positive_int("candidates", candidates)
        self.steps = check_positive_int("steps", steps)
        if condition is not None and not isinstance(condition, Mapping):
            raise PgdiffError(
                "`condition` must map the names of the model's conditions to values. "
                f"Got {condition!r}."
            )
        self.condition = self._checked_condition(condition) if condition else {}
        if classifier_free is not None and not (self.condition or GOAL in model.conditioning.names):
            raise PgdiffError("`condition` must be given with `classifier_free`. Got None.")
        self.classifier_free = classifier_free
        self.spacing = LogSnrSpacing(high=LAST_LOG_SNR) if spacing is None else spacing
        self.levels = levels
        if replan_every is not None:
            check_positive_int("replan_every", replan_every)
        self.replan_every = replan_every
        self.solver = DPMSolver() if solver is None else solver
        for name, kind in (("solver", Solver), ("spacing", Spacing), ("levels", LevelSchedule)):
            part = getattr(self, name)
            if not isinstance(part, kind) and (name, part) != ("levels", None):
                raise PgdiffError(f"`{name}` must be a {kind.__name__}. Got {part!r}.")
        if hasattr(self.solver, "check"):
            self.solver.check(schedule=model.schedule, distilled=model.distilled)
        self.spacing.levels(self.steps, schedule=model.schedule)
        if clip is not None and clip != "auto":
            check_range("clip", clip, low=0.0, open_low=True)
        self.clip = clip
        self.seed = check_seed("seed", seed)
        self.noise_device = str(resolve_device(noise_device or self.model.device))
        self.plans_made = 0
        where = model.layout.slices["observations"]
        self.observation_shape = (where.stop - where.start,)

    @classmethod
    def from_run(
        cls,
        path: PathLike,
        *,
        guides: Sequence[Guide] | None = None,
        guide: str | None = None,
        scale: float | None = None,
        transform: str | None = None,
        trace: float | None = None,
        at: str | None = None,
        candidates: int | None = None,
        steps: int | None = None,
        condition: Mapping[str, float | Sequence[float]] | None = None,
        classifier_free: ClassifierFree | None = None,
        spacing: Spacing | None = None,
        levels: LevelSchedule | None = None,
        replan_every: int | Literal["run"] | None = "run",
        controller: Controller | None = None,
        solver: Solver | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
        noise_device: str | None = None,
    ) -> "Planner":
        """Make the planner of a run folder, as `pgdiff evaluate` does.

        None stands for what the run says, or for the run's inverse dynamics.

        Args:
            path: the folder that `pgdiff train` made.
            guides: guides of one's own, in place of the run's.
            guide: name of a value among the run's stages, or "none".
            scale: of that guide; 0 for choosing among candidates only.
            transform: of that guide, "none" or "log".
            trace: of that guide, lambda of the lambda-return.
            at: where that guide's gradient is taken, "x0" or "x".
            candidates: plans drawn for each environment.
            steps: steps of the sampling.
            condition: what every plan is to be like.
            classifier_free: how strongly the condition steers.
            spacing: which levels a token visits.
            levels: when each token visits them.
            replan_every: environment steps; None for open loop, "run" for what the run says.
            controller: drives from way-point to way-point.
            solver: of the sampling.
            seed: from which the environments' seeds are derived.
            device: "auto" is CUDA where there is one.
            noise_device: where noise is drawn.

        Raises:
            PgdiffError: no run folder, a stage that is needed and unfinished or damaged, or a
                setting out of its range.
        """
        arguments = planner_arguments(
            path,
            guides=guides,
            guide=guide,
            guide_settings={"scale": scale, "transform": transform, "trace": trace, "at": at},
            controller=controller,
            settings={
                "candidates": candidates,
                "steps": steps,
                "condition": condition,
                "classifier_free": classifier_free,
                "spacing": spacing,
                "levels": levels,
                "solver": solver,
            },
            device=device,
        )
        if replan_every != "run":
            arguments["replan_every"] = replan_every
        return cls(**arguments, seed=seed, device=device, noise_device=noise_device)

    # ---------------------------------------------------------------------------------- planning

    def plan(
        self,
        observation: Float[np.ndarray, " observation"],
        *,
        goal: Sequence[float] | None = None,
        seed: int | None = None,
        callback: Callable[[SamplerStep], None] | None = None,
    ) -> Plan:
        """Plan from one observation.

        Args:
            observation: `[observation]`, raw units.
            goal: `(x, y)` that the last way-point is to have, for a model trained on goals: with
                the known pattern "start_goal", which holds it there, with the condition "goal",
                which steers towards it, or both. That of the planner's condition if None.
            seed: of the noise; the planner's own if None.
            callback: called after every row of the sampling with normalised samples of all
                candidates.

        Returns:
            The plan, with all candidates and their scores.

        Raises:
            PgdiffError: an observation or goal of the wrong shape or not finite, or a guide whose
                energy is not a finite, differentiable number for each candidate.
        """
        observations = np.asarray(observation)[None]
        goals = None if goal is None else np.asarray([goal], dtype=np.float32)
        seeds = [self.seed if seed is None else seed]
        (plan,) = self.plan_batch(observations, seeds=seeds, goals=goals, callback=callback)
        return plan

    def plan_batch(
        self,
        observations: Float[np.ndarray, "environments observation"],
        *,
        seeds: Sequence[int],
        goals: Float[np.ndarray, "environments goal"] | None = None,
        callback: Callable[[SamplerStep], None] | None = None,
    ) -> list[Plan]:
        """Plan for many environments in one batched call; see `plan`.

        Args:
            observations: `[environments, observation]`, raw units.
            seeds: of each environment's noise.
            goals: `[environments, 2]`, or None.
            callback: as in `plan`; the batch holds the candidates of each environment in turn.

        Raises:
            PgdiffError: as `plan`, or seeds of another number.
        """
        observations = self._checked(observations)
        count = len(observations)
        if len(seeds) != count:
            raise PgdiffError(f"`seeds` must be {count}, one an environment. Got {len(seeds)}.")
        seeds = [check_seed("seed", seed) for seed in seeds]
        if goals is None and GOAL in self.condition:
            goals = self.condition[GOAL].expand(count, -1).float().numpy()
        start = self._each_candidate(observations)
        goal = None if goals is None else self._each_candidate(np.asarray(goals))
        values = dict(self.condition)
        if goal is not None and GOAL in self.model.conditioning.names:
            values[GOAL] = goal
        condition = Condition(values=values) if values else None
        if condition is None and self.classifier_free is not None:
            raise PgdiffError(
                "`goal` must be given to a planner with `classifier_free`: to plan(goal=...), "
                'or to Planner(condition={"goal": ...}). Got None.'
            )
        # A model that was trained to be steered to a goal need not know one that is held.
        held = None if GOAL in values and "start_goal" not in self.model.known else goal
        x = self.model.sample(
            batch=len(start),
            generators=[
                torch.Generator(device=self.noise_device).manual_seed(seed) for seed in seeds
            ],
            known=self.model.given(start, held),
            condition=condition,
            classifier_free=None if condition is None else self.classifier_free,
            steps=self.steps,
            spacing=self.spacing,
            levels=self.levels,
            solver=self.solver,
            guidance=self.guidance,
            clip=self.clip,
            callback=callback,
        )
        self.plans_made += count
        scores = score(self.guidance, x).reshape(count, -1).cpu().numpy()
        segment = self.model.segment(x)
        shape = (count, self.candidates, self.model.layout.horizon, -1)
        candidates = segment.observations.reshape(shape).cpu().numpy()
        actions = None if segment.actions is None else segment.actions.reshape(shape).cpu().numpy()
        best = np.where(np.isnan(scores).any(axis=1), 0, scores.argmax(axis=1))
        return [
            Plan(
                observations=candidates[i, best[i]],
                actions=None if actions is None else actions[i, best[i]],
                candidates=candidates[i],
                scores=scores[i],
                best=int(best[i]),
                stride=self.model.layout.stride,
                goal=None if goals is None else goals[i],
            )
            for i in range(count)
        ]

    # ------------------------------------------------------------------------------------ acting

    def initial_state(self, seeds: Sequence[int]) -> PlanMemory:
        """State of environments that have no plan yet, with a seed for each one's noise."""
        seeds = [check_seed("seed", seed) for seed in seeds]
        return PlanMemory.empty(
            seeds, tokens=self.model.layout.horizon, observation=self.observation_shape[0]
        )

    def predict(
        self,
        observation: Float[np.ndarray, "*environments observation"],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Float[np.ndarray, "*environments action"], PlanMemory]:
        """Act by Stable-Baselines3's protocol.

        Args:
            observation: `[observation]` of one environment or `[environments, observation]`.
            state: what the last call returned; None to begin.
            episode_start: where a new episode has begun, one flag an environment.
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
        single = np.ndim(observation) == 1
        observations = self._checked(np.atleast_2d(np.asarray(observation)))
        memory = self._memory(state, len(observations))
        due = self._due(memory, episode_start)
        if due.any():
            plans = self.plan_batch(
                observations[due],
                seeds=_plan_seeds(memory.seed[due], memory.plans[due]),
            )
            memory = memory.with_plans(due, np.stack([plan.observations for plan in plans]))
        waypoint, steps_left = memory.target(self.model.layout.stride)
        action = self.controller.act(observations, waypoint, steps_left)
        memory = memory._replace(age=memory.age + 1)
        return (action[0] if single else action), memory

    def _checked_condition(self, given: Mapping[str, Any]) -> dict[str, Tensor]:
        """The given condition as tensors of batch 1."""
        self.model.conditioning.check_names(given, later=[GOAL])
        raw: dict[str, Any] = {}
        for name, value in given.items():
            numbers = value.tolist() if isinstance(value, np.ndarray | Tensor) else value
            raw[name] = [numbers if isinstance(numbers, Sequence) else [numbers]]
        condition = Condition(values=raw)
        self.model.conditioning.check_values(condition)
        return dict(condition.values)

    def _each_candidate(self, values: Any) -> Tensor:
        """Values of each environment, once for each of its candidates."""
        tensor = torch.tensor(values, dtype=torch.float32, device=self.model.device)
        return tensor.repeat_interleave(self.candidates, dim=0)

    def _checked(self, observations: np.ndarray) -> np.ndarray:
        if observations.ndim != 2 or observations.shape[1:] != self.observation_shape:
            raise PgdiffError(
                f"`observation` must have shape {list(self.observation_shape)}, that of the data "
                "the model was trained on, or [environments, ...] of it. "
                f"Got {list(observations.shape[1:])}."
            )
        if observations.dtype.kind not in "fiu":
            raise PgdiffError(f"`observation` must be numbers. Got {observations.dtype}.")
        with np.errstate(over="ignore"):
            checked = observations.astype(np.float32)
        rows = np.flatnonzero(~np.isfinite(checked).all(axis=1))
        if len(rows):
            raise PgdiffError(
                "`observation` must be finite numbers of float32. Got "
                f"{observations[rows[0]].tolist()} for environment {rows[0]}."
            )
        return checked

    def _memory(self, state: Any, count: int) -> PlanMemory:
        if state is None:
            return self.initial_state(_plan_seeds(np.full(count, self.seed), np.arange(count)))
        if not isinstance(state, PlanMemory) or len(state.age) != count:
            raise PgdiffError(
                f"`state` must be what predict returned for the same {count} environments, or "
                f"None. Got {type(state).__name__}"
                + (f" of {len(state.age)}." if isinstance(state, PlanMemory) else ".")
            )
        return state

    def _due(self, memory: PlanMemory, episode_start: Any) -> np.ndarray:
        due = memory.age < 0
        if self.replan_every is not None:
            due = due | (memory.age >= self.replan_every)
        if episode_start is not None:
            started = np.asarray(episode_start, dtype=bool)
            if started.shape not in ((), due.shape):
                raise PgdiffError(
                    f"`episode_start` must hold {len(due)} flags, one an environment. "
                    f"Got the shape {list(started.shape)}."
                )
            due = due | started
        return due


def _plan_seeds(seeds: np.ndarray, counts: np.ndarray) -> list[int]:
    """One independent seed for each pair of an environment's seed and a count."""
    return [
        int(np.random.SeedSequence([int(seed), int(count)]).generate_state(1, np.uint64)[0] >> 1)
        for seed, count in zip(seeds, counts, strict=True)
    ]
