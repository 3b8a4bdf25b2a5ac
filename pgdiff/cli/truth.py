"""`pgdiff evaluate truth=true`: whether a run's plans can be followed; nothing is scored."""

from functools import partial
from pathlib import Path
from typing import Any

from pgdiff.cli.described import described
from pgdiff.cli.environments import check_fit, make_env
from pgdiff.cli.planners import make_planner
from pgdiff.cli.values import flag, path
from pgdiff.data import Episodes, load_episodes
from pgdiff.planning.from_run import RunInfo
from pgdiff.validation import PgdiffError, check_positive_int, check_seed
from pgdiff.workflows import outputs
from pgdiff.workflows.truth import TRUTH, write_truth


def measure(
    settings: dict[str, Any],
    runs: list[RunInfo],
    ids: list[str],
    out: Path,
    *,
    env_options: dict[str, Any],
) -> int:
    """Measure each run, print its table and write truth.json and truth.png.

    Args:
        settings: those of `evaluate`.
        runs: the run folders.
        ids: of their environments.
        out: the folder; with several runs a folder in it for each.
        env_options: arguments of the environment.
    """
    if flag(settings, "ablation"):
        raise PgdiffError("`truth` must be false with ablation=true. Got true. Call it twice.")
    options: dict[str, Any] = {
        "starts": check_positive_int("truth_starts", settings["truth_starts"]),
        "seed": check_seed("truth_seed", settings["truth_seed"]),
        "likelihood": check_positive_int(
            "truth_likelihood", settings["truth_likelihood"], minimum=0
        ),
    }
    pictures = flag(settings, "pictures")
    folders = [out] if len(runs) == 1 else [out / f"run_{n}" for n in range(len(runs))]
    for folder in folders:
        outputs.check_out(folder, outputs.TRUTH, overwrite=flag(settings, "overwrite"))
    for run, env_id, folder in zip(runs, ids, folders, strict=True):
        if len(runs) > 1:
            print(f"--- {run.path}", flush=True)
        episodes = _recording(settings, run)
        env = make_env(env_id, env_options)
        try:
            planner = make_planner(settings, run, env)
            check_fit(planner, env, run.path)
            found = write_truth(
                planner,
                partial(make_env, env_id, env_options),
                episodes,
                folder,
                settings={
                    **described(settings, run, planner),
                    **({"env_options": env_options} if env_options else {}),
                },
                pictures=pictures,
                progress=True,
                **options,
            )
        finally:
            env.close()
        print(found.table())
        print(f"truth: {folder / TRUTH}")
    return 0


def _recording(settings: dict[str, Any], run: RunInfo) -> Episodes:
    """Return the recording that the starts are rows of: by default the one of the run."""
    if settings["data"] is not None:
        return load_episodes(path(settings, "data"))
    file = run.data.get("path")
    if file is None or not Path(str(file)).exists():
        raise PgdiffError(
            f"`data` must be the recording that the run '{run.path}' learned from: data=PATH. "
            f"Got null, and '{file}' does not exist."
        )
    known = (run.data.get("steps"), run.data.get("episodes"))
    for join_continuous in (False, True):
        episodes = load_episodes(str(file), join_continuous=join_continuous)
        if known == (episodes.steps, len(episodes)):
            return episodes
    raise PgdiffError(
        f"`data` must be the recording that the run '{run.path}' learned from, with {known[1]} "
        f"episodes of {known[0]} rows in all. Got another one in '{file}'. Give the path of the "
        "right one: data=PATH."
    )
