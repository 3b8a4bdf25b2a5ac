"""Plan truth of a planner as files: truth.json and truth.png."""

import importlib.util
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from pgdiff.data import Episodes
from pgdiff.evaluation.plan_truth.measure import plan_truth
from pgdiff.evaluation.plan_truth.report import PlanTruth
from pgdiff.evaluation.rollouts import MakeEnv
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
    """Measure the executability of a planner's plans, and write truth.json and truth.png.

    Args:
        planner: the planner.
        make_env: makes one environment of the task.
        episodes: the recording.
        out: the output folder.
        settings: further settings that are saved in truth.json.
        pictures: True to write truth.png, if matplotlib is installed.
        options: further arguments of `plan_truth`.
    """
    truth = plan_truth(planner, make_env, episodes, **options)
    truth.settings.update(settings)
    # The picture is written first, so that new numbers never appear with an old picture.
    if pictures and importlib.util.find_spec("matplotlib") is not None:
        env = make_env()
        try:
            truth_image(truth, env, out)
        finally:
            env.close()
    truth.to_json(out / TRUTH)
    return truth


def truth_image(truth: PlanTruth, env: gymnasium.Env[Any, Any], out: Path) -> Path:
    """Write truth.png: maps of the first plans of every row."""
    env.reset(seed=int(truth.settings["seed"]))
    first, second = truth.settings["position"][:2]
    kinds = {
        name: ShownPlans(
            waypoints=row.waypoints[:SHOWN],
            driven=None if row.driven is None else row.driven[:SHOWN],
            cuts=None if row.cuts is None else row.cuts[:SHOWN].max(axis=1),
        )
        for name, row in truth.rows.items()
    }
    file: Path = truth_picture(
        kinds,
        out / PICTURE,
        env=env,
        goals=None if truth.goals is None else np.asarray(truth.goals[:SHOWN]),
        position=(first, second),
        title=f"{truth.settings['env']}: {min(SHOWN, truth.settings['starts'])} starts",
    )
    return file
