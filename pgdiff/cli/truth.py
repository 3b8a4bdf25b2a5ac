"""`pgdiff evaluate truth=true`: measurement of how well a run's plans can be followed."""

from functools import partial
from pathlib import Path
from typing import Any

from pgdiff.cli.environments import check_fit, make_env
from pgdiff.cli.planners import describe, make_planner
from pgdiff.cli.settings import flag, path
from pgdiff.core.validation import PgdiffError, check_positive_int, check_seed
from pgdiff.data import Episodes, load_episodes
from pgdiff.runs.run import RunInfo
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
    """Measure each run, print a table and write truth.json and truth.png.

    Args:
        settings: settings of `evaluate`.
        runs: the runs.
        ids: environment id of each run.
        out: output folder; several runs have subfolders.
        env_options: arguments of the environments.
    """
    if flag(settings, "ablation"):
        raise PgdiffError(
            "`truth` must be false with ablation=true. Got true. Call `pgdiff evaluate` twice."
        )
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
            report = write_truth(
                planner,
                partial(make_env, env_id, env_options),
                episodes,
                folder,
                settings={
                    **describe(settings, run, planner),
                    **({"env_options": env_options} if env_options else {}),
                },
                pictures=pictures,
                progress=True,
                **options,
            )
        finally:
            env.close()
        print(report.table())
        print(f"truth: {folder / TRUTH}")
    return 0


def _recording(settings: dict[str, Any], run: RunInfo) -> Episodes:
    """Return the recording of the starts, by default the recording of the run."""
    if settings["data"] is not None:
        return load_episodes(path(settings, "data"))
    file = run.data.get("path")
    if file is None or not Path(str(file)).exists():
        raise PgdiffError(
            f"`data` must be the recording that the run '{run.path}' was trained on. Got null, and "
            f"'{file}' does not exist. Set data=PATH."
        )
    known = (run.data.get("steps"), run.data.get("episodes"))
    for join_continuous in (False, True):
        episodes = load_episodes(str(file), join_continuous=join_continuous)
        if known == (episodes.steps, len(episodes)):
            return episodes
    raise PgdiffError(
        f"`data` must be the recording that the run '{run.path}' was trained on, with {known[1]} "
        f"episodes and {known[0]} rows. Got another recording in '{file}'. Set data=PATH."
    )
