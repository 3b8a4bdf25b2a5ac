"""`pgdiff generate`: a synthetic data set, sampled by a run's model, steered by a policy or not."""

import time
from pathlib import Path
from typing import Any

from pgdiff.cli.planners import guide_choice
from pgdiff.cli.values import flag, path, swept
from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning.from_run import RunInfo, read_run
from pgdiff.planning.run_guides import run_guides
from pgdiff.planning.settings import planner_values
from pgdiff.synthesis import Counts, ShardFolder, ShardSampler, TaskEnds, generate, write_part
from pgdiff.synthesis.shards import shards_of
from pgdiff.trajectory import Condition
from pgdiff.validation import PgdiffError, check_positive_int, check_seed

OF_THE_RUN, POLICY = "run", "policy"


def run(settings: dict[str, Any]) -> int:
    """Sample, write, and say what was written."""
    run = read_run(path(settings, "run"))
    label = swept(settings, named=("part", "parts"))
    task = str(run.task.get("name", "data")).replace("/", "_")  # a file's word: no folders by it
    out = path(settings, "out", f"data/{task}-synthetic{label}.hdf5")
    model = run.load("model", device=settings["device"])
    if not isinstance(model, TrajectoryDiffusion):
        raise PgdiffError(
            f"The stage 'model' of '{run.path}' must be a trajectory_diffusion. Got a "
            f"{type(model).__name__}."
        )
    chosen = planner_values(
        {
            key: settings[key]
            for key in ("steps", "solver", "spacing", "trust_region")
            if settings[key] is not None
        }
    )
    sampling: dict[str, Any] = {
        "guides": run_guides(run, _choice(settings, run), {}, device=settings["device"]),
        "seed": check_seed("seed", settings["seed"]),
        "batch": settings["batch"],
        "condition": _condition(settings["condition"]),
        "ends": None if settings["ends"] is None else TaskEnds(str(settings["ends"])),
        "threads": settings["threads"],
        "compile": flag(settings, "compile"),
        **chosen,
    }
    asked: dict[str, Any] = {
        "transitions": check_positive_int("transitions", settings["transitions"]),
        "out": out,
        "workers": settings["workers"],
    }
    resume, overwrite = flag(settings, "resume"), flag(settings, "overwrite")
    part, parts = settings["part"], settings["parts"]
    if (part is None) != (parts is None):
        raise PgdiffError(f"`part` and `parts` must be given together. Got {part} and {parts}.")
    if parts is not None:
        if overwrite:
            raise PgdiffError(
                "`overwrite` must be false with `parts`: jobs would undo each other. Got true. "
                f"Remove '{shards_of(out)}' to begin anew."
            )
        sampler = ShardSampler(model=model, **sampling)
        write_part(sampler, part=part, parts=parts, **asked)
        print(f"shards: {shards_of(out)}; resume=true without `parts` joins them")
        return 0
    began = time.perf_counter()
    episodes = generate(model, resume=resume, overwrite=overwrite, **asked, **sampling)
    seconds = time.perf_counter() - began
    print(f"{episodes.steps} transitions, {len(episodes)} trajectories, in {seconds:.0f} s")
    print(_counts(out, episodes.steps))
    print(f"data: {out}")
    return 0


def _choice(settings: dict[str, Any], run: RunInfo) -> Any:
    """The guides that are asked for; `policy=PATH` is one of them."""
    asked = guide_choice(settings)
    policy = settings["policy"]
    if policy is not None:
        own = asked.pop(OF_THE_RUN, asked.pop(POLICY, {}))
        return {**asked, POLICY: own | {"agent": str(path(settings, "policy"))}}
    # A run that names no guide samples without one.
    if run.guide is None and set(asked) == {OF_THE_RUN}:
        if any(value is not None for value in asked[OF_THE_RUN].values()):
            raise PgdiffError("`guide` must be named, or `policy` given, to have settings.")
        return "none"
    return asked


def _condition(value: Any) -> Condition | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise PgdiffError(
            f"`condition` must give values by name, {{return: 100.0}}. Got {value!r}."
        )
    rows = {key: [one if isinstance(one, list) else [one]] for key, one in value.items()}
    return Condition(values=rows)  # type: ignore[arg-type]


def _counts(out: Path, transitions: int) -> str:
    """What became of the samples, over the shards that hold so many transitions."""
    folder, total = ShardFolder(shards_of(out)), Counts()
    for number in folder.finished():
        if total.transitions < transitions:
            total += folder.counts(number) or Counts()
    return (
        f"{total.terminals} of {total.trajectories} trajectories end in a terminal, {total.cut} "
        f"tokens after one are cut, {total.clipped} values of actions were clipped to "
        "their bounds"
    )
