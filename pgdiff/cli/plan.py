"""`pgdiff plan`: one plan from the start of an episode, with pictures."""

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgdiff.cli.environments import check_fit, env_id_of, make_env
from pgdiff.cli.planners import guide_settings, make_planner
from pgdiff.cli.settings import flag, path, swept
from pgdiff.core.serialization import write_json
from pgdiff.core.validation import PgdiffError, check_positive_int, check_seed
from pgdiff.diffusion import SamplerStep
from pgdiff.evaluation.checks import stack_condition
from pgdiff.evaluation.rollouts import reset_values
from pgdiff.planning import Planner, explain
from pgdiff.planning.explain import Explanation
from pgdiff.plotting import (
    comparison_picture,
    denoising_gif,
    level_gif,
    level_picture,
    plan_picture,
    reach_picture,
)
from pgdiff.plotting.explanation import explanation_picture
from pgdiff.plotting.names import observation_names, select_features
from pgdiff.plotting.views import PANELS, position_of
from pgdiff.runs.run import RunInfo, read_run
from pgdiff.trajectory import Plan
from pgdiff.workflows import outputs

SHOWN = 5
"""Number of candidates in the printed table."""


def run(settings: dict[str, Any]) -> int:
    """Make a plan, draw pictures of it, and print the best candidates."""
    folder = path(settings, "run")
    run = read_run(folder)
    out = path(settings, "out", folder / f"plan{swept(settings, named=('run',))}")
    seed = check_seed("seed", settings["seed"])
    reach = check_positive_int("reach", settings["reach"], minimum=0)
    explained = _explained(settings)
    has_matplotlib = importlib.util.find_spec("matplotlib") is not None
    if reach and not has_matplotlib:
        raise PgdiffError("`reach` must be 0 without matplotlib (pip install 'pgdiff-rl[viz]').")
    outputs.check_out(out, outputs.PLAN, overwrite=flag(settings, "overwrite"))
    env = make_env(env_id_of(run, settings["env"]))
    try:
        planner = make_planner(settings, run, env)
        check_fit(planner, env, folder)
        features = _features(settings, planner, env)
        observation, info = env.reset(seed=seed)
        condition = _condition(settings, planner, observation, info, env)
        steps: list[SamplerStep] = []
        plan = planner.plan(observation, condition=condition, seed=seed, callback=steps.append)
        explanation: Explanation | None = None
        if explained:
            explanation = explain(
                planner,
                observation,
                condition=condition,
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
        if not has_matplotlib:
            print("no pictures: matplotlib is not installed (pip install 'pgdiff-rl[viz]')")
        else:
            look: dict[str, Any] = {"env": env, "features": None if position_of(env) else features}
            _draw_plan(plan, steps, run, planner, features, look, out)
            if explanation is not None:
                title = f"{run.task.get('name')}: effect of the guides on the plan"
                explanation_picture(explanation, out / "explanation.png", title=title)
            start = (observation, condition)
            if guides:
                _draw_comparison(plan, settings, run, planner, start, look, out)
            if reach:
                _draw_reach(reach, settings, run, start, look, out)
    finally:
        env.close()
    print(f"plan: {out}")
    return 0


def _draw_plan(
    plan: Plan,
    steps: list[SamplerStep],
    run: RunInfo,
    planner: Planner,
    features: list[int] | None,
    look: dict[str, Any],
    out: Path,
) -> None:
    """Draw the plan, its features over time where positions are drawn too, and its denoising.

    Args:
        plan: the plan.
        steps: denoising steps of the plan.
        run: the run.
        planner: planner of the plan.
        features: features that are drawn over time; None for the default.
        look: environment and features of the pictures.
        out: output folder.
    """
    env, labels = look["env"], _labels(plan, run, planner)
    plan_picture(plan, out / "plan.png", **look, **labels)
    if position_of(env) and (features is not None or plan.actions is not None):
        chosen = features or list(range(min(plan.observations.shape[1], PANELS)))
        plan_picture(plan, out / "features.png", env=env, features=chosen, **labels)
    _draw_denoising(planner, plan, steps, look, out)


def _draw_comparison(
    plan: Plan,
    settings: dict[str, Any],
    run: RunInfo,
    planner: Planner,
    start: tuple[Any, dict[str, Any]],
    look: dict[str, Any],
    out: Path,
) -> None:
    """Draw the plan next to a plan from the same noise without the gradients of the guides."""
    observation, condition = start
    unguided = make_planner(settings, run, look["env"], gradient=False).plan(
        observation, condition=condition, seed=settings["seed"]
    )
    # The guides still score the candidates; an unguided planner executes the first one.
    unguided = dataclasses.replace(unguided, best=0, observations=unguided.candidates[0])
    comparison_picture(
        unguided,
        plan,
        out / "guided_vs_unguided.png",
        **look,
        titles=("Unguided", f"Guided by {' and '.join(guide_settings(settings, run))}"),
        score_label=_labels(plan, run, planner)["score_label"],
        title=f"{run.task.get('name')}: one start, the same noise",
    )


def _draw_reach(
    reach: int,
    settings: dict[str, Any],
    run: RunInfo,
    start: tuple[Any, dict[str, Any]],
    look: dict[str, Any],
    out: Path,
) -> None:
    """Draw unguided plans from one start."""
    observation, condition = start
    planner = make_planner(settings, run, look["env"], guide="none", candidates=reach)
    used = {*planner.condition_keys, *planner.model.conditions.names}
    condition = {key: value for key, value in condition.items() if key in used}
    plan = planner.plan(observation, condition=condition, seed=settings["seed"])
    title = f"{run.task.get('name')}: {reach} plans from one start, no guide"
    reach_picture(plan, out / "reach.png", **look, title=title)


def _condition(
    settings: dict[str, Any], planner: Planner, observation: Any, info: Mapping[str, Any], env: Any
) -> dict[str, Any]:
    """Return the values of `condition`, and the values of the reset that it leaves out."""
    given = {} if settings["condition"] is None else settings["condition"]
    if not isinstance(given, dict):
        raise PgdiffError(
            f"`condition` must map names to values, for example {{goal: [7, 9]}}. Got {given!r}."
        )
    keys = [key for key in planner.condition_keys if given.get(key) is None]
    values = reset_values(planner, observation, info)
    stacked = stack_condition([values], [settings["seed"]], env, keys)
    return {**given, **{name: value[0] for name, value in stacked.items()}}


def _explained(settings: dict[str, Any]) -> bool:
    """Return the setting `explain`; raise for settings that need it."""
    explained = flag(settings, "explain")
    for name in ("explain_behaviour", "explain_likelihood"):
        if settings[name] not in (None, False) and not explained:
            raise PgdiffError(f"`explain` must be true with `{name}`. Got false.")
    return explained


def _features(settings: dict[str, Any], planner: Planner, env: Any) -> list[int] | None:
    """Return the features that are drawn over time; None for the default."""
    chosen = settings["features"]
    if chosen is None:
        return None
    names = observation_names(env, planner.observation_shape[0])
    return select_features(chosen, names, most=PANELS)


def _labels(plan: Plan, run: RunInfo, planner: Planner) -> dict[str, Any]:
    """Return the title of a plan's picture and the name of its scores."""
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
    """Return the agent that represents the recorded behaviour: a stage, or the path of an agent."""
    name = settings["explain_behaviour"]
    if name is not None and run.stage(str(name)) is not None:
        return run.load(str(name), device=settings["device"])
    return None if name is None else str(path(settings, "explain_behaviour"))


def _table(plan: Plan) -> str:
    """Return a table of the chosen candidate and the best others: score, move, last way-point."""
    order = [plan.best, *(index for index in _order(plan) if index != plan.best)][:SHOWN]
    lines = [f"the chosen and the next best of {len(plan.candidates)} candidates"]
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
    scores = [float(score) if np.isfinite(score) else None for score in plan.scores]
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
def _draw_denoising(
    planner: Planner, plan: Plan, steps: list[SamplerStep], look: dict[str, Any], out: Path
) -> None:
    """Draw the denoising steps, and the noise levels of the tokens if these differ."""
    denoising_gif(
        [planner.model.codec.decode(step.x).observations.cpu().numpy() for step in steps],
        [float(step.level_to.max()) for step in steps],
        out / "denoising.gif",
        **look,
        stride=plan.stride,
        scores=None if np.isnan(plan.scores).any() else plan.scores,
    )
    levels = [step.level_to.expand(len(step.x), -1)[plan.best].cpu().numpy() for step in steps]
    if all(len(np.unique(level[level > 0])) <= 1 for level in levels):
        return  # all tokens have one level, except in-painted ones
    frames = [
        planner.model.codec.decode(step.x[plan.best][None]).observations[0].cpu().numpy()
        for step in steps
    ]
    for draw, file in ((level_picture, "levels.png"), (level_gif, "levels.gif")):
        draw(np.stack(levels), np.stack(frames), out / file, **look, stride=plan.stride)
