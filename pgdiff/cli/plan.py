"""`pgdiff plan`: one plan from the start of an episode, with pictures of it."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgdiff.cli.environments import check_fit, env_id_of, make_env
from pgdiff.cli.planners import guide_settings, make_planner
from pgdiff.cli.values import flag, path, swept
from pgdiff.diffusion import SamplerStep
from pgdiff.evaluation.checks import goals_of
from pgdiff.evaluation.observations import goal_of
from pgdiff.planning import Planner
from pgdiff.planning.explain import Explanation
from pgdiff.planning.from_run import RunInfo, read_run
from pgdiff.plotting import (
    comparison_picture,
    denoising_gif,
    level_gif,
    level_picture,
    plan_picture,
    reach_picture,
)
from pgdiff.plotting.explanation import explanation_picture
from pgdiff.plotting.names import chosen_features, observation_names
from pgdiff.plotting.views import PANELS, position_of
from pgdiff.trajectory import Plan
from pgdiff.validation import PgdiffError, check_positive_int, check_seed
from pgdiff.workflows import outputs
from pgdiff.workflows.files import write_json

SHOWN = 5


def run(settings: dict[str, Any]) -> int:
    """Plan, draw, and show the best candidates."""
    folder = path(settings, "run")
    run = read_run(folder)
    out = path(settings, "out", folder / f"plan{swept(settings, named=('run',))}")
    seed = check_seed("seed", settings["seed"])
    reach = check_positive_int("reach", settings["reach"], minimum=0)
    explained = _explained(settings)
    pictured = importlib.util.find_spec("matplotlib") is not None
    if reach and not pictured:
        raise PgdiffError("`reach` must be 0 without matplotlib (pip install 'pgdiff-rl[viz]').")
    outputs.check_out(out, outputs.PLAN, overwrite=flag(settings, "overwrite"))
    env = make_env(env_id_of(run, settings["env"]))
    try:
        planner = make_planner(settings, run, env)
        check_fit(planner, env, folder)
        features = _features(settings, planner, env)
        look: dict[str, Any] = {"env": env, "features": None if position_of(env) else features}
        observation, info = env.reset(seed=seed)
        goal = None
        if planner.wants_goal:
            told = {"goal": goal_of(planner, observation, info)}
            goal = goals_of([told], [seed], env)[0].tolist()
        steps: list[SamplerStep] = []
        plan = planner.plan(observation, goal=goal, seed=seed, callback=steps.append)
        explanation: Explanation | None = None
        if explained:
            explanation = planner.explain(
                observation,
                goal=goal,
                seed=seed,
                behaviour=_behaviour(settings, run),
                action_space=env.action_space,
                likelihood=flag(settings, "explain_likelihood"),
            )
        guides = guide_settings(settings, run)
        print(_table(plan))
        outputs.remove(out, outputs.PLAN)
        write_json(out / "plan.json", _content(plan, settings, folder, guides))
        if explanation is not None:
            print(f"\n{explanation.table()}\n")
            write_json(out / "explanation.json", explanation.as_dict())
        if not pictured:
            print("no pictures: matplotlib is not installed (pip install 'pgdiff-rl[viz]')")
        else:
            said = _named(plan, run, planner)
            plan_picture(plan, out / "plan.png", **look, **said)
            if position_of(env) and (features is not None or plan.actions is not None):
                chosen = features or list(range(min(plan.observations.shape[1], PANELS)))
                plan_picture(plan, out / "features.png", env=env, features=chosen, **said)
            _denoising(planner, plan, steps, look, out)
            if explanation is not None:
                title = f"{run.task.get('name')}: what the guides did to the plan"
                explanation_picture(explanation, out / "explanation.png", title=title)
            if guides:
                # The same noise without the gradients; the energies are still told, and the first
                # candidate shown, which is what an unguided planner takes.
                unguided = make_planner(settings, run, env, scale=0.0).plan(
                    observation, goal=goal, seed=seed
                )
                unguided = dataclasses.replace(
                    unguided, best=0, observations=unguided.candidates[0]
                )
                comparison_picture(
                    unguided,
                    plan,
                    out / "guided_vs_unguided.png",
                    **look,
                    titles=("Unguided", f"Guided by {' and '.join(guides)}"),
                    score_label=said["score_label"],
                    title=f"{run.task.get('name')}: one start, the same noise",
                )
            if reach:
                free = make_planner(settings, run, env, guide="none", candidates=reach)
                reached = free.plan(observation, goal=goal if free.wants_goal else None, seed=seed)
                title = f"{run.task.get('name')}: {reach} plans from one start, no guide"
                reach_picture(reached, out / "reach.png", **look, title=title)
    finally:
        env.close()
    print(f"plan: {out}")
    return 0


def _explained(settings: dict[str, Any]) -> bool:
    """Whether the plan is to be explained; its other settings are refused where not."""
    explained = flag(settings, "explain")
    for name in ("explain_behaviour", "explain_likelihood"):
        if settings[name] not in (None, False) and not explained:
            raise PgdiffError(f"`explain` must be true with `{name}`. Got false.")
    return explained


def _features(settings: dict[str, Any], planner: Planner, env: Any) -> list[int] | None:
    """Return the features that are drawn over time, or None where none are chosen."""
    chosen = settings["features"]
    if chosen is None:
        return None
    names = observation_names(env, planner.observation_shape[0])
    return chosen_features(chosen, names, most=PANELS)


def _named(plan: Plan, run: RunInfo, planner: Planner) -> dict[str, Any]:
    """Return the title of a plan's picture, with task and guides, and the name of its scores."""
    names = [guide.name for guide in planner.guides]
    scales = [f"{guide.name} x {guide.scale:g}" for guide in planner.guides]
    guided = f"guided by {', '.join(scales)}" if scales else "no guide"
    count = len(plan.candidates)
    chosen = f"chosen from {count} candidates" if count > 1 else "one candidate"
    return {
        "title": f"{run.task.get('name')}: {guided}\n{chosen}",
        "score_label": f"objective of {' + '.join(names)}" if names else "score",
    }


def _behaviour(settings: dict[str, Any], run: RunInfo) -> Any:
    """The agent that stands for the recording: what a stage has learned, or by its path."""
    name = settings["explain_behaviour"]
    if name is not None and run.stage(str(name)) is not None:
        return run.load(str(name), device=settings["device"])
    return None if name is None else str(path(settings, "explain_behaviour"))


def _table(plan: Plan) -> str:
    """The candidate that was chosen, and the best others: score, move, and where each ends."""
    order = [plan.best, *(index for index in _order(plan) if index != plan.best)][:SHOWN]
    lines = [f"the chosen one and the best others of {len(plan.candidates)} candidates"]
    move = "" if plan.moves is None else "move   "
    lines.append(f"candidate  score    {move}last way-point")
    for index in order:
        last = ", ".join(f"{value:.2f}" for value in plan.candidates[index, -1])
        moved = "" if plan.moves is None else f"{plan.moves[index]:<5.2f}  "
        lines.append(f"{index:9d}  {plan.scores[index]:<7.4g}  {moved}{last}")
    return "\n".join(lines)


def _order(plan: Plan) -> list[int]:
    if np.isnan(plan.scores).any():
        return list(range(len(plan.scores)))
    return [int(index) for index in np.argsort(-plan.scores, kind="stable")]


def _content(
    plan: Plan, settings: dict[str, Any], folder: Path, guides: dict[str, dict[str, Any]]
) -> Any:
    scores = [None if np.isnan(score) else float(score) for score in plan.scores]
    return {
        "run": str(folder),
        "seed": settings["seed"],
        "guide": next(iter(guides), None),
        "guides": guides,
        "stride": plan.stride,
        "best": plan.best,
        "scores": scores,
        "moves": None if plan.moves is None else plan.moves.tolist(),
        "waypoints": plan.observations.tolist(),
        "candidates": plan.candidates.tolist(),
    }


@torch.no_grad()
def _denoising(
    planner: Planner, plan: Plan, steps: list[SamplerStep], look: dict[str, Any], out: Path
) -> None:
    denoising_gif(
        [planner.model.segment(step.x).observations.cpu().numpy() for step in steps],
        [float(step.level_to.max()) for step in steps],
        out / "denoising.gif",
        **look,
        stride=plan.stride,
        scores=None if np.isnan(plan.scores).any() else plan.scores,
    )
    levels = [step.level_to.expand(len(step.x), -1)[plan.best].cpu().numpy() for step in steps]
    if all(len(np.unique(level[level > 0])) <= 1 for level in levels):
        return  # all tokens together, but for what is given: nothing to see
    frames = [
        planner.model.segment(step.x[plan.best][None]).observations[0].cpu().numpy()
        for step in steps
    ]
    for draw, file in ((level_picture, "levels.png"), (level_gif, "levels.gif")):
        draw(np.stack(levels), np.stack(frames), out / file, **look, stride=plan.stride)
