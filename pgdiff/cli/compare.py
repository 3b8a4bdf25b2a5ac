"""`pgdiff compare`: synthetic data sets against real rows, the simulator and policies."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from pgdiff.agents import load
from pgdiff.cli.environments import make_env
from pgdiff.cli.settings import path, paths
from pgdiff.core.pretrained import load_learner
from pgdiff.core.serialization import check_writable, write_json
from pgdiff.core.validation import PgdiffError, check_positive_int
from pgdiff.data import Episodes, load_episodes
from pgdiff.data.transitions import rows_of
from pgdiff.dynamics import DynamicsEnsemble
from pgdiff.evaluation import fidelity
from pgdiff.model import TrajectoryDiffusion
from pgdiff.plotting import fidelity_picture, marginals_picture

ENSEMBLE = "ensemble"
FIDELITY = "fidelity.json"
TRAJECTORIES = 1000
"""Least number of trajectories that are sampled from the ensemble."""


def run(settings: dict[str, Any]) -> int:
    """Compare the data sets, draw pictures, and print the table."""
    files = paths(settings, "synthetic")
    first = files[0]
    out = path(settings, "out", first.with_name(f"{first.name}.fidelity"))
    real = load_episodes(path(settings, "real"))
    data = _by_name(files)
    check_writable(out / FIDELITY)
    policies = {
        name: _agent(name, path(settings, name))
        for name in ("target", "behaviour")
        if settings[name] is not None
    }
    if settings["ensemble"] is not None:
        data[ENSEMBLE] = _roll_out(settings, real, policies.get("target"))
    model = settings["model"] and _load(settings, "model", TrajectoryDiffusion)
    env = None if settings["env"] is None else make_env(settings["env"])
    try:
        report = fidelity(
            real,
            data,
            env=env,
            policies=policies,
            model=model,
            **{
                key: settings[key]
                for key in ("held_out", "positions", "rows", "points", "neighbours", "seed")
            },
        )
    finally:
        if env is not None:
            env.close()
    print(report.table())
    print(f"\nrows are compared by {report.features}")
    content = report.to_dict()
    write_json(out / FIDELITY, content)
    if importlib.util.find_spec("matplotlib") is None:
        print("no pictures: matplotlib is not installed (pip install 'pgdiff-rl[viz]')")
    else:
        fidelity_picture(content, out / "fidelity.png")
        marginals_picture({"real": real, **data}, out / "marginals.png", env=env)
    print(f"comparison: {out}")
    return 0


def _roll_out(settings: dict[str, Any], real: Episodes, target: Any) -> Episodes:
    """Return trajectories of the target in an ensemble, from recorded observations."""
    if target is None:
        raise PgdiffError("`target` must be given, because it acts in the ensemble. Got null.")
    ensemble = _load(settings, "ensemble", DynamicsEnsemble)
    steps = check_positive_int("positions", settings["positions"]) + 1
    count = max(check_positive_int("rows", settings["rows"]), TRAJECTORIES)
    rows = rows_of(real)
    starts = real.observations[np.random.default_rng(settings["seed"]).choice(rows, size=count)]
    trajectories: Episodes = ensemble.rollout(
        target,
        starts,
        steps=steps,
        seed=settings["seed"],
        bounds=(real.observations[rows].min(axis=0), real.observations[rows].max(axis=0)),
    )
    return trajectories


def _load(settings: dict[str, Any], name: str, kind: type) -> Any:
    learner = load_learner(path(settings, name), device="cpu")
    if not isinstance(learner, kind):
        raise PgdiffError(
            f"`{name}` must be the folder of a stage that holds a {kind.__name__}. Got a "
            f"{type(learner).__name__}."
        )
    return learner


def _by_name(files: list[Path]) -> dict[str, Episodes]:
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        names = [str(file) for file in files]
    if len({*names, ENSEMBLE}) <= len(names):
        raise PgdiffError(
            f"`synthetic` must name each data set once, and none of them '{ENSEMBLE}'. "
            f"Got {', '.join(names)}."
        )
    return {name: load_episodes(file) for name, file in zip(names, files, strict=True)}


def _agent(name: str, source: Path) -> Any:
    try:
        return load(source, device="cpu")  # the data are on the CPU too
    except PgdiffError as error:
        raise PgdiffError(f"`{name}`: {error}") from error
