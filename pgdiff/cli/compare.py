"""`pgdiff compare`: synthetic data sets against real rows, the simulator and policies."""

import importlib.util
from pathlib import Path
from typing import Any

from pgdiff.agents import load
from pgdiff.cli.environments import make_env
from pgdiff.cli.values import path, paths
from pgdiff.data import Episodes, load_episodes
from pgdiff.evaluation import fidelity
from pgdiff.plotting import fidelity_picture, marginals_picture
from pgdiff.pretrained import load_learner
from pgdiff.validation import PgdiffError
from pgdiff.workflows.files import write_json


def run(settings: dict[str, Any]) -> int:
    """Compare, draw, and print the table."""
    real = load_episodes(path(settings, "real"))
    files = paths(settings, "synthetic")
    data = _by_name(files)
    first = files[0]
    out = path(settings, "out", first.with_name(f"{first.name}.fidelity"))
    policies = {
        name: _agent(name, path(settings, name))
        for name in ("target", "behaviour")
        if settings[name] is not None
    }
    env = None if settings["env"] is None else make_env(settings["env"])
    try:
        found = fidelity(
            real,
            data,
            env=env,
            policies=policies,
            **{
                key: settings[key]
                for key in ("held_out", "positions", "rows", "points", "neighbours", "seed")
            },
        )
    finally:
        if env is not None:
            env.close()
    print(found.table())
    print(f"\nrows are compared by {found.features}")
    content = found.to_dict()
    write_json(out / "fidelity.json", content)
    if importlib.util.find_spec("matplotlib") is None:
        print("no pictures: matplotlib is not installed (pip install 'pgdiff[viz]')")
    else:
        fidelity_picture(content, out / "fidelity.png")
        marginals_picture({"real": real, **data}, out / "marginals.png")
    print(f"comparison: {out}")
    return 0


def _by_name(files: list[Path]) -> dict[str, Episodes]:
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        names = [str(file) for file in files]
    if len(set(names)) < len(names):
        raise PgdiffError("`synthetic` must name each data set once.")
    return {name: load_episodes(file) for name, file in zip(names, files, strict=True)}


def _agent(name: str, source: Path) -> Any:
    agent = load_learner(source) if source.is_dir() else load(source)
    if not hasattr(agent, "log_prob"):
        raise PgdiffError(
            f"`{name}` must have a density of actions, log_prob. Got a {type(agent).__name__}."
        )
    return agent
