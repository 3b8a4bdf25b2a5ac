"""`pgdiff evaluate`: a run's planner acts; table, JSON, pictures and the first episodes as GIFs."""

import dataclasses
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgdiff.cli import compared, truth
from pgdiff.cli.acting_agent import acting_agent
from pgdiff.cli.described import described
from pgdiff.cli.environments import check_fit, env_id_of, make_env
from pgdiff.cli.planners import guide_settings, make_planner
from pgdiff.cli.values import flag, path, paths, swept
from pgdiff.evaluation import Evaluation, aggregate, evaluate
from pgdiff.planning import Planner
from pgdiff.planning.from_run import RunInfo, read_run
from pgdiff.validation import PgdiffError, check_positive_int, check_range, check_seed
from pgdiff.workflows import outputs, pictures
from pgdiff.workflows.ablation import ablation
from pgdiff.workflows.files import write_json
from pgdiff.workflows.rendering import render_options
from pgdiff.workflows.watch import Watched

EVALUATION = "evaluation.json"


def run(settings: dict[str, Any]) -> int:
    """Evaluate one planner, that of several training seeds, or the four of the ablation."""
    if settings["compare"] is not None:
        out = None if settings["out"] is None else path(settings, "out")
        return compared.show(paths(settings, "compare"), out)
    folders = paths(settings, "run")
    runs = [read_run(folder) for folder in folders]
    out = path(settings, "out", _default_out(settings, folders))
    options = _options(settings)
    ids = [env_id_of(run, settings["env"]) for run in runs]
    ablated = flag(settings, "ablation")
    if ablated and len(runs) > 1:
        raise PgdiffError(f"`run` must be one folder for the ablation. Got {len(runs)}.")
    if flag(settings, "truth"):
        return truth.measure(settings, runs, ids, out, env_options=_env_options(settings))
    outputs.check_out(out, outputs.EVALUATION, overwrite=flag(settings, "overwrite"))
    if ablated:
        return _ablation(settings, runs[0], ids[0], out, options)
    if len(runs) == 1:
        _evaluate(settings, runs[0], ids[0], out, options, clear=out)
    else:
        _several(settings, runs, ids, out, options)
    print(f"evaluation: {out}")
    return 0


def _options(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of the evaluation itself, checked before anything is loaded."""
    references = settings["references"]
    if references is not None and not isinstance(references, Mapping):
        raise PgdiffError(
            f"`references` must map names to scores: {{ceiling: 229.4}}. Got {references!r}."
        )
    for name, value in (references or {}).items():
        check_range(f"references.{name}", value)
    options = {
        "episodes": check_positive_int("episodes", settings["episodes"]),
        "seed": check_seed("seed", settings["seed"]),
        "parallel": check_positive_int("parallel", settings["parallel"]),
    }
    _env_options(settings)
    check_positive_int("record", settings["record"], minimum=0)
    gallery = check_positive_int("gallery", settings["gallery"], minimum=0)
    pictured = flag(settings, "pictures")
    if gallery and not pictured:
        raise PgdiffError(f"`pictures` must be true for a gallery of {gallery}. Got false.")
    return options


def _env_options(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the environment."""
    given = settings["env_options"]
    if given is not None and not isinstance(given, Mapping):
        raise PgdiffError(
            f"`env_options` must map arguments of the environment to values. Got {given!r}."
        )
    return {str(key): value for key, value in (given or {}).items()}


def _default_out(settings: dict[str, Any], folders: list[Path]) -> Path:
    name = f"evaluation{swept(settings, named=('run',))}"
    if len(folders) == 1:
        return folders[0] / name
    if len(set(folders)) < len(folders):
        raise PgdiffError("`run` must name each folder once.")
    return Path(os.path.commonpath([folder.absolute().parent for folder in folders])) / name


def _several(
    settings: dict[str, Any],
    runs: list[RunInfo],
    ids: list[str],
    out: Path,
    options: dict[str, Any],
) -> None:
    """Evaluate each run on the same episodes, then all of them together."""
    found = []
    for number, (run, env_id) in enumerate(zip(runs, ids, strict=True)):
        print(f"--- {run.path}", flush=True)
        folder = out / f"run_{number}"
        # Before the first one is written: `compare` would take evaluations of an earlier call with
        # more runs for these.
        clear = out if number == 0 else folder
        found.append(_evaluate(settings, run, env_id, folder, options, clear=clear))
    together = aggregate(found)
    print(f"--- all {len(runs)}\n{together}")
    content = {**together.to_dict(), "evaluations": [f"run_{i}" for i in range(len(found))]}
    content["further"] = compared.further(found)
    write_json(out / "aggregate.json", content)


def _evaluate(
    settings: dict[str, Any],
    run: RunInfo,
    env_id: str,
    out: Path,
    options: dict[str, Any],
    *,
    clear: Path,
) -> Evaluation:
    """Evaluate one run; write its file and its pictures, in place of earlier ones in `clear`."""
    gallery, record = int(settings["gallery"]), int(settings["record"])
    kept = options["episodes"] if gallery else record
    agent = acting_agent(settings, run)
    env = make_env(env_id, _env_options(settings))
    try:
        planner = None if agent is not None else make_planner(settings, run, env)
        watched: Any  # either tells the pictures which plans were followed
        if planner is None:
            assert agent is not None
            watched, said = agent, agent.settings
        else:
            check_fit(planner, env, run.path)
            watched, said = Watched(planner, kept), _described(settings, run, planner)
        result = evaluate(
            watched, lambda: make_env(env_id, _env_options(settings)), **options, record=kept
        )
        result = _stated(result, said)
        print(result.table(result.settings["agent"]))
        outputs.remove(clear, outputs.EVALUATION)
        result.to_json(out / EVALUATION)
        if not flag(settings, "pictures"):
            return result
        if importlib.util.find_spec("matplotlib") is None:
            print("no pictures: matplotlib is not installed (pip install 'pgdiff-rl[viz]')")
            return result
        pictures.episode_gifs(result, watched, env, out, count=record)
        drawing = render_options(env, _env_options(settings))
        missing = pictures.rendered_gifs(
            result, watched, env, lambda: make_env(env_id, drawing), out, count=record
        )
        if missing is not None:
            print(f"no rendered episode: {missing}")
        pictures.score_histogram(result, out, references=settings["references"])
        if gallery:
            pictures.failures_gallery(result, watched, env, out, count=gallery)
        if planner is not None:
            pictures.value_map(run, planner, env, out, seed=options["seed"])
    finally:
        env.close()
    return result


def _described(settings: dict[str, Any], run: RunInfo, planner: Planner) -> dict[str, Any]:
    """What a planner is, with all that was asked of its guides, where it has some."""
    said = described(settings, run, planner)
    others = [f"{guide.name} x {guide.scale:g}" for guide in planner.guides[1:]]
    said["agent"] = ", also ".join([said["agent"], *others])
    asked = guide_settings(settings, run)
    said["guides"] = {
        guide.name: {**asked[guide.name], "scale": guide.scale} for guide in planner.guides
    }
    return said


def _stated(result: Evaluation, settings: dict[str, Any]) -> Evaluation:
    return dataclasses.replace(result, settings={**result.settings, **settings})


def _ablation(
    settings: dict[str, Any], run: RunInfo, env_id: str, out: Path, options: dict[str, Any]
) -> int:
    acting_agent(settings, run)  # refuses a run that cannot plan
    env = make_env(env_id, _env_options(settings))
    try:
        if not guide_settings(settings, run):
            raise PgdiffError("`guide` must name a value for the ablation. Got none.")
        full = make_planner(settings, run, env)
        check_fit(full, env, run.path)
        if full.candidates < 2:
            raise PgdiffError(
                f"`planner.candidates` must be at least 2 for the ablation. Got {full.candidates}."
            )
        if all(guide.scale == 0 for guide in full.guides):
            raise PgdiffError("`guide.scale` must be above 0 for the ablation. Got 0.")
        planners = {
            "no_guide": make_planner(settings, run, env, guide="none", candidates=1),
            "gradient": make_planner(settings, run, env, candidates=1),
            "selection": make_planner(settings, run, env, scale=0.0),
            "both": full,
        }
        agents: dict[str, Any] = {**planners, **options}
        result = ablation(make_env=lambda: make_env(env_id, _env_options(settings)), **agents)
        rows = {
            name: _stated(found, _described(settings, run, planners[name]))
            for name, found in result.evaluations.items()
        }
        result = dataclasses.replace(result, evaluations=rows)
        stated = _described(settings, run, full)
    finally:
        env.close()
    print(stated["agent"])
    print(result.table())
    outputs.remove(out, outputs.EVALUATION)
    result.write(out, settings=stated)
    print(f"evaluation: {out}")
    return 0
