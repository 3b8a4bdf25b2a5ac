"""The pictures of an evaluation."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from pgdiff.evaluation import Evaluation, interval
from pgdiff.planning import Planner
from pgdiff.planning.from_run import RunInfo
from pgdiff.plotting import (
    ShownEpisode,
    episode_gif,
    failures_picture,
    score_picture,
    value_picture,
    worst,
)
from pgdiff.registry import registered
from pgdiff.workflows.watch import Watched


def episode_gifs(
    result: Evaluation, watched: Watched, env: gymnasium.Env[Any, Any], out: Path, *, count: int
) -> None:
    """Write the first episodes as they were acted out: episode.gif, episode_1.gif, ..."""
    for number, trajectory in enumerate(result.trajectories[:count]):
        env.reset(seed=_seed(result, number))  # draws the goal of that episode, where it is random
        name = "episode.gif" if number == 0 else f"episode_{number}.gif"
        plans = watched.plans(number, steps=len(trajectory) - 1)
        episode_gif(trajectory, out / name, env=env, plans=plans)


def score_histogram(
    result: Evaluation, out: Path, *, references: Mapping[str, float] | None = None
) -> Path:
    """Write histogram.png: scores, or returns where there are none, against the references."""
    scored = result.normalized_scores is not None
    scores = _scores(result)
    return score_picture(
        scores,
        out / "histogram.png",
        interval=interval(scores),
        references=references,
        unit="normalised score" if scored else "return",
        title=f"{result.settings.get('env')}: {len(scores)} episodes",
    )


def failures_gallery(
    result: Evaluation, watched: Watched, env: gymnasium.Env[Any, Any], out: Path, *, count: int
) -> Path:
    """Write failures.png: the worst episodes, of which all must have been recorded."""
    scores = _scores(result)
    numbers = worst(scores, count, steps_to_goal=result.steps_to_goal)
    shown = [
        ShownEpisode(
            trajectory=result.trajectories[number],
            seed=_seed(result, number),
            score=float(scores[number]),
            steps_to_goal=None
            if result.steps_to_goal is None
            else float(result.steps_to_goal[number]),
            plans=watched.followed(number, steps=int(result.lengths[number])),
        )
        for number in numbers
    ]
    unit = "return" if result.normalized_scores is None else "score"
    title = f"{result.settings.get('env')}: the {len(shown)} worst of {len(scores)} episodes"
    return failures_picture(shown, out / "failures.png", env=env, unit=unit, title=title)


def value_map(
    run: RunInfo, planner: Planner, env: gymnasium.Env[Any, Any], out: Path, *, seed: int
) -> Path | None:
    """Write value_map.png: the run's value at rest; None where it has none to draw.

    That is the planner's own, where its value is of single observations, else the first such among
    the run's stages. A value of a goal is drawn for the goal of the episode with that seed. Where
    the environment does not draw itself there is no extent, and so no map.
    """
    name, learner = _value(run, planner)
    if learner is None or not hasattr(env.unwrapped, "draw"):
        return None
    _, info = env.reset(seed=seed)
    arguments: list[Any] = []
    if "goal" in inspect.signature(learner.value).parameters:
        if info.get("goal") is None:
            return None
        arguments.append(torch.as_tensor(np.asarray(info["goal"], dtype=np.float32)))
    return value_picture(
        _on_arrays(learner, arguments),
        out / "value_map.png",
        observation=[0.0] * planner.observation_shape[0],
        env=env,
        goal=info.get("goal"),
        label=f"{name} of a state at rest",
        title=str(env.spec.id if env.spec is not None else ""),
    )


def _on_arrays(learner: Any, arguments: list[Any]) -> Callable[[np.ndarray], np.ndarray]:
    @torch.no_grad()
    def value(observations: np.ndarray) -> np.ndarray:
        batch = torch.as_tensor(observations, device=learner.device)
        rest = [argument.to(learner.device) for argument in arguments]
        found: np.ndarray = learner.value(batch, *rest).cpu().numpy()
        return found

    return value


def _value(run: RunInfo, planner: Planner) -> tuple[str, Any]:
    """Name and network of a value of single observations, or None."""
    for guide in planner.guides:
        if hasattr(getattr(guide, "value", None), "value"):
            return guide.name, guide.value  # type: ignore[attr-defined]
    learners = registered("learner")
    for stage in run.stages:
        if stage.finished and hasattr(learners.get(stage.learner), "value"):
            return stage.name, run.load(stage.name, device=planner.model.device)
    return "", None


def _scores(result: Evaluation) -> np.ndarray:
    scores = result.normalized_scores
    return result.returns if scores is None else scores


def _seed(result: Evaluation, number: int) -> int:
    seeds = result.environment_seeds
    assert seeds is not None  # `evaluate` always states it
    return int(seeds[number])
