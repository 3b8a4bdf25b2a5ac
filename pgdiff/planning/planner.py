"""The planner: a trajectory diffusion model that acts in Gymnasium environments."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Unpack

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.data import ObservationLayout
from pgdiff.diffusion import (
    DPMSolver,
    LogSnrSpacing,
    MonteCarlo,
    Resample,
    SamplerStep,
    Solver,
    TrustRegion,
)
from pgdiff.diffusion.classifier_free import ClassifierFree
from pgdiff.diffusion.level_schedules import LevelSchedule
from pgdiff.diffusion.spacing import Spacing
from pgdiff.guides import Guide, bind
from pgdiff.guides.base import needs_goal, score
from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning.acting import Acting
from pgdiff.planning.candidates import plans_of
from pgdiff.planning.controllers import Controller, check_controller, check_lookahead
from pgdiff.planning.explain import explain as explain_plan
from pgdiff.planning.from_run import PathLike, RunSettings, planner_arguments
from pgdiff.planning.goals import (
    GOAL,
    check_arrivals,
    check_no_goal,
    knows_goals,
    shared_out,
    steered_to_goal,
)
from pgdiff.planning.inputs import (
    check_scale_factors,
    checked_condition,
    checked_observations,
    split_goal,
    warn_far,
)
from pgdiff.planning.noisy_start import checked_levels, known_after, seen_noisily
from pgdiff.planning.parts import check_parts
from pgdiff.planning.past import check_context
from pgdiff.planning.plausibility import Plausibility, check_plausibility
from pgdiff.planning.previous import Previous
from pgdiff.planning.run_guides import GuideChoice
from pgdiff.planning.warm_start import start_from
from pgdiff.saving import resolve_device
from pgdiff.torch_threads import check_threads, on_own_threads
from pgdiff.trajectory import Condition, Plan
from pgdiff.validation import (
    PgdiffError,
    as_array,
    check_level,
    check_positive_int,
    check_range,
    check_seed,
)

LAST_LOG_SNR = 6.0
"""From where the last step goes to clean, by default. A guide moves the last estimate with nothing
after it to mend what it broke, by as much as there was noise: equal steps of the level end with a
step from too much noise unless they are many."""


class Planner(Acting):
    """Plans from an observation, guided by learned values, and drives along its plans.

    It follows Stable-Baselines3's `predict` protocol, for one environment or many, so that SB3's
    `evaluate_policy(planner, env)` works. All that it remembers is in the state that `predict`
    returns. The noise of a plan comes from the seed of its environment and the number of plans
    made there: the same seed gives the same plan, whatever is planned beside it.

    Args:
        model: a trained model whose tokens hold observations.
        controller: drives from way-point to way-point; "actions" for the plan's own actions, of a
            model whose tokens hold them; needed by `predict` alone.
        guides: what steers the samples and scores the candidates; their energies add up.
        candidates: plans drawn for each environment; the one of highest score is taken.
        steps: steps of the sampling, of every token.
        horizon: tokens of a plan, at least 2; those that the model was trained on if None. Fewer
            need a causal model.
        context: tokens of the past, as far as the episode goes back, that noisy observations are
            seen with by `predict`: what was seen, at the level at which it was, and what was done.
            It needs a causal model whose tokens have levels of their own.
        condition: what every plan is to be like, in raw units by the names of the model's
            conditions, the same for all environments: a number, or a sequence of them. "goal" may
            be left to `plan`, and is the goal of every plan that is given none.
        classifier_free: how strongly the condition steers; weight 1 if None.
        spacing: which levels a token visits; equal steps of log_snr up to 6 if None.
        schedule: when each token visits them; all tokens together if None.
        replan_every: environment steps after which a new plan is made; None for open loop, where a
            plan is followed to its end and its last way-point held (or its last action repeated)
            until the episode ends.
        lookahead: how many way-points ahead of the present one the controller drives to; 1 is the
            next. Steps between way-points that are short against what a controller needs to mend
            an error ask for more.
        solver: DPM-Solver++ of order 2 if None.
        clip: limit of the clean estimate in normalised units; None for no limit, "auto" for the
            ends of the data with the limits normaliser, and of the actions with another.
        keep_plan: whether the plan that is being followed, as far as it is left, is one of the
            candidates; of no effect where there is nothing to choose by, or among.
        warm_start: noise level, in (0, 1), to which the plan that is being followed is brought
            back, for candidates to start from in place of noise; None for noise.
        warm_share: share of the candidates that do so.
        hold_goal: whether a goal is held in the plans, of a model that was trained so ("start_goal"
            or "start_arrival").
        arrivals: tokens at which it is held, for a model trained with "start_arrival": shared out
            among the candidates; the last token if None.
        scale_factors: factors of the guides' scales, shared out among the candidates: some are
            pushed little, some much; all 1 if None.
        plausibility: which candidates may be chosen; any if None.
        trust_region: limits how far the guides move a sample; no limit if None.
        resample: draws the candidates of an environment anew by their weights, with a solver that
            draws noise; None for independent candidates.
        monte_carlo: futures over which the gradients of guides are averaged, where tokens have
            levels of their own; the clean estimate alone if None.
        stabilization: level, in [0, 1), that clean tokens are labelled with.
        observation_level: level, in [0, 1), of the noise in observations, which plans then do not
            take for the truth; `pgdiff.diffusion.level_of_noise` gives that of a deviation.
        missing_level: level, in [0, 1), of what the present plan expects by now, which stands in
            for an observation that is not there (NaN throughout); None to refuse such.
        seed: from which the environments' seeds are derived.
        device: "auto" is CUDA where there is one.
        noise_device: where noise is drawn; "cpu" gives the same noise on every device. That of the
            model if None.
        threads: PyTorch's number of threads for the time of `plan`, `plan_batch`, `explain` and
            `predict`, which the last bits of a plan depend on; None changes nothing.
    """

    @torch.inference_mode(False)  # in which weights that move to a device could not be used again
    def __init__(
        self,
        model: TrajectoryDiffusion,
        *,
        controller: Controller | Literal["actions"] | None = None,
        guides: Sequence[Guide] = (),
        candidates: int = 8,
        steps: int = 5,
        horizon: int | None = None,
        context: int = 0,
        condition: Mapping[str, float | Sequence[float]] | None = None,
        classifier_free: ClassifierFree | None = None,
        spacing: Spacing | None = None,
        schedule: LevelSchedule | None = None,
        replan_every: int | None = 10,
        lookahead: int = 1,
        solver: Solver | None = None,
        clip: float | Literal["auto"] | None = "auto",
        keep_plan: bool = False,
        warm_start: float | None = None,
        warm_share: float = 1.0,
        hold_goal: bool = True,
        arrivals: Sequence[int] | None = None,
        scale_factors: Sequence[float] | None = None,
        plausibility: Plausibility | None = None,
        trust_region: TrustRegion | None = None,
        resample: Resample | None = None,
        monte_carlo: MonteCarlo | None = None,
        stabilization: float = 0.0,
        observation_level: float = 0.0,
        missing_level: float | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
        noise_device: str | None = None,
        threads: int | None = None,
    ) -> None:
        if horizon is not None:
            model = model.with_horizon(check_positive_int("horizon", horizon, minimum=2))
        if model.layout.horizon < 2:
            raise PgdiffError(
                "`model` must plan at least 2 tokens, now and a way-point. Got a horizon of "
                f"{model.layout.horizon}."
            )
        self.model = model.to(resolve_device(device)).eval()
        self.context = check_context(context, self.model)
        self.controller = controller
        self.guides = tuple(guides)
        bound = [bind(guide, model) for guide in self.guides]
        check_controller(controller, model)
        self.candidates = check_positive_int("candidates", candidates)
        self.steps = check_positive_int("steps", steps)
        if condition is not None and not isinstance(condition, Mapping):
            raise PgdiffError(
                "`condition` must map the names of the model's conditions to values. "
                f"Got {condition!r}."
            )
        self.condition = checked_condition(condition, model) if condition else {}
        if classifier_free is not None and not (self.condition or GOAL in model.conditioning.names):
            raise PgdiffError("`condition` must be given with `classifier_free`. Got None.")
        self.classifier_free = classifier_free
        self.spacing = LogSnrSpacing(high=LAST_LOG_SNR) if spacing is None else spacing
        self.schedule = schedule
        if replan_every is not None:
            replan_every = check_positive_int("replan_every", replan_every)
        self.replan_every = replan_every
        self.lookahead = check_lookahead(lookahead, controller, stride=model.layout.stride)
        self.solver = DPMSolver() if solver is None else solver
        self.trust_region = trust_region
        self.resample = resample
        self.monte_carlo = monte_carlo
        self.stabilization = check_level("stabilization", stabilization)
        self.observation_level = check_level("observation_level", observation_level)
        self.missing_level = missing_level
        if missing_level is not None:
            check_level("missing_level", missing_level)
        check_parts(self, bound)
        asked = bool(self.condition) or GOAL in model.conditioning.names
        weight = 1.0 if classifier_free is None else classifier_free.weight
        model.check_trained_condition(given=asked, weight=weight)
        self.spacing.levels(self.steps, schedule=model.schedule)
        if clip is not None and clip != "auto":
            check_range("clip", clip, low=0.0, open_low=True)
        self.clip = clip
        self.keep_plan = bool(keep_plan) and len(self.guides) > 0 and self.candidates > 1
        if warm_start is not None:
            check_range("warm_start", warm_start, low=0.0, high=1.0, open_low=True, open_high=True)
        self.warm_start = warm_start
        self.warm_share = check_range("warm_share", warm_share, low=0.0, high=1.0)
        self.hold_goal = bool(hold_goal)
        self.arrivals = check_arrivals(arrivals, model)
        self.scale_factors = check_scale_factors(scale_factors)
        self.plausibility = check_plausibility(plausibility, model)
        self.seed = check_seed("seed", seed)
        self.noise_device = str(resolve_device(noise_device or self.model.device))
        self.threads = check_threads(threads)
        self.plans_made = 0
        self._warned_far = False
        where = model.layout.slices["observations"]
        self.observation_shape = (where.stop - where.start,)

    @classmethod
    def from_run(
        cls,
        path: PathLike,
        *,
        guides: Sequence[Guide] | None = None,
        guide: GuideChoice | None = None,
        controller: Controller | Literal["inverse_dynamics", "actions"] | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
        noise_device: str | None = None,
        threads: int | None = None,
        **settings: Unpack[RunSettings],
    ) -> "Planner":
        """Make the planner of a run folder, as `pgdiff evaluate` does.

        What is not given is as the run says, and so is a setting that is "run", or None where None
        has no meaning of its own.

        Args:
            path: the folder that `pgdiff train` made.
            guides: guides of one's own, in place of the run's.
            guide: "none", or a name: of one of the run's guides, of a stage that one can be made
                of, or of a kind, such as "policy"; or names, or settings by name.
            controller: drives along the plans: one of your own, "inverse_dynamics" for what the run
                has learned, or "actions" for the plan's own.
            seed: from which the environments' seeds are derived.
            device: "auto" is CUDA where there is one.
            noise_device: where noise is drawn.
            threads: PyTorch's number of threads while it plans.
            settings: the other arguments of the class, by name; and `scale`, `agent` and the rest
                of `pgdiff.planning.run_guides.GuideSettings`, of each of those guides.

        Raises:
            PgdiffError: no run folder, a stage that is needed and unfinished or damaged, or a
                setting out of its range.
        """
        arguments = planner_arguments(
            path,
            guides=guides,
            guide=guide,
            controller=controller,
            settings=settings,
            device=device,
        )
        return cls(
            **arguments, seed=seed, device=device, noise_device=noise_device, threads=threads
        )

    # ---------------------------------------------------------------------------------- planning

    def plan(
        self,
        observation: Float[np.ndarray, " observation"] | Mapping[str, np.ndarray],
        *,
        goal: Sequence[float] | None = None,
        seed: int | None = None,
        callback: Callable[[SamplerStep], None] | None = None,
    ) -> Plan:
        """Plan from one observation.

        Args:
            observation: `[observation]`, raw units; or a Dict observation, for a model of such
                recordings, whose own goal counts where none is given.
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
        flat, told = split_goal(observation, self.model)
        if goal is None and told is not None and self.wants_goal:
            goal = told.tolist()
        observations = as_array("observation", flat)[None]
        goals = None if goal is None else as_array("goal", goal).astype(np.float32)[None]
        seeds = [self.seed if seed is None else seed]
        (plan,) = self.plan_batch(observations, seeds=seeds, goals=goals, callback=callback)
        return plan

    @on_own_threads
    def plan_batch(
        self,
        observations: Float[np.ndarray, "environments observation"],
        *,
        seeds: Sequence[int],
        goals: Float[np.ndarray, "environments goal"] | None = None,
        previous: Previous | None = None,
        levels: Float[np.ndarray, " environments"] | None = None,
        callback: Callable[[SamplerStep], None] | None = None,
    ) -> list[Plan]:
        """Plan for many environments in one batched call; see `plan`.

        Args:
            observations: `[environments, observation]`, raw units.
            seeds: of each environment's noise.
            goals: `[environments, goal]`, or None.
            previous: what is left of the plans that are followed, for `keep_plan` and `warm_start`.
            levels: noise level of each observation; `observation_level` of all if None.
            callback: as in `plan`; the batch holds the candidates of each environment in turn.

        Raises:
            PgdiffError: as `plan`, or seeds or levels of another number.
        """
        observations = self._observed(observations)
        count = len(observations)
        if len(seeds) != count:
            raise PgdiffError(f"`seeds` must be {count}, one an environment. Got {len(seeds)}.")
        seeds = [check_seed("seed", seed) for seed in seeds]
        with torch.inference_mode(False), torch.no_grad():
            return self._planned(observations, seeds, goals, previous, levels, callback)

    def _planned(
        self,
        observations: Float[np.ndarray, "environments observation"],
        seeds: Sequence[int],
        goals: Float[np.ndarray, "environments goal"] | None,
        previous: Previous | None,
        levels: Float[np.ndarray, " environments"] | None,
        callback: Callable[[SamplerStep], None] | None,
    ) -> list[Plan]:
        """Plan from checked observations; the arguments are those of `plan_batch`."""
        count = len(observations)
        if goals is None and GOAL in self.condition:
            goals = self.condition[GOAL].expand(count, -1).float().numpy()
        start = self._each_candidate(observations)
        goal = None if goals is None else self._each_candidate(as_array("goals", goals))
        values = dict(self.condition)
        if goal is not None and GOAL in self.model.conditioning.names:
            values[GOAL] = goal
        condition = Condition(values=values) if values else None
        if goal is None:
            check_no_goal(self.guides, condition, self.classifier_free)
        factors = None
        if self.scale_factors is not None:
            factors = shared_out(self.scale_factors, self.candidates).repeat(count).to(start)
        guidance = tuple(
            bind(guide, self.model, goal=goal, factors=factors) for guide in self.guides
        )
        held = self._held(goal)
        generators = [torch.Generator(self.noise_device).manual_seed(seed) for seed in seeds]
        arrival = None
        if held is not None and self.arrivals is not None:
            arrival = shared_out(self.arrivals, self.candidates).repeat(count).to(held.device)
        known, observed = seen_noisily(
            self.model.given(start, held, arrival),
            checked_levels(self.observation_level if levels is None else levels, count=count),
            candidates=self.candidates,
        )
        noise, matrix = None, None
        if previous is not None and previous.there.any():
            noise, matrix, known, observed = start_from(
                previous,
                self.model,
                known,
                self.model.level_matrix(self.steps, spacing=self.spacing, levels=self.schedule),
                candidates=self.candidates,
                keep=self.keep_plan,
                warm=self.warm_start,
                share=self.warm_share,
                generators=generators,
                observed=observed,
            )
        x = self.model.sample(
            batch=len(start),
            generators=generators,
            known=known,
            observed=observed,
            condition=condition,
            classifier_free=None if condition is None else self.classifier_free,
            steps=self.steps,
            spacing=self.spacing if matrix is None else None,
            levels=self.schedule if matrix is None else matrix,
            solver=self.solver,
            guidance=guidance,
            trust_region=self.trust_region,
            resample=self.resample,
            monte_carlo=self.monte_carlo,
            stabilization=self.stabilization,
            clip=self.clip,
            start=noise,
            callback=callback,
        )
        self.plans_made += count
        scores = score(guidance, x).reshape(count, -1).cpu().numpy()
        moves = None
        best = np.where(np.isnan(scores).any(axis=1), 0, scores.argmax(axis=1))
        if self.plausibility is not None:
            given = known_after(known, observed, x)
            found = self.plausibility.moves(self.model, x, given, condition)
            moves = found.reshape(count, -1).cpu().numpy()
            best = self.plausibility.best(scores, moves)
        return plans_of(x, self.model, scores=scores, moves=moves, best=best, goals=goals)

    explain = on_own_threads(explain_plan)

    @property
    def observation_layout(self) -> ObservationLayout | None:
        """How Dict observations are flattened; None where the recording's were flat."""
        return self.model.observation_layout

    @property
    def wants_goal(self) -> bool:
        """Whether its plans are made for a goal that is to be told (`initial_state`)."""
        if GOAL in self.condition:
            return False
        held = self.hold_goal and knows_goals(self.model)
        return held or steered_to_goal(self.model) or any(map(needs_goal, self.guides))

    @property
    def holds_goal(self) -> bool:
        """Whether a goal is held in the plans, and not only passed to guides or as a condition."""
        passed_on = steered_to_goal(self.model) or any(map(needs_goal, self.guides))
        return self.hold_goal and (knows_goals(self.model) or not passed_on)

    def _each_candidate(self, values: Any) -> Tensor:
        """Values of each environment, once for each of its candidates."""
        tensor = torch.tensor(values, dtype=torch.float32, device=self.model.device)
        return tensor.repeat_interleave(self.candidates, dim=0)

    def _observed(self, observations: np.ndarray) -> np.ndarray:
        """The observations, checked; warns once of ones that are far outside the data."""
        checked = checked_observations(
            as_array("observations", observations), shape=self.observation_shape
        )
        if not self._warned_far:
            self._warned_far = warn_far(checked, self.model)
        return checked

    # ------------------------------------------------------------------------- parts of a plan

    def _held(self, goal: Tensor | None) -> Tensor | None:
        """The goal, if it is to be held in the plans."""
        return goal if self.holds_goal else None
