"""`pgdiff generate`: a synthetic data set sampled from a run's model, with guides or without."""

import time
from pathlib import Path
from typing import Any, Literal

from pgdiff.cli.generated import GENERATION
from pgdiff.cli.planners import guide_choice
from pgdiff.cli.settings import flag, path, swept
from pgdiff.core.settings import build, merge
from pgdiff.core.validation import PgdiffError, check_positive_int, check_seed
from pgdiff.diffusion import Sampling
from pgdiff.model import TrajectoryDiffusion
from pgdiff.runs.guides import run_guides
from pgdiff.runs.run import RunInfo, read_run
from pgdiff.synthesis import (
    Counts,
    ShardFolder,
    ShardSampler,
    TaskEnds,
    Workers,
    generate,
    write_part,
)
from pgdiff.synthesis.shards import shards_of
from pgdiff.trajectory import Condition

OF_THE_RUN, POLICY = "run", "policy"


def run(settings: dict[str, Any]) -> int:
    """Sample a data set, write it, and print the counts."""
    run = read_run(path(settings, "run"))
    label = swept(settings, named=("part", "parts"))
    # The name is from a file and must not add folders.
    task = str(run.task.get("name", "data")).replace("/", "_")
    out = path(settings, "out", f"data/{task}-synthetic{label}.hdf5")
    model = run.load("model", device=settings["device"])
    if not isinstance(model, TrajectoryDiffusion):
        raise PgdiffError(
            f"The stage 'model' of '{run.path}' must be a trajectory_diffusion. Got a "
            f"{type(model).__name__}."
        )
    shard: dict[str, Any] = {
        "guides": run_guides(run, _choice(settings, run), device=settings["device"]),
        "seed": check_seed("seed", settings["seed"]),
        "batch": settings["batch"],
        "condition": _condition(settings["condition"]),
        "termination": _termination(settings["termination"]),
        "sampling": build(Sampling, merge(GENERATION, settings["sampling"]), name="sampling"),
    }
    output: dict[str, Any] = {
        "transitions": check_positive_int("transitions", settings["transitions"]),
        "out": out,
    }
    workers = {"threads": settings["threads"], "compile": flag(settings, "compile")}
    resume, overwrite = flag(settings, "resume"), flag(settings, "overwrite")
    part, parts = settings["part"], settings["parts"]
    if (part is None) != (parts is None):
        raise PgdiffError(f"`part` and `parts` must be given together. Got {part} and {parts}.")
    if parts is not None:
        if overwrite:
            raise PgdiffError(
                "`overwrite` must be false with `parts`, because the jobs would delete each "
                f"other's shards. Got true. Remove '{shards_of(out)}' to start again."
            )
        sampler = ShardSampler(model=model, **shard, **workers)
        write_part(sampler, part=part, parts=parts, workers=settings["workers"], **output)
        print(f"shards: {shards_of(out)}; resume=true without `parts` joins them")
        return 0
    began = time.perf_counter()
    existing: Literal["error", "resume", "overwrite"]
    existing = "resume" if resume else "overwrite" if overwrite else "error"
    episodes = generate(
        model,
        workers=Workers(processes=settings["workers"], **workers),
        on_existing=existing,
        **output,
        **shard,
    )
    seconds = time.perf_counter() - began
    print(f"{episodes.steps} transitions, {len(episodes)} trajectories, in {seconds:.0f} s")
    print(_counts(out, episodes.steps))
    print(f"data: {out}")
    return 0


def _choice(settings: dict[str, Any], run: RunInfo) -> Any:
    """Return the settings of the guides by name; `policy=PATH` adds one."""
    chosen = guide_choice(settings)
    policy = settings["policy"]
    if policy is not None:
        options = chosen.pop(OF_THE_RUN, chosen.pop(POLICY, {}))
        chosen[POLICY] = options | {"agent": {"agent": str(path(settings, "policy"))}}
    # A run without a default guide samples unguided.
    elif run.guide is None and set(chosen) == {OF_THE_RUN}:
        if chosen[OF_THE_RUN]:
            raise PgdiffError(
                "`guide` must be named if it has settings, because the run has no default guide. "
                "Set guide=NAME or policy=PATH."
            )
        return "none"
    return list(chosen.items())


def _termination(value: Any) -> TaskEnds | None:
    return None if value is None else TaskEnds(str(value))


def _condition(value: Any) -> Condition | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise PgdiffError(
            f"`condition` must map names to values, for example {{return: 100.0}}. Got {value!r}."
        )
    rows = {key: [item if isinstance(item, list) else [item]] for key, item in value.items()}
    return Condition(values=rows)  # type: ignore[arg-type]


def _counts(out: Path, transitions: int) -> str:
    """Return a line with the counts of the shards that hold the transitions."""
    folder, total = ShardFolder(shards_of(out)), Counts()
    for number in folder.finished():
        if total.transitions < transitions:
            total += folder.counts(number) or Counts()
    return (
        f"{total.terminals} of {total.trajectories} trajectories end in a terminal, {total.cut} "
        f"tokens after a terminal were removed, {total.clipped} action values were clipped to "
        "their bounds"
    )
