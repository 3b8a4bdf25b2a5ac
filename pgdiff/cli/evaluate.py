"""`pgdiff evaluate`: a run's planner acts; table, JSON and the first episodes as GIFs."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

from pgdiff.cli.environments import check_fit, env_id_of, make_env
from pgdiff.cli.planners import guide_name, make_planner
from pgdiff.cli.values import flag, path, swept
from pgdiff.evaluation import Evaluation, evaluate
from pgdiff.planning import Planner
from pgdiff.planning.from_run import RunInfo, read_run
from pgdiff.plotting import episode_gif
from pgdiff.validation import PgdiffError, check_positive_int, check_seed
from pgdiff.workflows.ablation import ablation
from pgdiff.workflows.watch import Watched


def run(settings: dict[str, Any]) -> int:
    """Evaluate one planner, or the four of the ablation."""
    run_folder = path(settings, "run")
    run = read_run(run_folder)
    out = path(settings, "out", run_folder / f"evaluation{swept(settings, named=('run',))}")
    env_id = env_id_of(run, settings["env"])
    options: dict[str, Any] = {
        "episodes": check_positive_int("episodes", settings["episodes"]),
        "seed": check_seed("seed", settings["seed"]),
        "parallel": check_positive_int("parallel", settings["parallel"]),
    }
    record = check_positive_int("record", settings["record"], minimum=0)
    if flag(settings, "ablation"):
        return _ablation(settings, run, env_id, out, options)
    env = make_env(env_id)
    try:
        planner = make_planner(settings, run, env)
        check_fit(planner, env, run_folder)
        watched = Watched(planner, record)
        result = evaluate(watched, lambda: make_env(env_id), **options, record=record)
        described = _described(settings, run, planner)
        result = dataclasses.replace(result, settings={**result.settings, **described})
        print(result.table(described["agent"]))
        result.to_json(out / "evaluation.json")
        if importlib.util.find_spec("matplotlib") is None:
            print("no GIF: matplotlib is not installed (pip install 'pgdiff[viz]')")
        else:
            _gifs(result, watched, env, out, options["seed"])
    finally:
        env.close()
    print(f"evaluation: {out}")
    return 0


def _described(settings: dict[str, Any], run: RunInfo, planner: Planner) -> dict[str, Any]:
    """What the table and the JSON say of the planner."""
    guide = guide_name(settings, run)
    controller = settings["planner"]["controller"]
    every = "open loop" if planner.replan_every is None else f"replan {planner.replan_every}"
    steering = "no guide"
    if guide is not None:
        (own,) = planner.guides
        steering = f"{guide} x {own.scale:g}"
    name = f"{run.recipe}, {controller}, {steering}, {planner.candidates} cand., {every}"
    return {
        "agent": name,
        "run": str(run.path),
        "guide": guide,
        "scale": planner.guides[0].scale if planner.guides else None,
        "candidates": planner.candidates,
        "steps": planner.steps,
        "replan_every": planner.replan_every,
        "controller": controller,
        "device": str(planner.model.device),
    }


def _gifs(result: Evaluation, watched: Watched, env: Any, out: Path, seed: int) -> None:
    for number, trajectory in enumerate(result.trajectories):
        env.reset(seed=seed + number)  # draws the goal of that episode, where it is random
        name = "episode.gif" if number == 0 else f"episode_{number}.gif"
        plans = watched.plans(number, steps=len(trajectory) - 1)
        episode_gif(trajectory, out / name, env=env, plans=plans)


def _ablation(
    settings: dict[str, Any], run: RunInfo, env_id: str, out: Path, options: dict[str, Any]
) -> int:
    env = make_env(env_id)
    try:
        if guide_name(settings, run) is None:
            raise PgdiffError("`guide` must name a value for the ablation. Got none.")
        full = make_planner(settings, run, env)
        check_fit(full, env, run.path)
        if full.candidates < 2:
            raise PgdiffError(
                f"`planner.candidates` must be at least 2 for the ablation. Got {full.candidates}."
            )
        if full.guides[0].scale == 0:
            raise PgdiffError("`guide.scale` must be above 0 for the ablation. Got 0.")
        result = ablation(
            no_guide=make_planner(settings, run, env, guide="none", candidates=1),
            gradient=make_planner(settings, run, env, candidates=1),
            selection=make_planner(settings, run, env, scale=0.0),
            both=full,
            make_env=lambda: make_env(env_id),
            **options,
        )
        described = _described(settings, run, full)
    finally:
        env.close()
    print(described["agent"])
    print(result.table())
    result.write(out, settings=described)
    print(f"evaluation: {out}")
    return 0
