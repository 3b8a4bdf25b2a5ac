"""Results of an evaluation: numbers per episode, their summary, a table and a JSON file."""

import functools
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from pgdiff.core.openmp import COUNT, WAITING
from pgdiff.core.serialization import write_whole
from pgdiff.core.validation import PgdiffError
from pgdiff.evaluation.bootstrap import interval
from pgdiff.evaluation.plain import json_value
from pgdiff.version import __version__

_PACKAGES = ("torch", "numpy", "gymnasium", "mujoco")
_VARIABLES = (COUNT, "MKL_NUM_THREADS", *WAITING)


def machine() -> dict[str, Any]:
    """Return processor, cores, threads, load, accelerator and versions as JSON values.

    The load is the system's average over the last minute, including this process. The variables
    are the OpenMP environment variables that are set.
    """
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "versions": {"pgdiff": __version__} | {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _processor() -> str:
    """Return the processor's name, or its architecture if the system does not report a name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor() or platform.machine()


FORMAT = 1
GOAL_FROM_RESET = "from each reset"
"""Value of the setting `goal` if the agent receives the goal of each reset."""
"""Format of the JSON file. A file without this number has format 0 and is read too."""
_LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The episodes of one agent in one environment.

    Attributes:
        returns: sum of rewards of every episode, shape [episodes].
        normalized_scores: returns normalised by the environment, shape [episodes]; None if the
            environment has no normalisation.
        successes: True if any step of the episode reported `info["is_success"]` (or, if that is
            missing, `info["success"]`), shape [episodes]; None if no step reported either.
        steps_to_goal: number of the first step that reported success, from 1, shape [episodes];
            NaN for an episode without success; None if `successes` is None.
        goals: goal of every reset, from `info["goal"]` or from a Dict observation through the
            agent's layout, shape [episodes, goal]; None if the resets returned no goals.
        lengths: environment steps of every episode, shape [episodes].
        seconds: wall-clock time of the whole evaluation.
        agent_seconds: time spent in the agent's `predict`.
        plans: number of plans that the agent made; None if it does not count them.
        trajectories: observations of the first recorded episodes, each [steps + 1, obs].
        settings: arguments of the evaluation: environment, agent, episodes, seed and so on.
        machine: the machine that the evaluation ran on.
        scores_if_stay: normalised scores that the episodes would have if every step from the first
            touch of the goal to the time limit had the reward of the goal, shape [episodes]; None
            if that is not defined, see `pgdiff.evaluation.scoring`.
        first_touch: number of the first step whose reward was the `touch_reward`, from 1, shape
            [episodes]; NaN if an episode never arrived; None if it is not defined.
        notes: the scores that are missing, with the reasons.

    Example:
        >>> import gymnasium as gym
        >>> from types import SimpleNamespace
        >>> from pgdiff.evaluation import evaluate
        >>> idle = SimpleNamespace(predict=lambda obs, state, **_: (np.zeros(len(obs), int), state))
        >>> make_env = lambda: gym.make("CartPole-v1")
        >>> result = evaluate(idle, make_env, episodes=5, progress=False)
        >>> result.returns.shape, result.summary()["seeds"]
        ((5,), [0, 4])
    """

    returns: Float[np.ndarray, " episodes"]
    normalized_scores: Float[np.ndarray, " episodes"] | None
    successes: Bool[np.ndarray, " episodes"] | None
    steps_to_goal: Float[np.ndarray, " episodes"] | None
    goals: Float[np.ndarray, "episodes goal"] | None
    lengths: Int[np.ndarray, " episodes"]
    seconds: float
    agent_seconds: float
    plans: int | None
    trajectories: list[Float[np.ndarray, "tokens obs"]] = field(repr=False)
    settings: dict[str, Any]
    machine: dict[str, Any]
    scores_if_stay: Float[np.ndarray, " episodes"] | None = None
    first_touch: Float[np.ndarray, " episodes"] | None = None
    notes: tuple[str, ...] = ()

    @property
    def plans_per_second(self) -> float | None:
        """Number of plans per second spent in `predict`; environment steps are not counted."""
        if self.plans is None:
            return None
        return self.plans / max(self.agent_seconds, 1e-9)

    @property
    def milliseconds_per_plan(self) -> float | None:
        """Mean time in `predict` per plan, in milliseconds.

        The plans of many episodes are made as one batch, and the time includes the controller. A
        single plan takes longer.
        """
        if not self.plans:
            return None
        return 1000.0 * self.agent_seconds / self.plans

    @property
    def environment_seeds(self) -> Int[np.ndarray, " episodes"] | None:
        """Seed of every episode's reset, shape [episodes]; None if unknown."""
        first = self.settings.get("seed")
        return None if first is None else int(first) + np.arange(len(self.returns))

    def summary(self) -> dict[str, Any]:
        """Return means, 95 % bootstrap intervals, seeds and speed as JSON values."""
        seeds = self.environment_seeds
        return {
            "episodes": len(self.returns),
            "seeds": None if seeds is None else [int(seeds[0]), int(seeds[-1])],
            "return": _mean_and_interval(self.returns),
            "normalized_score": _mean_and_interval(self.normalized_scores),
            "score_if_stay": _mean_and_interval(self.scores_if_stay),
            "first_touch": _arrivals(self.first_touch),
            "success_rate": _mean_and_interval(self.successes),
            "steps_to_goal": _arrivals(self.steps_to_goal),
            "mean_length": float(self.lengths.mean()),
            "seconds": self.seconds,
            "agent_seconds": self.agent_seconds,
            "plans": self.plans,
            "plans_per_second": self.plans_per_second,
            "milliseconds_per_plan": self.milliseconds_per_plan,
            "notes": list(self.notes),
            "settings": json_value(self.settings),
            "machine": json_value(self.machine),
        }

    def table(self, name: str | None = None) -> str:
        """Return the summary as a text table with one row."""
        row = str(self.settings.get("agent", "agent")) if name is None else name
        return comparison_table({row: self}) + f"\n{self.seeds}"

    @property
    def seeds(self) -> str:
        """Description of the episodes' seeds."""
        first = self.settings.get("seed")
        if first is None:
            return "seeds not stated"
        return f"environment seeds {first} to {first + len(self.returns) - 1}"

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write the summary and the numbers of every episode to a JSON file, atomically."""
        content = {"format": FORMAT} | self.summary()
        content["per_episode"] = {
            "seeds": _listed(self.environment_seeds),
            "returns": self.returns.tolist(),
            "normalized_scores": _listed(self.normalized_scores),
            "scores_if_stay": _listed(self.scores_if_stay),
            "first_touch": _steps(self.first_touch),
            "successes": _listed(self.successes),
            "steps_to_goal": _steps(self.steps_to_goal),
            "goals": _listed(self.goals),
            "lengths": self.lengths.tolist(),
        }
        target = Path(path)
        write_whole(target, json.dumps(content, indent=2, allow_nan=False) + "\n")
        return target


def comparison_table(evaluations: Mapping[str, Evaluation]) -> str:
    """Return a text table with one row per evaluation.

    The columns of the first touch appear only if a task defines a touch of its goal. The last
    lines name the scores that are missing, with the reasons.

    Args:
        evaluations: maps row names to evaluations, in the order of the rows.

    Raises:
        PgdiffError: if `evaluations` is empty.

    Example:
        >>> import gymnasium as gym
        >>> from types import SimpleNamespace
        >>> from pgdiff.evaluation import comparison_table, evaluate
        >>> idle = SimpleNamespace(predict=lambda obs, state, **_: (np.zeros(len(obs), int), state))
        >>> make_env = lambda: gym.make("CartPole-v1")
        >>> result = evaluate(idle, make_env, episodes=5, progress=False)
        >>> print(comparison_table({"idle": result}).splitlines()[0])
        agent  episodes  return [95 %]    score [95 %]  success [95 %]  plans/s
    """
    if not evaluations:
        raise PgdiffError("`evaluations` must hold at least one evaluation. Got none.")
    shown = evaluations.values()
    touched = any(e.first_touch is not None or _untouched(e.notes) for e in shown)
    touch = ["score if stay [95 %]", "first touch [95 %]"] if touched else []
    header = ["agent", "episodes", "return [95 %]", "score [95 %]", *touch]
    header += ["success [95 %]", "plans/s"]
    rows = [header]
    for name, evaluation in evaluations.items():
        summary = evaluation.summary()
        speed = summary["plans_per_second"]
        cells = [name, str(summary["episodes"]), _cell(summary["return"], 1)]
        cells.append(_cell(summary["normalized_score"], 1))
        if touched:
            cells += [_cell(summary["score_if_stay"], 1), _steps_cell(summary["first_touch"])]
        cells += [_cell(summary["success_rate"], 2), "-" if speed is None else f"{speed:.1f}"]
        rows.append(cells)
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)) for r in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines += dict.fromkeys(note for evaluation in shown for note in evaluation.notes)
    return "\n".join(line.rstrip() for line in lines)


def _untouched(notes: Sequence[str]) -> bool:
    """Return True if the notes give a reason for a missing first touch."""
    return any("first touch" in note for note in notes)


def _mean_and_interval(values: np.ndarray | None) -> dict[str, Any] | None:
    if values is None:
        return None
    numbers = values.astype(np.float64)
    return {
        "mean": float(numbers.mean()),
        "interval": list(interval(numbers, level=_LEVEL)),
        "level": _LEVEL,
    }


def _arrivals(steps: np.ndarray | None) -> dict[str, Any] | None:
    """Return mean and interval of the episodes that arrived, and the counts of both kinds."""
    if steps is None:
        return None
    arrived = steps[np.isfinite(steps)]
    result = _mean_and_interval(arrived) if len(arrived) else {"mean": None, "interval": None}
    return {**(result or {}), "episodes": len(arrived), "never": len(steps) - len(arrived)}


def _steps_cell(summary: dict[str, Any] | None) -> str:
    """Return the steps to the goal, and the number of episodes that never arrived, as text."""
    if summary is None or summary["mean"] is None:
        return "-" if summary is None else f"-, {summary['never']} never"
    return f"{_cell(summary, 1)}, {summary['never']} never"


def _cell(summary: dict[str, Any] | None, digits: int) -> str:
    if summary is None:
        return "-"
    low, high = summary["interval"]
    return f"{summary['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _steps(values: np.ndarray | None) -> list[int | None] | None:
    """Return integers, with None for NaN."""
    if values is None:
        return None
    return [None if np.isnan(value) else int(value) for value in values]


def _listed(values: np.ndarray | None) -> list[Any] | None:
    return None if values is None else list(values.tolist())
