"""`pgdiff collect`: a recording by the environment's expert or by agents, with a picture."""

import hashlib
import importlib.util
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np

from pgdiff.agents.folders import agent_folder
from pgdiff.cli.environments import make_env
from pgdiff.cli.overrides import parse
from pgdiff.cli.settings import flag, path, paths, swept
from pgdiff.cli.tasks import check_named, task_named
from pgdiff.core.serialization import MANIFEST
from pgdiff.core.validation import PgdiffError, check_positive_int, check_range, check_seed
from pgdiff.plotting import coverage_picture, score_picture
from pgdiff.plotting.views import position_of
from pgdiff.workflows.recording.collect import collect
from pgdiff.workflows.recording.collect_mix import Mix, Part, RecordedPart, collect_mix


def check_choice(settings: dict[str, Any], env: gymnasium.Env[Any, Any]) -> None:
    """Raise unless the settings choose one recorder: agents, or the environment's expert."""
    has_expert = hasattr(env.unwrapped, "expert")
    name, policy = settings["task"]["id"], settings["policy"]
    if policy is None:
        if not has_expert:
            raise PgdiffError(
                "`task` must have an environment with an expert that records. "
                f"Got '{name}', which has none. Set policy=FILE to record with an agent."
            )
        mix = settings["mix"].get("name")
        if mix != "expert" or settings["vec_normalize"] is not None:
            given = f"mix={mix}" if mix != "expert" else "vec_normalize"
            raise PgdiffError(f"`policy` must be given with {given}: policy=FILE. Got null.")
    elif has_expert:
        raise PgdiffError(
            f"`policy` must be left out for '{name}', whose environment has an expert that "
            f"records. Got {policy}."
        )
    elif settings["noise"] != 0.0:
        raise PgdiffError(
            f"`noise` must be 0 with `policy`. Got {settings['noise']}. Set the noise of each "
            "agent in mix.parts."
        )


def record_agents(
    settings: dict[str, Any], env: gymnasium.Env[Any, Any], out: Path, *, steps: int, seed: int
) -> list[str]:
    """Record with the agents of the settings and return the lines of a report."""
    mix = _mix(settings["mix"])
    files = paths(settings, "policy")
    agents = _agents(settings, files)
    began = time.perf_counter()
    recorded = collect_mix(
        env,
        out,
        agents=agents,
        mix=mix,
        steps=steps,
        seed=seed,
        names=[f"{file.name} sha256:{_fingerprint(file)}" for file in files],
        overwrite=flag(settings, "overwrite"),
    )
    speed = speed_line(steps, time.perf_counter() - began)
    return [speed, *_report([files[part.agent].name for part in recorded], recorded, env, out)]


def speed_line(steps: int, seconds: float) -> str:
    """Return a line with the duration and the speed of a recording."""
    return f"{steps} steps in {seconds:.1f} s, {steps / seconds:.0f} steps/s"


def _report(
    names: Sequence[str],
    recorded: Sequence[RecordedPart],
    env: gymnasium.Env[Any, Any],
    out: Path,
) -> list[str]:
    """Return the lines of a table of the parts, and the path of their picture."""
    normalized_score = getattr(env.unwrapped, "normalized_score", None)
    scores = [part.returns for part in recorded]
    if normalized_score is not None:
        scores = [normalized_score(returns) for returns in scores]
    unit = "return" if normalized_score is None else "score"
    width = max(len("part"), *map(len, names))
    lines = [f"{'part':{width}}  noise       rows  episodes  mean return  score"]
    for name, part, score in zip(names, recorded, scores, strict=True):
        mean = f"{part.returns.mean():.1f}" if len(score) else "-"
        mean_score = f"{score.mean():.1f}" if len(score) and unit == "score" else "-"
        lines.append(
            f"{name:{width}}  {part.noise:5.2f}  {part.rows:9,}  {len(score):8,}  "
            f"{mean:>11}  {mean_score:>5}"
        )
    return [*lines, _picture(scores, out, unit=unit)]


def _mix(settings: Any) -> Mix:
    known = {field.name for field in fields(Part)}
    parts = settings.get("parts")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise PgdiffError(f"`mix.parts` must be a list of parts. Got {parts!r}.")
    checked = []
    for number, part in enumerate(parts):
        where = f"mix.parts[{number}]"
        if unknown := sorted(set(map(str, part)) - known):
            raise PgdiffError(f"`{where}` must have keys among {sorted(known)}. Got {unknown}.")
        try:
            checked.append(Part(**part))
        except PgdiffError as error:
            raise PgdiffError(f"`{where}`: {error}") from error
    return Mix(name=str(settings.get("name")), parts=checked)


def _agents(settings: dict[str, Any], files: Sequence[Path]) -> list[Any]:
    from pgdiff.agents import load

    statistics: list[Path | None] = [None] * len(files)
    if settings["vec_normalize"] is not None:
        statistics = [*paths(settings, "vec_normalize")]
        if len(statistics) != len(files):
            raise PgdiffError(
                f"`vec_normalize` must name one file for each of {len(files)} files of `policy`. "
                f"Got {len(statistics)}."
            )
    for file in files:
        if not file.exists():
            raise PgdiffError(
                f"`policy` must be the file or the folder of an agent. '{file}' does not exist."
            )
    # Single observations are fastest on the CPU.
    return [
        load(file, vec_normalize=moments, device="cpu")
        for file, moments in zip(files, statistics, strict=True)
    ]


def _fingerprint(agent: Path) -> str:
    """Return the SHA-256 of an agent's file, or of its folder's manifest with the files' sums."""
    file = agent_folder(agent) / MANIFEST if agent.is_dir() else agent
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _picture(scores: Sequence[np.ndarray], out: Path, *, unit: str) -> str:
    """Draw a histogram of the episodes' scores with the mean of every part; return a line."""
    if importlib.util.find_spec("matplotlib") is None:
        return "no picture: matplotlib is not installed (pip install 'pgdiff-rl[viz]')"
    means = {
        f"part {number}": float(values.mean())
        for number, values in enumerate(scores, start=1)
        if len(values)
    }
    if not means:
        return "no picture: no episode is complete"
    references = means if len(scores) > 1 else None
    all_scores = np.concatenate(scores)
    file = score_picture(
        all_scores,
        out.with_suffix(".png"),
        references=references,
        unit=unit,
        title=f"{out.stem}: {len(all_scores)} complete episodes",
    )
    return f"picture: {file}"


def prepare(words: Sequence[str], *, sweep: bool) -> list[str]:
    """Add the words that choose the task, if the user names an environment alone."""
    given = {override.key: override for override in parse(words, sweep=sweep)}
    return [*words, *(task_named(given) or [])]


def run(settings: dict[str, Any]) -> int:
    """Record, draw a picture, and print a report."""
    check_named(settings["task"])
    name = settings["task"]["name"]
    if settings["policy"] is not None:
        name = f"{name}-{settings['mix']['name']}"
    out = path(settings, "out", f"data/{name}{swept(settings, named=('task', 'mix'))}.hdf5")
    if out.exists() and not flag(settings, "overwrite"):
        raise PgdiffError(
            f"'{out}' exists already. Set overwrite=true to replace it, or out=PATH to write "
            "another file."
        )
    steps = check_positive_int("steps", settings["steps"])
    seed = check_seed("seed", settings["seed"])
    check_range("noise", settings["noise"], low=0.0)
    if settings["task"]["id"] is None:
        raise PgdiffError("`task.id` must be the id of an environment to record in. Got null.")
    env = make_env(settings["task"]["id"])
    try:
        check_choice(settings, env)
        record = _record_expert if settings["policy"] is None else record_agents
        for line in record(settings, env, out, steps=steps, seed=seed):
            print(line)
    finally:
        env.close()
    print(f"data: {out}")
    return 0


def _record_expert(
    settings: dict[str, Any], env: gymnasium.Env[Any, Any], out: Path, *, steps: int, seed: int
) -> list[str]:
    """Record with the environment's expert and return the lines of a report."""
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
    """Return a line with the mean reward, also per episode, and the score of an episode."""
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
