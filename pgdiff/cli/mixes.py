"""Agents as recorders, for `pgdiff collect`: reading them and their mix, and what was recorded."""

import hashlib
import importlib.util
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from pgdiff.agents.folders import agent_folder
from pgdiff.cli.values import flag, paths
from pgdiff.plotting import score_picture
from pgdiff.saving import MANIFEST
from pgdiff.validation import PgdiffError
from pgdiff.workflows.mixes import Mix, Part, RecordedPart, collect_mix


def check_choice(settings: dict[str, Any], env: gymnasium.Env[Any, Any]) -> None:
    """Raise an error unless the settings name one recorder: agents, or the environment's own."""
    own = hasattr(env.unwrapped, "expert")
    name, policy = settings["task"]["id"], settings["policy"]
    if policy is None:
        if not own:
            raise PgdiffError(
                "`task` must be one whose environment has a recording expert of its own. "
                f"Got '{name}', which has none: pass policy=FILE, an agent to record with."
            )
        mix = settings["mix"].get("name")
        if mix != "expert" or settings["vec_normalize"] is not None:
            given = f"mix={mix}" if mix != "expert" else "vec_normalize"
            raise PgdiffError(f"`policy` must be given with {given}: policy=FILE. Got null.")
    elif own:
        raise PgdiffError(
            f"`policy` must be left out for a task that has a recorder of its own, '{name}'. "
            f"Got {policy}."
        )
    elif settings["noise"] != 0.0:
        raise PgdiffError(
            "`noise` is that of a task's own recorder; agents have theirs in mix.parts. "
            f"Got {settings['noise']}."
        )


def record_agents(
    settings: dict[str, Any], env: gymnasium.Env[Any, Any], out: Path, *, steps: int, seed: int
) -> list[str]:
    """Record with the agents of the settings and return what there is to say of it, in lines."""
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
    """Say how long a recording took."""
    return f"{steps} steps in {seconds:.1f} s, {steps / seconds:.0f} steps/s"


def _report(
    names: Sequence[str],
    recorded: Sequence[RecordedPart],
    env: gymnasium.Env[Any, Any],
    out: Path,
) -> list[str]:
    """A table of the parts, and where their picture is."""
    normalized_score = getattr(env.unwrapped, "normalized_score", None)
    scores = [part.returns for part in recorded]
    if normalized_score is not None:
        scores = [normalized_score(returns) for returns in scores]
    unit = "return" if normalized_score is None else "score"
    width = max(len("part"), *map(len, names))
    lines = [f"{'part':{width}}  noise       rows  episodes  mean return  score"]
    for name, part, score in zip(names, recorded, scores, strict=True):
        mean = f"{part.returns.mean():.1f}" if len(score) else "-"
        worth = f"{score.mean():.1f}" if len(score) and unit == "score" else "-"
        lines.append(
            f"{name:{width}}  {part.noise:5.2f}  {part.rows:9,}  {len(score):8,}  "
            f"{mean:>11}  {worth:>5}"
        )
    return [*lines, _picture(scores, out, unit=unit)]


def _mix(settings: Any) -> Mix:
    known = {field.name for field in fields(Part)}
    parts = settings.get("parts")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise PgdiffError(f"`mix.parts` must be a list of parts. Got {parts!r}.")
    read = []
    for number, part in enumerate(parts):
        where = f"mix.parts[{number}]"
        if unknown := sorted(set(map(str, part)) - known):
            raise PgdiffError(f"`{where}` may have {sorted(known)}. Got {unknown}.")
        try:
            read.append(Part(**part))
        except PgdiffError as error:
            raise PgdiffError(f"`{where}`: {error}") from error
    return Mix(name=str(settings.get("name")), parts=read)


def _agents(settings: dict[str, Any], files: Sequence[Path]) -> list[Any]:
    from pgdiff.agents import load

    statistics: list[Path | None] = [None] * len(files)
    if settings["vec_normalize"] is not None:
        statistics = [*paths(settings, "vec_normalize")]
        if len(statistics) != len(files):
            raise PgdiffError(
                f"`vec_normalize` must be as many files as `policy`, {len(files)}. "
                f"Got {len(statistics)}."
            )
    for file in files:
        if not file.exists():
            raise PgdiffError(
                f"`policy` must be the file or the folder of an agent. '{file}' is none."
            )
    # One observation at a time is quickest on the CPU.
    return [
        load(file, vec_normalize=own, device="cpu")
        for file, own in zip(files, statistics, strict=True)
    ]


def _fingerprint(agent: Path) -> str:
    """SHA-256 of an agent's file, or of the manifest of its folder, which has the files' sums."""
    file = agent_folder(agent) / MANIFEST if agent.is_dir() else agent
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _picture(scores: Sequence[np.ndarray], out: Path, *, unit: str) -> str:
    """Draw a histogram of the episodes' scores, with the mean of every part."""
    if importlib.util.find_spec("matplotlib") is None:
        return "no picture: matplotlib is not installed (pip install 'pgdiff-rl[viz]')"
    means = {
        f"part {number}": float(values.mean())
        for number, values in enumerate(scores, start=1)
        if len(values)
    }
    if not means:
        return "no picture: no episode is whole"
    references = means if len(scores) > 1 else None
    together = np.concatenate(scores)
    file = score_picture(
        together,
        out.with_suffix(".png"),
        references=references,
        unit=unit,
        title=f"{out.stem}: {len(together)} whole episodes",
    )
    return f"picture: {file}"
