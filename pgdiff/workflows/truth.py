"""The truth of a planner's plans as files: truth.json and truth.png."""

import importlib.util
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from pgdiff.data import Episodes
from pgdiff.evaluation.plan_truth import plan_truth
from pgdiff.evaluation.rollouts import MakeEnv
from pgdiff.evaluation.truth_report import PlanTruth
from pgdiff.planning import Planner
from pgdiff.plotting.truth import ShownPlans, truth_picture

TRUTH, PICTURE = "truth.json", "truth.png"
SHOWN = 16


def write_truth(
    planner: Planner,
    make_env: MakeEnv,
    episodes: Episodes,
    out: Path,
    *,
    settings: dict[str, Any],
    pictures: bool = True,
    **options: Any,
) -> PlanTruth:
    """Measure the truth of a planner's plans, and write truth.json and truth.png.

    Args:
        planner: whose plans are measured.
        make_env: makes one environment of the task.
        episodes: the recording.
        out: the folder.
        settings: what the file says of the planner.
        pictures: whether the first plans are drawn.
        options: further arguments of `plan_truth`.
    """
    found = plan_truth(planner, make_env, episodes, **options)
    found.settings.update(settings)
    # The picture goes first: a file with numbers then never stands beside an older picture.
    if pictures and importlib.util.find_spec("matplotlib") is not None:
        env = make_env()
        try:
            truth_image(found, env, out)
        finally:
            env.close()
    found.to_json(out / TRUTH)
    return found


def truth_image(found: PlanTruth, env: gymnasium.Env[Any, Any], out: Path) -> Path:
    """Write truth.png: the first plans of every row over their place."""
    env.reset(seed=int(found.settings["seed"]))
    first, second = found.settings["position"][:2]
    kinds = {
        name: ShownPlans(
            waypoints=row.waypoints[:SHOWN],
            driven=None if row.driven is None else row.driven[:SHOWN],
            cuts=None if row.cuts is None else row.cuts[:SHOWN].max(axis=1),
        )
        for name, row in found.rows.items()
    }
    file: Path = truth_picture(
        kinds,
        out / PICTURE,
        env=env,
        goals=None if found.goals is None else np.asarray(found.goals[:SHOWN]),
        position=(first, second),
        title=f"{found.settings['env']}: {min(SHOWN, found.settings['starts'])} starts",
    )
    return file
