"""`pgdiff collect`: a recording of the task's own expert or of agents, and a picture of it."""

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np

from pgdiff.cli.environments import make_env
from pgdiff.cli.mixes import check_choice, record_agents, speed_line
from pgdiff.cli.overrides import parse
from pgdiff.cli.tasks import check_named, task_named
from pgdiff.cli.values import flag, path, swept
from pgdiff.plotting import coverage_picture
from pgdiff.plotting.views import position_of
from pgdiff.validation import PgdiffError, check_positive_int, check_range, check_seed
from pgdiff.workflows.collect import collect


def prepare(words: Sequence[str], *, sweep: bool) -> list[str]:
    """Add the words that say the task, where the user names an environment alone."""
    given = {override.key: override for override in parse(words, sweep=sweep)}
    return [*words, *(task_named(given) or [])]


def run(settings: dict[str, Any]) -> int:
    """Record, draw, and say what was recorded."""
    check_named(settings["task"])
    name = settings["task"]["name"]
    if settings["policy"] is not None:
        name = f"{name}-{settings['mix']['name']}"
    out = path(settings, "out", f"data/{name}{swept(settings, named=('task', 'mix'))}.hdf5")
    if out.exists() and not flag(settings, "overwrite"):
        raise PgdiffError(f"'{out}' exists. overwrite=true replaces it, out=PATH names another.")
    steps = check_positive_int("steps", settings["steps"])
    seed = check_seed("seed", settings["seed"])
    check_range("noise", settings["noise"], low=0.0)
    if settings["task"]["id"] is None:
        raise PgdiffError("`task.id` must be the id of an environment to record in. Got null.")
    env = make_env(settings["task"]["id"])
    try:
        check_choice(settings, env)
        record = _record_own if settings["policy"] is None else record_agents
        for line in record(settings, env, out, steps=steps, seed=seed):
            print(line)
    finally:
        env.close()
    print(f"data: {out}")
    return 0


def _record_own(
    settings: dict[str, Any], env: gymnasium.Env[Any, Any], out: Path, *, steps: int, seed: int
) -> list[str]:
    """Record with the environment's own expert and return what there is to say of it, in lines."""
    make_expert = env.unwrapped.expert  # type: ignore[attr-defined]
    noise = settings["noise"]
    expert = make_expert(seed, noise=noise) if noise else make_expert(seed)
    began = time.perf_counter()
    collect(env, out, steps=steps, seed=seed, expert=expert, overwrite=flag(settings, "overwrite"))
    speed = speed_line(steps, time.perf_counter() - began)
    with h5py.File(out) as file:
        observations, rewards = file["observations"][:], file["rewards"][:]
    return [speed, _reward(env, rewards), _draw(env, observations, out)]


def _reward(env: gymnasium.Env[Any, Any], rewards: np.ndarray) -> str:
    """Say what the recording is worth, in units of the task's episodes."""
    line = f"mean reward {rewards.mean():.4g} a step"
    limit = env.spec.max_episode_steps if env.spec is not None else None
    if limit is None:
        return line
    total = float(rewards.mean()) * limit
    line += f", {total:.1f} in an episode of {limit} steps"
    normalized_score = getattr(env.unwrapped, "normalized_score", None)
    return (
        line if normalized_score is None else f"{line}, score {float(normalized_score(total)):.1f}"
    )


def _draw(env: gymnasium.Env[Any, Any], observations: np.ndarray, out: Path) -> str:
    if importlib.util.find_spec("matplotlib") is None:
        return "no picture: matplotlib is not installed (pip install 'pgdiff-rl[viz]')"
    velocity = (2, 3) if position_of(env) and observations.shape[1] >= 4 else None
    title = str(env.spec.id if env.spec is not None else "Recorded experience")
    picture = coverage_picture(
        observations, out.with_suffix(".png"), env=env, velocity=velocity, title=title
    )
    return f"picture: {picture}"
