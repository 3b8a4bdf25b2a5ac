"""`pgdiff evaluate`: scores of a run's planner or agent, as a table, JSON, pictures and GIFs."""

import dataclasses
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgdiff.cli import truth
from pgdiff.cli.acting_agent import acting_agent
from pgdiff.cli.environments import check_fit, env_id_of, make_env
from pgdiff.cli.planners import describe, guide_settings, make_planner
from pgdiff.cli.settings import flag, path, paths, swept
from pgdiff.core.serialization import check_writable, write_json
from pgdiff.core.validation import PgdiffError, check_positive_int, check_range, check_seed
from pgdiff.evaluation import (
    Evaluation,
    aggregate,
    compare,
    comparison_table,
    evaluate,
    load_evaluations,
)
from pgdiff.evaluation.strata import extra_metrics
from pgdiff.planning import Planner
from pgdiff.runs.run import RunInfo, read_run
from pgdiff.workflows import evaluation_report, outputs
from pgdiff.workflows.ablation import ablation
from pgdiff.workflows.plan_recorder import PlanRecorder
from pgdiff.workflows.rendering import render_options

COMPARISON = "comparison.json"


def show(files: list[Path], out: Path | None) -> int:
    """Print a row for each evaluation, and the difference of each from the first.

    Args:
        files: saved evaluations, or folders of evaluations, which are training seeds of one
            method.
        out: folder for `comparison.json`; None to write no file.
    """
    if len(files) < 2:
        raise PgdiffError(f"`compare` must name at least 2 evaluations. Got {len(files)}.")
    if len(set(files)) < len(files):
        raise PgdiffError("`compare` must name each evaluation once. Remove the repeated ones.")
    if out is not None:
        check_writable(out / COMPARISON)
    by_name = {str(file): load_evaluations(file) for file in files}
    rows: dict[str, Evaluation] = {}
    for name, evaluations in by_name.items():
        for number, evaluation in enumerate(evaluations):
            rows[f"{name} ({number})" if len(evaluations) > 1 else name] = evaluation
    print(comparison_table(rows))
    first, *others = by_name
    content: dict[str, Any] = {"rows": {}, "differences": {}}
    for name, evaluations in by_name.items():
        total = aggregate(evaluations)
        if len(evaluations) > 1:
            print(f"\n{name}\n{total}")
        content["rows"][name] = {**total.to_dict(), "further": further(evaluations)}
    print(f"\ndifference from {first} [95 %]")
    for name in others:
        content["differences"][name] = _difference(name, by_name[name], by_name[first])
    if out is not None:
        write_json(out / COMPARISON, content)
        print(f"comparison: {out}")
    return 0


def further(evaluations: list[Evaluation]) -> dict[str, Any]:
    """Aggregate the metrics other than the score; print them if the evaluations are several."""
    content = {}
    for metric in extra_metrics(evaluations):
        total = aggregate(evaluations, metric=metric)
        if len(evaluations) > 1:
            print(total)
        content[metric] = total.to_dict()
    return content


def _difference(name: str, a: list[Evaluation], b: list[Evaluation]) -> dict[str, Any]:
    """Print and return the differences of two planners in every metric that both have."""
    score = compare(a, b)
    print(f"  {name}  {score}")
    others = {}
    for metric in extra_metrics([*a, *b]):
        difference = compare(a, b, metric=metric)
        print(f"    {metric}  {difference}")
        others[metric] = difference.to_dict()
    return {**score.to_dict(), "further": others}


EVALUATION = "evaluation.json"


def run(settings: dict[str, Any]) -> int:
    """Evaluate a planner or an agent, the runs of several training seeds, or an ablation."""
    if settings["compare"] is not None:
        out = None if settings["out"] is None else path(settings, "out")
        return show(paths(settings, "compare"), out)
    folders = paths(settings, "run")
    runs = [read_run(folder) for folder in folders]
    out = path(settings, "out", _default_out(settings, folders))
    options = _options(settings)
    ids = [env_id_of(run, settings["env"]) for run in runs]
    ablated = flag(settings, "ablation")
    if ablated and len(runs) > 1:
        raise PgdiffError(f"`run` must be one folder with ablation=true. Got {len(runs)}.")
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
    """Check the settings of the evaluation before networks are loaded, and return the main ones."""
    references = settings["references"]
    if references is not None and not isinstance(references, Mapping):
        raise PgdiffError(
            "`references` must map names to scores, for example {ceiling: 229.4}. "
            f"Got {references!r}."
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
    pictures = flag(settings, "pictures")
    if gallery and not pictures:
        raise PgdiffError(f"`pictures` must be true for a gallery of {gallery}. Got false.")
    return options


def _env_options(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the environment."""
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
        raise PgdiffError("`run` must name each folder once. Remove the repeated ones.")
    return Path(os.path.commonpath([folder.absolute().parent for folder in folders])) / name


def _several(
    settings: dict[str, Any],
    runs: list[RunInfo],
    ids: list[str],
    out: Path,
    options: dict[str, Any],
) -> None:
    """Evaluate each run on the same episodes, and aggregate the evaluations."""
    evaluations = []
    for number, (run, env_id) in enumerate(zip(runs, ids, strict=True)):
        print(f"--- {run.path}", flush=True)
        folder = out / f"run_{number}"
        # The first evaluation removes the results of an earlier call with more runs, which
        # `compare` would read as results of this call.
        clear = out if number == 0 else folder
        evaluations.append(_evaluate(settings, run, env_id, folder, options, clear=clear))
    total = aggregate(evaluations)
    print(f"--- all {len(runs)}\n{total}")
    content = {**total.to_dict(), "evaluations": [f"run_{i}" for i in range(len(runs))]}
    content["further"] = further(evaluations)
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
    """Evaluate one run; write its file and its pictures, and remove earlier results in `clear`."""
    gallery, record = int(settings["gallery"]), int(settings["record"])
    recorded = options["episodes"] if gallery else record
    agent = acting_agent(settings, run)
    env = make_env(env_id, _env_options(settings))
    try:
        planner = None if agent is not None else make_planner(settings, run, env)
        recorder: Any  # returns the followed plans for the pictures
        if planner is None:
            assert agent is not None
            recorder, report = agent, agent.settings
        else:
            check_fit(planner, env, run.path)
            recorder, report = PlanRecorder(planner, recorded), _report(settings, run, planner)
        result = evaluate(
            recorder, lambda: make_env(env_id, _env_options(settings)), **options, record=recorded
        )
        result = _with_settings(result, report)
        print(result.table(result.settings["agent"]))
        outputs.remove(clear, outputs.EVALUATION)
        result.to_json(out / EVALUATION)
        if not flag(settings, "pictures"):
            return result
        if importlib.util.find_spec("matplotlib") is None:
            print("no pictures: matplotlib is not installed (pip install 'pgdiff-rl[viz]')")
            return result
        evaluation_report.episode_gifs(result, recorder, env, out, count=record)
        drawing = render_options(env, _env_options(settings))
        missing = evaluation_report.rendered_gifs(
            result, recorder, env, lambda: make_env(env_id, drawing), out, count=record
        )
        if missing is not None:
            print(f"no rendered episode: {missing}")
        evaluation_report.score_histogram(result, out, references=settings["references"])
        if gallery:
            evaluation_report.failures_gallery(result, recorder, env, out, count=gallery)
        if planner is not None:
            evaluation_report.value_map(run, planner, env, out, seed=options["seed"])
    finally:
        env.close()
    return result


def _report(settings: dict[str, Any], run: RunInfo, planner: Planner) -> dict[str, Any]:
    """Return the settings of a planner for the file of an evaluation, with all its guides."""
    report = describe(settings, run, planner)
    others = [f"{guide.name} x {guide.scale:g}" for guide in planner.guides[1:]]
    report["agent"] = ", also ".join([report["agent"], *others])
    chosen = guide_settings(settings, run)
    report["guides"] = {
        guide.name: {**chosen[guide.name], "scale": guide.scale} for guide in planner.guides
    }
    return report


def _with_settings(result: Evaluation, settings: dict[str, Any]) -> Evaluation:
    return dataclasses.replace(result, settings={**result.settings, **settings})


def _ablation(
    settings: dict[str, Any], run: RunInfo, env_id: str, out: Path, options: dict[str, Any]
) -> int:
    acting_agent(settings, run)  # raises for a run that cannot plan
    env = make_env(env_id, _env_options(settings))
    try:
        if not guide_settings(settings, run):
            raise PgdiffError("`guide` must name a guide for the ablation. Got none.")
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
            "selection": make_planner(settings, run, env, gradient=False),
            "both": full,
        }
        agents: dict[str, Any] = {**planners, **options}
        result = ablation(make_env=lambda: make_env(env_id, _env_options(settings)), **agents)
        rows = {
            name: _with_settings(evaluation, _report(settings, run, planners[name]))
            for name, evaluation in result.evaluations.items()
        }
        result = dataclasses.replace(result, evaluations=rows)
        report = _report(settings, run, full)
    finally:
        env.close()
    print(report["agent"])
    print(result.table())
    outputs.remove(out, outputs.EVALUATION)
    result.write(out, settings=report)
    print(f"evaluation: {out}")
    return 0
