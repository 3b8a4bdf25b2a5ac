"""What an evaluation found: numbers per episode, their summary, a table and a JSON file."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from pgdiff.evaluation.bootstrap import interval
from pgdiff.evaluation.machine import machine as machine  # its home before it had its own file
from pgdiff.evaluation.plain import plain
from pgdiff.saving import write_whole
from pgdiff.validation import PgdiffError

FORMAT = 1
"""Of the JSON file. Files from before it was stated are read too."""
_LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The episodes of one agent in one environment.

    Attributes:
        returns: sum of rewards of every episode, shape [episodes].
        normalized_scores: the environment's own normalisation of the returns, shape [episodes], or
            None where the environment has none.
        successes: whether any step of the episode reported `info["is_success"]` (or, where there is
            none, `info["success"]`), shape [episodes], or None where no step reported it at all.
        steps_to_goal: number of the first step that reported success, from 1, shape [episodes];
            NaN where no step did; None as `successes`.
        goals: what every reset told, in `info["goal"]` or in a Dict observation that the agent's
            layout takes it from, shape [episodes, goal], or None where the resets told none.
        lengths: environment steps of every episode, shape [episodes].
        seconds: wall-clock time of the whole evaluation.
        agent_seconds: the part of it that was spent in the agent's `predict`.
        plans: how many plans the agent made, or None where it does not count them.
        trajectories: observations of the first recorded episodes, each [steps + 1, obs].
        settings: what was asked for: environment, agent, episodes, seed and so on.
        machine: what it ran on.
        scores_if_stay: normalised scores that the episodes would have if every step from the first
            touch of the goal to the time limit were paid, shape [episodes]; None where that has no
            meaning, see `pgdiff.evaluation.scoring`.
        first_touch: number of the first step whose reward was the `touch_reward`, from 1, shape
            [episodes]; NaN where an episode never arrived; None as `scores_if_stay`.
        notes: which scores are missing, and why.
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
        """Plans by the seconds spent in `predict`; environment steps do not count."""
        if self.plans is None:
            return None
        return self.plans / max(self.agent_seconds, 1e-9)

    @property
    def milliseconds_per_plan(self) -> float | None:
        """Seconds in `predict` by plans made, times 1000.

        It is a mean over batches: the plans of many episodes are made together, and the driving
        along them is in it. One plan alone takes longer.
        """
        if not self.plans:
            return None
        return 1000.0 * self.agent_seconds / self.plans

    @property
    def environment_seeds(self) -> Int[np.ndarray, " episodes"] | None:
        """Seed of every episode's reset, shape [episodes]; None where it is not known."""
        first = self.settings.get("seed")
        return None if first is None else int(first) + np.arange(len(self.returns))

    def summary(self) -> dict[str, Any]:
        """Return means, 95 % bootstrap intervals over episodes, seeds and speed, ready for JSON."""
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
            "settings": plain(self.settings),
            "machine": plain(self.machine),
        }

    def table(self, name: str | None = None) -> str:
        """Return the summary as a small text table, one row under a line of headings."""
        row = str(self.settings.get("agent", "agent")) if name is None else name
        return comparison_table({row: self}) + f"\n{self.seeds}"

    @property
    def seeds(self) -> str:
        """Which seeds the episodes had, in words."""
        first = self.settings.get("seed")
        if first is None:
            return "seeds not stated"
        return f"environment seeds {first} to {first + len(self.returns) - 1}"

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write the summary and the numbers of every episode; whole or not at all."""
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
    """Return one row per evaluation, under one line of headings.

    The columns of the first touch are left out where no environment has a touch of its goal. The
    last lines say which scores are missing, and why.

    Args:
        evaluations: row name to evaluation; the order is kept.

    Raises:
        PgdiffError: if there is no evaluation to show.
    """
    if not evaluations:
        raise PgdiffError("`evaluations` must hold at least one evaluation. Got none.")
    found = evaluations.values()
    touched = any(e.first_touch is not None or _untouched(e.notes) for e in found)
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
    lines += dict.fromkeys(note for evaluation in found for note in evaluation.notes)
    return "\n".join(line.rstrip() for line in lines)


def _untouched(notes: Sequence[str]) -> bool:
    """Whether the notes say why there is no first touch, which is then an empty column."""
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
    """Mean and interval over the episodes that arrived, how many did, and how many never did."""
    if steps is None:
        return None
    arrived = steps[np.isfinite(steps)]
    found = _mean_and_interval(arrived) if len(arrived) else {"mean": None, "interval": None}
    return {**(found or {}), "episodes": len(arrived), "never": len(steps) - len(arrived)}


def _steps_cell(found: dict[str, Any] | None) -> str:
    """Steps to the goal, and how many episodes never arrived."""
    if found is None or found["mean"] is None:
        return "-" if found is None else f"-, {found['never']} never"
    return f"{_cell(found, 1)}, {found['never']} never"


def _cell(found: dict[str, Any] | None, digits: int) -> str:
    if found is None:
        return "-"
    low, high = found["interval"]
    return f"{found['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _steps(values: np.ndarray | None) -> list[int | None] | None:
    """Whole numbers; None for NaN."""
    if values is None:
        return None
    return [None if np.isnan(value) else int(value) for value in values]


def _listed(values: np.ndarray | None) -> list[Any] | None:
    return None if values is None else list(values.tolist())
