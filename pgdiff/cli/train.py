"""`pgdiff train`: training of all stages of a recipe into a run folder."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgdiff.cli.generated import SWITCHED_OFF
from pgdiff.cli.overrides import Override, parse
from pgdiff.cli.settings import flag, path, swept
from pgdiff.cli.task_spaces import check_data, fill_bounds, task_spaces
from pgdiff.cli.tasks import check_named, recorded_env, task_named, words_of_data, words_of_run
from pgdiff.core.validation import PgdiffError, check_positive_int
from pgdiff.data import load_episodes
from pgdiff.data.loading import find_recording
from pgdiff.runs.folders import last_metrics
from pgdiff.runs.run import RunInfo, read_run
from pgdiff.runs.stages import Stage
from pgdiff.workflows.train import train_stages


def prepare(words: Sequence[str], *, sweep: bool) -> list[str]:
    """Add the words that choose the task, if the user names only a run, an environment or data."""
    overrides = parse(words, sweep=sweep)
    given = {override.key: override for override in overrides}
    base, data = given.get("base"), given.get("data")
    if base is not None and base.values is not None:
        raise PgdiffError(
            "`base` must be one run, because its task and horizon are used. Call `pgdiff train` "
            "once for each run."
        )
    if base is not None and base.value is not None:
        return [*words, *words_of_run(read_run(str(base.value)), given)]
    added = task_named(given)
    if added is None:
        added = [] if data is None else _words_of_data(data, given)
    return [*words, *added]


def _words_of_data(data: Override, given: Mapping[str, Override]) -> list[str]:
    sources = [data.value] if data.values is None else [str(value) for value in data.values]
    choices = [words_of_data(str(source), given) for source in sources if source is not None]
    if any(words != choices[0] for words in choices):
        raise PgdiffError(
            "`data` must be recordings of one task in a sweep without `task`. Got "
            f"{', '.join(words[0] for words in choices if words)}. Call `pgdiff train` once for "
            "each task."
        )
    return choices[0] if choices else []


def _stage(name: str, stage: Any, settings: dict[str, Any]) -> Stage:
    """Return a stage of the recipe."""
    where = f"recipe.stages.{name}"
    if not isinstance(stage, dict) or not isinstance(stage.get("learner"), str):
        raise PgdiffError(f"`{where}` must have a `learner`. Got {stage!r}.")
    parts = {key: stage.get(key) or {} for key in ("arguments", "trainer", "synthetic")}
    for key, part in parts.items():
        if not isinstance(part, dict):
            raise PgdiffError(f"`{where}.{key}` must be settings by name. Got {part!r}.")
    return Stage(
        name=name,
        learner=stage["learner"],
        arguments=parts["arguments"],
        trainer=_trainer(parts["trainer"], settings["trainer"]),
        synthetic=parts["synthetic"],
    )


def run(settings: dict[str, Any]) -> int:
    """Train the stages and print a report."""
    task, recipe = settings["task"], settings["recipe"]
    check_named(task)
    out, add = _folder(settings)
    data = _data(settings, out if add else None)
    if not find_recording(data).exists:
        raise PgdiffError(
            f"`data` must be a file. '{data}' does not exist. Record it with: "
            f"{_collect_command(task, data)}"
        )
    length = settings["episode_length"]
    episodes = load_episodes(
        data,
        join_continuous=flag(settings, "join_continuous"),
        episode_length=None if length is None else check_positive_int("episode_length", length),
    )
    spaces = task_spaces(task)
    if spaces is not None:
        recorded = recorded_env(str(data))
        check_data(episodes, spaces, name=task["name"], data=str(data), recorded=recorded)
    # A recipe that extends another recipe may switch a stage off by null.
    stages = {str(name): stage for name, stage in recipe["stages"].items() if stage is not None}
    print(f"{recipe['name']}: {', '.join(stages)} on {episodes.steps} steps of {data}")
    built = [_stage(name, stage, settings) for name, stage in stages.items()]
    info = train_stages(
        episodes,
        fill_bounds(built, episodes, spaces),
        folder=out,
        task=task,
        recipe=recipe["name"],
        data=data,
        planner=recipe.get("planner") or {},
        guides=recipe.get("guides") or {},
        guide=recipe.get("guide"),
        seed=settings["seed"],
        device=settings["device"],
        add=add,
        resume=flag(settings, "resume"),
        overwrite=flag(settings, "overwrite"),
    )
    for line in stage_lines(info):
        print(line)
    print(f"run: {out}")
    return 0


def _folder(settings: dict[str, Any]) -> tuple[Path, bool]:
    """Return the run folder, and whether the stages are added to an existing run."""
    if settings["base"] is not None:
        if settings["out"] is not None:
            raise PgdiffError(
                "`out` must be left out with `base`, because the stages are written to the base."
            )
        return path(settings, "base"), True
    suffix = swept(settings, named=("task", "recipe", "seed"))
    name, recipe = settings["task"]["name"], settings["recipe"]["name"]
    return path(settings, "out", f"runs/{name}/{recipe}/{settings['seed']}{suffix}"), False


def _data(settings: dict[str, Any], base: Path | None) -> Path:
    default = f"data/{settings['task']['name']}.hdf5"
    if base is not None:
        default = read_run(base).data.get("path") or default
    return path(settings, "data", default)


def _collect_command(task: dict[str, Any], data: Path) -> str:
    """Return the command that records missing data."""
    words = ["pgdiff", "collect", f"task={task['name']}"]
    if data != Path(f"data/{task['name']}.hdf5"):
        words.append(f"out={data}")
    return shlex.join(words)


def _trainer(stage: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the trainer's settings of a stage, overridden by those of the command line."""
    merged = stage | {key: value for key, value in chosen.items() if value is not None}
    return {
        key: None if key in SWITCHED_OFF and value == 0 else value for key, value in merged.items()
    }


def stage_lines(info: RunInfo) -> list[str]:
    """Return a line for each stage with steps, losses and time."""
    lines = []
    for stage in info.stages:
        metrics = last_metrics(info, stage.name)
        parts = ["finished" if stage.finished else "unfinished"]
        if "step" in metrics:
            parts.append(f"{metrics['step']} steps")
        for key, label in (("train/loss", "loss"), ("eval/loss", "held-out loss")):
            if key in metrics:
                parts.append(f"{label} {metrics[key]:.4g}")
        if "time/time_elapsed" in metrics:
            parts.append(f"{metrics['time/time_elapsed']:.0f} s")
        lines.append(f"  {stage.name} ({stage.learner}): {', '.join(parts)}")
    return lines
