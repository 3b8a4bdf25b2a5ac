"""What each guide did to a plan: its energy and its push in every row, and what came of it."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from jaxtyping import Float
from torch import Tensor

from pgdiff.clipping import ROUNDING, on_bounds
from pgdiff.diffusion import Guidance, Known, SamplerStep
from pgdiff.diffusion.noise import draw
from pgdiff.guides import Guide, Policy, Sum, bind
from pgdiff.planning.explanation import Explanation, Outcome
from pgdiff.planning.goals import GOAL, shared_out
from pgdiff.planning.pushes import push_sizes
from pgdiff.trajectory import Condition, Plan
from pgdiff.validation import PgdiffError, check_seed

if TYPE_CHECKING:
    from pgdiff.planning.planner import Planner

__all__ = ["Explanation", "Outcome", "explain"]

Bounds = tuple[np.ndarray, np.ndarray]


@torch.inference_mode(False)
@torch.no_grad()
def explain(
    planner: "Planner",
    observation: Float[np.ndarray, " observation"] | Mapping[str, np.ndarray],
    *,
    goal: Sequence[float] | None = None,
    seed: int | None = None,
    behaviour: Any = None,
    action_space: Space[Any] | None = None,
    likelihood: bool = False,
) -> Explanation:
    """Plan as `plan` does, and say what each guide did, against the same noise without guides.

    Args:
        planner: with at least one guide that steers.
        observation: as in `plan`.
        goal: as in `plan`.
        seed: as in `plan`.
        behaviour: an actor whose densities of the plan's actions are told beside those of the
            guides' own agents, such as one that cloned the recording: an `Actor`, a live model of
            Stable-Baselines3, or the path of either's file or folder.
        action_space: the environment's, whose bounds count; that of the first agent if None.
        likelihood: whether to estimate the model's own log-density of the chosen candidate
            (`TrajectoryDiffusion.log_likelihood` by Hutchinson's estimate), which takes longer.

    Raises:
        PgdiffError: no guide that steers, two of one name, or a planner that resamples; a behaviour
            that is no actor or of another task; an action space of another size; or as `plan`.
    """
    _check(planner)
    model = planner.model
    seed = planner.seed if seed is None else check_seed("seed", seed)
    agents = list(_agents(planner.guides)) if model.layout.action_size else []
    if behaviour is not None:
        agents.append(Policy(behaviour, name="behaviour"))
        agents[-1].check_model(model)
    bounds = _bounds(planner, action_space, agents)
    unguided = copy.copy(planner)
    unguided.scale_factors = (0.0,)
    steps: list[SamplerStep] = []
    free_steps: list[SamplerStep] = []
    plan = planner.plan(observation, goal=goal, seed=seed, callback=steps.append)
    unguided.plan(observation, goal=goal, seed=seed, callback=free_steps.append)
    told = None
    if plan.goal is not None:
        told = torch.as_tensor(plan.goal, dtype=torch.float32, device=model.device)[None]
    guidance = [bind(guide, model, goal=told) for guide in planner.guides]
    known = _known(planner, plan, told)
    pushes = push_sizes(
        steps,
        guidance=guidance,
        schedule=model.schedule,
        start=_start(planner, known, steps[0], seed),
        known=known.mask,
    )
    guided, free = (_outcome(planner, guidance, s, agents, bounds) for s in (steps, free_steps))
    if likelihood:
        both = [steps[-1].x[plan.best], free_steps[-1].x[plan.best]]
        guided, free = _with_likelihoods([guided, free], both, planner, told, seed)
    levels = [step.level for step in steps] + [steps[-1].level_to]
    limited = planner.trust_region is not None
    return Explanation(
        guides=tuple(guide.name for guide in guidance),
        scales=tuple(float(guide.scale) for guide in guidance),
        best=plan.best,
        level=_array(
            torch.stack([row.expand(planner.candidates, -1)[plan.best] for row in levels])
        ),
        push=_array(pushes.each),
        push_tokens=_array(pushes.tokens[:, :, plan.best]),
        total=_array(pushes.total),
        kept=_array(pushes.kept.nanmean(dim=-1)) if limited else None,
        kept_tokens=_array(pushes.kept[:, plan.best]) if limited else None,
        moved=_array((steps[-1].x - free_steps[-1].x).square().mean(dim=(1, 2)).sqrt()),
        low=None if bounds is None else bounds[0],
        high=None if bounds is None else bounds[1],
        guided=guided,
        unguided=free,
    )


def _check(planner: "Planner") -> None:
    names = [guide.name for guide in planner.guides]
    if not any(guide.scale > 0 for guide in planner.guides):
        raise PgdiffError(
            "`guides` must hold one whose scale is above 0, for a plan to be explained. Got "
            f"{', '.join(f'{name} x 0' for name in names) or 'none'}."
        )
    for name in names:
        if names.count(name) > 1:
            raise PgdiffError(f"`guides` must have names of their own. Got '{name}' twice.")
    if planner.observation_level:
        raise PgdiffError(
            "`observation_level` must be 0 for a plan to be explained: its first token would move "
            f"by itself. Got {planner.observation_level}."
        )
    if planner.resample is not None:
        raise PgdiffError(
            "`resample` must be None for a plan to be explained: where candidates are drawn anew, "
            f"none can be followed from its noise on. Got {planner.resample!r}."
        )


# ------------------------------------------------------------------------- where sampling began


def _known(planner: "Planner", plan: Plan, goal: Float[Tensor, "1 goal"] | None) -> Known:
    """What is held in the plan's candidates."""
    first = torch.from_numpy(plan.candidates[:, 0]).to(planner.model.device)
    held = planner._held(None if goal is None else goal.expand(len(first), -1))
    arrival = None
    if held is not None and planner.arrivals is not None:
        arrival = shared_out(planner.arrivals, planner.candidates).to(held.device)
    known = planner.model.given(first, held, arrival)
    return Known(known.mask.to(first.device), known.values.to(first.device))


def _start(planner: "Planner", known: Known, step: SamplerStep, seed: int) -> Tensor:
    """The noise that the sampler began with."""
    source = torch.Generator(planner.noise_device).manual_seed(seed)
    x: Any = step.x
    noise = draw(tuple(x.shape), generators=[source], dtype=x.dtype, device=x.device)
    return known.hold(planner.model.schedule.sigma(step.level)[..., None] * noise)


# ------------------------------------------------------------------------------- what came of it


@torch.no_grad()
def _outcome(
    planner: "Planner",
    guidance: Sequence[Guidance],
    steps: Sequence[SamplerStep],
    agents: Sequence[Policy],
    bounds: Bounds | None,
) -> Outcome:
    x = steps[-1].x
    names = [guide.name for guide in guidance]
    energy = x.new_full((len(names), len(steps) + 1, len(x)), torch.nan)
    for row, step in enumerate(steps):
        for push in step.trace.pushes:
            energy[names.index(push.name), row] = push.energy
    clean = x.new_zeros(1, x.shape[1])
    for number, guide in enumerate(guidance):
        energy[number, -1] = guide.energy(x, clean)
    segment = on_bounds(planner.model.segment(x), planner.model.action_range)
    found = segment.every_action
    actions = None if found is None else _array(found)
    judged = 1 if segment.decisions is None else segment.decisions[1].shape[1]
    outcome = Outcome(
        observations=_array(segment.observations),
        actions=actions,
        energy=_array(energy),
        log_prob={
            agent.name: _array(agent.energy(segment, clean) * agent.temperature / judged)
            for agent in agents
        },
    )
    if bounds is None or actions is None:
        return outcome
    low, high = bounds
    excess = np.maximum(low - actions, actions - high).clip(min=0)
    out = (excess > ROUNDING * (high - low)).any(axis=-1)
    return replace(outcome, outside=out.mean(axis=1), excess=excess.max(axis=(1, 2)))


def _with_likelihoods(
    outcomes: Sequence[Outcome],
    chosen: Sequence[Tensor],
    planner: "Planner",
    goal: Float[Tensor, "1 goal"] | None,
    seed: int,
) -> list[Outcome]:
    """Add the model's log-density of the chosen candidates, given what is known of them."""
    held = planner._held(goal) is not None
    if held and planner.arrivals is not None:
        raise PgdiffError(
            "`arrivals` must be None for the likelihood of a plan to a goal. "
            f"Got {list(planner.arrivals)}."
        )
    values = dict(planner.condition)
    if goal is not None and GOAL in planner.model.conditioning.names:
        values[GOAL] = goal
    segment = planner.model.segment(torch.stack(list(chosen)))
    found = planner.model.log_likelihood(
        SimpleNamespace(mask=torch.ones(segment.observations.shape[:2]), **vars(segment)),
        known="start_goal" if held else "start",
        condition=Condition(values=values) if values else None,
        method="hutchinson",
        seed=seed,
    )
    return [
        replace(outcome, log_likelihood=value, standard_error=error)
        for outcome, value, error in zip(
            outcomes, found.value.tolist(), found.standard_error.tolist(), strict=True
        )
    ]


# ------------------------------------------------------------------------------ agents and bounds


def _agents(guides: Sequence[Guide]) -> Iterator[Policy]:
    """Agents that guides hold, each as a guide by which its densities can be asked."""
    for guide in guides:
        if isinstance(guide, Sum):
            yield from _agents(guide.guides)
        elif isinstance(guide, Policy):
            yield guide
        else:
            agent = getattr(guide, "agent", getattr(guide, "critic", None))
            if callable(getattr(agent, "log_prob", None)):
                yield Policy(agent, name=guide.name)


def _bounds(
    planner: "Planner", space: Space[Any] | None, agents: Sequence[Policy]
) -> Bounds | None:
    """Least and greatest actions: of the space, else of the first agent that has one."""
    size = planner.model.layout.action_size
    if size is None:
        return None
    spaces = [space, *(getattr(agent.agent, "action_space", None) for agent in agents)]
    found = next((one for one in spaces if one is not None), None)
    if found is None:
        return None
    if not isinstance(found, Box) or found.shape != (size,):
        raise PgdiffError(f"`action_space` must be a Box of shape ({size},). Got {found}.")
    return found.low.astype(np.float64), found.high.astype(np.float64)


def _array(values: Tensor) -> np.ndarray:
    found: np.ndarray = values.detach().cpu().double().numpy()
    return found
