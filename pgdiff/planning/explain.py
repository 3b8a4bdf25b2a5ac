"""Explanation of a plan: the objective and push of each guide in every row, and their effect."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.core.threads import on_own_threads
from pgdiff.core.validation import PgdiffError, check_seed
from pgdiff.diffusion import Guidance, SamplerStep
from pgdiff.diffusion.schedules import NoiseSchedule, factors
from pgdiff.guides import Guide, Policy, Sum, bind
from pgdiff.model.clipping import ROUNDING
from pgdiff.planning.explanation import Explanation, Outcome
from pgdiff.planning.planner import Planner, Proposal
from pgdiff.trajectory import Condition

Signal = Float[Tensor, "batch tokens features"]


@dataclass(frozen=True, eq=False)
class StepSizes:
    """Sizes of pushes, NaN where no token moves; see `pgdiff.planning.explanation.Explanation`.

    Attributes:
        each: size of each guide's push over all tokens.
        tokens: size of each guide's push on each token.
        total: size of the sum of pushes over all tokens.
        kept: share of the sum that a trust region kept on each token; 1 without a trust region.
    """

    each: Float[Tensor, "guides rows batch"]
    tokens: Float[Tensor, "guides rows batch tokens"]
    total: Float[Tensor, "rows batch"]
    kept: Float[Tensor, "rows batch tokens"]


def step_sizes(
    steps: Sequence[SamplerStep],
    *,
    guidance: Sequence[Guidance],
    noise_schedule: NoiseSchedule,
    start: Signal,
    inpainted: Bool[Tensor, "#batch tokens features"],
) -> StepSizes:
    """Return the root mean square of moves divided by that of the denoiser's own steps.

    In-painted features and tokens whose level does not change are left out.

    Args:
        steps: steps of the sampling.
        guidance: bound guides with distinct names.
        noise_schedule: noise schedule of the model.
        start: samples before the first step.
        inpainted: mask of the in-painted features.
    """
    names = [guide.name for guide in guidance]
    before = {guide.name for guide in guidance if guide.used_rule.before}
    batch, tokens, _ = start.shape
    each = start.new_full((len(names), len(steps), batch), torch.nan)
    every_token = start.new_full((len(names), len(steps), batch, tokens), torch.nan)
    total = start.new_full((len(steps), batch), torch.nan)
    kept = start.new_full((len(steps), batch, tokens), torch.nan)
    x = start
    for row, step in enumerate(steps):
        trace, point, x = step.trace, x, step.x
        if trace.free is None:
            continue
        alpha, _ = factors(noise_schedule, step.level)
        left = (
            torch.ones_like(kept[row]) if trace.kept is None else trace.kept.expand(batch, tokens)
        )
        for push in trace.pushes:
            if push.name in before:  # the rule moved the sample before the step
                point = point + left[..., None] * alpha.clamp(min=1e-3) * push.move
        # Both sides of the ratio are multiplied by alpha, which may be 0.
        own = point - alpha * trace.free
        moving = (step.level_to < step.level).expand(batch, tokens)
        free = moving[..., None] & ~inpainted
        kept[row] = torch.where(free.any(dim=-1), left, torch.nan)
        for push in trace.pushes:
            guide = names.index(push.name)
            each[guide, row] = _ratio(alpha * push.move, own, free, (1, 2))
            every_token[guide, row] = _ratio(alpha * push.move, own, free, (2,))
        if trace.pushes:
            moves = torch.stack([push.move for push in trace.pushes])
            total[row] = _ratio(alpha * moves.sum(dim=0), own, free, (1, 2))
    return StepSizes(each, every_token, total, kept)


def _ratio(move: Tensor, own: Tensor, free: Tensor, dims: tuple[int, ...]) -> Tensor:
    move, own = (torch.linalg.vector_norm(part * free, dim=dims) for part in (move, own))
    return torch.where(own > 0, move / own, torch.nan)


__all__ = ["Explanation", "Outcome", "explain"]

Bounds = tuple[np.ndarray, np.ndarray]


@on_own_threads
@torch.inference_mode(False)
@torch.no_grad()
def explain(
    planner: Planner,
    observation: Float[np.ndarray, " observation"] | Mapping[str, np.ndarray],
    *,
    condition: Mapping[str, Any] | None = None,
    seed: int | None = None,
    behaviour: Any = None,
    action_space: Space[Any] | None = None,
    likelihood: bool = False,
) -> Explanation:
    """Plan as `Planner.plan` does, and compare the plan with equal noise without guides.

    Args:
        planner: a planner with at least one guide of a scale above 0.
        observation: as in `plan`.
        condition: as in `plan`.
        seed: as in `plan`.
        behaviour: a further actor whose log-densities of the plan's actions are computed, such as a
            clone of the recording: an `Actor`, a model of Stable-Baselines3, or a path of its file
            or folder.
        action_space: action space of the environment, for its bounds; None for the action space of
            the first agent.
        likelihood: whether to estimate the model's log-density of the chosen candidate
            (`TrajectoryDiffusion.log_likelihood` with Hutchinson's estimator), which takes longer.

    Raises:
        PgdiffError: no guide has a scale above 0, two guides have one name, the planner has
            particles, `behaviour` or `action_space` does not fit the model, or as `plan`.
    """
    _check(planner)
    model = planner.model
    seed = planner.seed if seed is None else check_seed("seed", seed)
    agents = list(_agents(planner.guides)) if model.codec.spec.action_size else []
    if behaviour is not None:
        agents.append(Policy(behaviour, name="behaviour"))
        agents[-1].check_model(model)
    bounds = _bounds(planner, action_space, agents)
    unguided = copy.copy(planner)
    unguided.selection = replace(planner.selection, scale_ladder=(0.0,))
    steps: list[SamplerStep] = []
    free_steps: list[SamplerStep] = []
    plan = planner.plan(observation, condition=condition, seed=seed, callback=steps.append)
    unguided.plan(observation, condition=condition, seed=seed, callback=free_steps.append)
    _, values = planner.episode(observation, condition)
    proposal = planner.proposal(plan.candidates[plan.best, :1], values)
    one = {name: value[:1] for name, value in proposal.values.items()}
    guidance = [bind(guide, model, one) for guide in planner.guides]
    pushes = step_sizes(
        steps,
        guidance=guidance,
        noise_schedule=model.process.noise_schedule,
        start=steps[0].before,
        inpainted=proposal.inpainting.mask.to(model.device),
    )
    guided, free = (_outcome(planner, guidance, s, agents, bounds) for s in (steps, free_steps))
    if likelihood:
        both = [steps[-1].x[plan.best], free_steps[-1].x[plan.best]]
        guided, free = _with_likelihoods([guided, free], both, planner, proposal, seed)
    levels = [step.level for step in steps] + [steps[-1].level_to]
    limited = planner.sampling.trust_region is not None
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


def _check(planner: Planner) -> None:
    names = [guide.name for guide in planner.guides]
    if not any(guide.scale > 0 for guide in planner.guides):
        raise PgdiffError(
            "`guides` must hold a guide with a scale above 0 to explain a plan. Got "
            f"{', '.join(f'{name} x 0' for name in names) or 'none'}."
        )
    for name in names:
        if names.count(name) > 1:
            raise PgdiffError(f"`guides` must have distinct names. Got '{name}' twice.")
    if planner.filter.noise_level:
        raise PgdiffError(
            "`noise_level` must be 0 to explain a plan, because the first token would move "
            f"without guides. Got {planner.filter.noise_level}."
        )
    if planner.sampling.particles is not None:
        raise PgdiffError(
            "`particles` must be None to explain a plan, because candidates that are resampled do "
            f"not keep their noise. Got {planner.sampling.particles!r}."
        )


# ---------------------------------------------------------------------------------------- outcomes


@torch.no_grad()
def _outcome(
    planner: Planner,
    guidance: Sequence[Guidance],
    steps: Sequence[SamplerStep],
    agents: Sequence[Policy],
    bounds: Bounds | None,
) -> Outcome:
    x = steps[-1].x
    names = [guide.name for guide in guidance]
    objective = x.new_full((len(names), len(steps) + 1, len(x)), torch.nan)
    for row, step in enumerate(steps):
        for push in step.trace.pushes:
            objective[names.index(push.name), row] = push.objective
    clean = x.new_zeros(1, x.shape[1])
    for number, guide in enumerate(guidance):
        objective[number, -1] = guide.objective(x, clean)
    segment = planner.model.codec.decode_plan(x)
    every_action = segment.every_action
    actions = None if every_action is None else _array(every_action)
    rows = 1 if segment.decisions is None else segment.decisions[1].shape[1]
    outcome = Outcome(
        observations=_array(segment.observations),
        actions=actions,
        objective=_array(objective),
        log_prob={
            agent.name: _array(agent.objective(segment, clean) * agent.temperature / rows)
            for agent in agents
        },
    )
    if bounds is None or actions is None:
        return outcome
    low, high = bounds
    excess = np.maximum(low - actions, actions - high).clip(min=0)
    outside = (excess > ROUNDING * (high - low)).any(axis=-1)
    return replace(outcome, outside=outside.mean(axis=1), excess=excess.max(axis=(1, 2)))


def _with_likelihoods(
    outcomes: Sequence[Outcome],
    chosen: Sequence[Tensor],
    planner: Planner,
    proposal: Proposal,
    seed: int,
) -> list[Outcome]:
    """Add the model's log-density of the chosen candidates, given their in-painted features."""
    inpainted = proposal.goals is not None and planner.holds_goal
    if inpainted and planner.goals.tokens is not None:
        raise PgdiffError(
            "`goals.tokens` must be None for the likelihood of a plan to a goal. "
            f"Got {list(planner.goals.tokens)}."
        )
    condition = None
    if proposal.condition is not None:
        values = {name: value[:1] for name, value in proposal.condition.values.items()}
        condition = Condition(values=values)
    segment = planner.model.codec.decode(torch.stack(list(chosen)))
    likelihood = planner.model.log_likelihood(
        SimpleNamespace(mask=torch.ones(segment.observations.shape[:2]), **segment.fields),
        pattern="start_goal" if inpainted else "start",
        condition=condition,
        method="hutchinson",
        seed=seed,
    )
    return [
        replace(outcome, log_likelihood=value, standard_error=error)
        for outcome, value, error in zip(
            outcomes, likelihood.value.tolist(), likelihood.standard_error.tolist(), strict=True
        )
    ]


# ------------------------------------------------------------------------------ agents and bounds


def _agents(guides: Sequence[Guide]) -> Iterator[Policy]:
    """Yield the agents of guides as `Policy` guides, which compute log-densities."""
    for guide in guides:
        if isinstance(guide, Sum):
            yield from _agents(guide.guides)
        elif isinstance(guide, Policy):
            yield guide
        else:
            agent = getattr(guide, "agent", getattr(guide, "critic", None))
            if callable(getattr(agent, "log_prob", None)):
                yield Policy(agent, name=guide.name)


def _bounds(planner: Planner, space: Space[Any] | None, agents: Sequence[Policy]) -> Bounds | None:
    """Return the bounds of actions, from the space or else from the first agent with one."""
    size = planner.model.codec.spec.action_size
    if size is None:
        return None
    spaces = [space, *(getattr(agent.agent, "action_space", None) for agent in agents)]
    first = next((one for one in spaces if one is not None), None)
    if first is None:
        return None
    if not isinstance(first, Box) or first.shape != (size,):
        raise PgdiffError(f"`action_space` must be a Box of shape ({size},). Got {first}.")
    return first.low.astype(np.float64), first.high.astype(np.float64)


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().cpu().double().numpy()
    return array
