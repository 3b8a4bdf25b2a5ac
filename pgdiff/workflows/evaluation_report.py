"""Pictures of an evaluation."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from pgdiff.core.registry import registered
from pgdiff.core.validation import PgdiffError
from pgdiff.data import load_episodes
from pgdiff.evaluation import Evaluation, interval
from pgdiff.evaluation.rollouts import flat_observation
from pgdiff.planning import Planner
from pgdiff.plotting import (
    ShownEpisode,
    episode_gif,
    failures_picture,
    score_picture,
    value_picture,
    worst,
)
from pgdiff.runs.run import RunInfo
from pgdiff.workflows.plan_recorder import PlanRecorder
from pgdiff.workflows.rendering import can_render, rendered_gif

_NO_RECORDING = "The recording of the run was not found:\nunvisited positions are shown too."


def episode_gifs(
    result: Evaluation,
    recorder: PlanRecorder,
    env: gymnasium.Env[Any, Any],
    out: Path,
    *,
    count: int,
) -> None:
    """Write animations of the first episodes: episode.gif, episode_1.gif, ..."""
    for number, trajectory in enumerate(result.trajectories[:count]):
        env.reset(seed=_seed(result, number))  # draws the episode's goal if goals are random
        name = "episode.gif" if number == 0 else f"episode_{number}.gif"
        plans = recorder.plans(number, steps=len(trajectory) - 1)
        episode_gif(trajectory, out / name, env=env, plans=plans)


def rendered_gifs(
    result: Evaluation,
    recorder: PlanRecorder,
    env: gymnasium.Env[Any, Any],
    make_env: Callable[[], gymnasium.Env[Any, Any]],
    out: Path,
    *,
    count: int,
) -> str | None:
    """Render the first episodes with their environment: rendered.gif, rendered_1.gif, ...

    An environment that draws itself is left out; `episode_gifs` shows it with its plans.

    Args:
        result: the evaluation.
        recorder: recorder with the actions of the episodes.
        env: an environment of the evaluation.
        make_env: makes an environment with `render_mode="rgb_array"`.
        out: the output folder.
        count: number of episodes.

    Returns:
        The reason if rendering failed, else None.
    """
    if hasattr(env.unwrapped, "draw") or not can_render(env):
        return None
    for number, trajectory in enumerate(result.trajectories[:count]):
        name = "rendered.gif" if number == 0 else f"rendered_{number}.gif"
        try:
            rendered_gif(
                make_env,
                out / name,
                seed=_seed(result, number),
                actions=recorder.actions(number, steps=len(trajectory) - 1),
                trajectory=trajectory,
                flat=flat_observation(recorder, env),
            )
        except PgdiffError as error:
            return str(error)
    return None


def score_histogram(
    result: Evaluation, out: Path, *, references: Mapping[str, float] | None = None
) -> Path:
    """Write histogram.png: scores, or returns if there are no scores, with the references."""
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
    result: Evaluation,
    recorder: PlanRecorder,
    env: gymnasium.Env[Any, Any],
    out: Path,
    *,
    count: int,
) -> Path:
    """Write failures.png: the worst episodes. All episodes must have been recorded."""
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
            plans=recorder.followed(number, steps=int(result.lengths[number])),
        )
        for number in numbers
    ]
    unit = "return" if result.normalized_scores is None else "score"
    title = f"{result.settings.get('env')}: the {len(shown)} worst of {len(scores)} episodes"
    stride = recorder.stride
    return failures_picture(
        shown, out / "failures.png", env=env, stride=stride, unit=unit, title=title
    )


def value_map(
    run: RunInfo, planner: Planner, env: gymnasium.Env[Any, Any], out: Path, *, seed: int
) -> Path | None:
    """Write value_map.png: a value of the run for states at rest; None without such a value.

    The value comes from the planner's guides, or else from the run's stages: the first value of
    single observations. A value that depends on a goal is drawn for the goal of the episode with
    `seed`. Positions that the run's recording has not visited are grey; a note is added if the
    recording cannot be read. An environment that does not draw itself has no extent, so no map is
    written.
    """
    name, learner = _find_value(run, planner)
    if learner is None or not hasattr(env.unwrapped, "draw"):
        return None
    _, info = env.reset(seed=seed)
    arguments: list[Any] = []
    if "goal" in inspect.signature(learner.value).parameters:
        if info.get("goal") is None:
            return None
        arguments.append(torch.as_tensor(np.asarray(info["goal"], dtype=np.float32)))
    visited = _recorded_observations(run)
    return value_picture(
        _on_arrays(learner, arguments),
        out / "value_map.png",
        observation=[0.0] * planner.observation_shape[0],
        env=env,
        visited=visited,
        goal=info.get("goal"),
        label=f"{name} of a state at rest",
        title=str(env.spec.id if env.spec is not None else ""),
        note="" if visited is not None else _NO_RECORDING,
    )


def _recorded_observations(run: RunInfo) -> np.ndarray | None:
    """Return the observations that the run was trained on; None if they cannot be read."""
    try:
        # Episode ends are not needed, so a recording without them is accepted.
        observations: np.ndarray = load_episodes(
            run.data["path"], join_continuous=True
        ).observations
    except (PgdiffError, KeyError, OSError):
        return None
    return observations if len(observations) == run.data.get("steps") else None


def _on_arrays(learner: Any, arguments: list[Any]) -> Callable[[np.ndarray], np.ndarray]:
    @torch.no_grad()
    def value(observations: np.ndarray) -> np.ndarray:
        batch = torch.as_tensor(observations, device=learner.device)
        rest = [argument.to(learner.device) for argument in arguments]
        values: np.ndarray = learner.value(batch, *rest).cpu().numpy()
        return values

    return value


def _find_value(run: RunInfo, planner: Planner) -> tuple[str, Any]:
    """Return name and learner of the first value of single observations; ("", None) without one."""
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
