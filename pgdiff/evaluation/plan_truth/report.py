"""Results of a plan truth measurement: numbers of every plan, a table and a JSON file."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from pgdiff.core.serialization import write_whole
from pgdiff.evaluation.aggregates import Estimate
from pgdiff.evaluation.intervals import estimate_mean, estimate_median
from pgdiff.evaluation.plan_truth.value import ValueTruth

FORMAT = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class TruthRow:
    """The plans of one kind and their measures; None for a measure that is not available.

    Attributes:
        waypoints: way-points of the plans, `[plans, tokens, obs]`.
        driven: `[plans, tokens, obs]`, observations at the times of the way-points when each plan
            is followed open loop.
        cuts: `[plans, legs]`, True if a leg cuts a wall.
        through: `[plans, legs]`, True if a leg has a point inside a wall.
        in_wall: `[plans, legs]`, True if the way-point at a leg's end lies inside a wall.
        leg_misses: `[plans, legs]`, distance between a leg's end and its way-point when the
            simulator is set to the previous way-point.
        misses: `[plans, legs]`, distance between each way-point and the driven path.
        promised: `[plans]`, sum of rewards along the straight legs.
        achieved: `[plans]`, sum of rewards along the driven path.
        value_gaps: `[plans]`, value of the last way-point minus value of the driven path's end.
        nats: log-density of the first plans given their start, in nats per free feature.
    """

    waypoints: Float[np.ndarray, "plans tokens obs"]
    driven: Float[np.ndarray, "plans tokens obs"] | None = None
    cuts: Bool[np.ndarray, "plans legs"] | None = None
    through: Bool[np.ndarray, "plans legs"] | None = None
    in_wall: Bool[np.ndarray, "plans legs"] | None = None
    leg_misses: Float[np.ndarray, "plans legs"] | None = None
    misses: Float[np.ndarray, "plans legs"] | None = None
    promised: Float[np.ndarray, " plans"] | None = None
    achieved: Float[np.ndarray, " plans"] | None = None
    value_gaps: Float[np.ndarray, " plans"] | None = None
    nats: Float[np.ndarray, " likelihoods"] | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Thresholds of the shares.

    Attributes:
        clearance: clearance at or below which a point of a leg counts as inside a wall: the 0.1 %
            quantile of the recording's rows. None if the environment has no clearance.
        miss: greatest miss of a feasible leg: the 99 % quantile of the recorded legs. None if no
            plan was driven.
        near: greatest miss of the last way-point at which a plan counts as arrived.
        unit: unit of misses, in words.
        nats: median and 1 % quantile of the unguided plans' nats per feature. None if the
            likelihood was not measured.
    """

    clearance: float | None
    miss: float | None
    near: float
    unit: str
    nats: tuple[float, float] | None


Measured = Callable[[TruthRow, Limits], Estimate | None]


@dataclass(frozen=True)
class Column:
    """One figure of a row.

    Attributes:
        name: name in the file.
        label: label in the table.
        measure: returns the figure with its interval; None if it is not available.
    """

    name: str
    label: str
    measure: Measured


def middle(legs: int) -> int:
    """Return the number of the middle way-point of a plan, from 1."""
    return (legs + 1) // 2


def _share(values: np.ndarray | None) -> Estimate | None:
    """Return the mean of one number per plan."""
    if values is None:
        return None
    return estimate_mean(np.asarray(values, np.float64))


def _median(values: np.ndarray | None) -> Estimate | None:
    return None if values is None else estimate_median(np.asarray(values, np.float64))


def _cut(row: TruthRow, legs: int | None) -> Estimate | None:
    return None if row.cuts is None else _share(row.cuts[:, :legs].max(axis=1))


def _missed(row: TruthRow, waypoint: int | None) -> Estimate | None:
    """Return the median miss of a way-point, counted from 1; None for the middle way-point."""
    if row.misses is None:
        return None
    number = middle(row.misses.shape[1]) if waypoint is None else waypoint
    return _median(row.misses[:, number - 1 if number > 0 else number])


def _gap(row: TruthRow, of: Callable[[np.ndarray], np.ndarray]) -> Estimate | None:
    if row.promised is None or row.achieved is None:
        return None
    return _share(of(row.promised - row.achieved))


def infeasible(row: TruthRow, limits: Limits) -> Bool[np.ndarray, "plans legs"] | None:
    """Return True for each leg that is infeasible."""
    if row.leg_misses is None or limits.miss is None:
        return None
    return row.leg_misses > limits.miss


def _infeasible(row: TruthRow, limits: Limits) -> Estimate | None:
    legs = infeasible(row, limits)
    return None if legs is None else _share(legs.mean(axis=1))


def _near(row: TruthRow, limits: Limits) -> Estimate | None:
    return None if row.misses is None else _share(row.misses[:, -1] <= limits.near)


def _likely(row: TruthRow, limits: Limits) -> Estimate | None:
    if row.nats is None or limits.nats is None:
        return None
    return _median(row.nats - limits.nats[0])


def _unlikely(row: TruthRow, limits: Limits) -> Estimate | None:
    if row.nats is None or limits.nats is None:
        return None
    return _share(row.nats < limits.nats[1])


COLUMNS = (
    Column("cut_first", "cuts a wall in leg 1 (share of plans)", lambda row, _: _cut(row, 1)),
    Column("cut_three", "cuts a wall in legs 1 to 3", lambda row, _: _cut(row, 3)),
    Column("cut_all", "cuts a wall in any leg", lambda row, _: _cut(row, None)),
    Column(
        "through",
        "goes through a wall in any leg",
        lambda row, _: _share(None if row.through is None else row.through.max(axis=1)),
    ),
    Column(
        "in_wall",
        "way-points inside a wall (share)",
        lambda row, _: _share(None if row.in_wall is None else row.in_wall.mean(axis=1)),
    ),
    Column("infeasible", "infeasible legs (share)", _infeasible),
    Column("miss_first", "miss of way-point 1 (median)", lambda row, _: _missed(row, 1)),
    Column("miss_middle", "miss of the middle way-point", lambda row, _: _missed(row, None)),
    Column("miss_last", "miss of the last way-point", lambda row, _: _missed(row, -1)),
    Column("ends_near", "ends near its last way-point (share)", _near),
    Column("promised", "promised reward (mean)", lambda row, _: _share(row.promised)),
    Column("achieved", "achieved reward (mean)", lambda row, _: _share(row.achieved)),
    Column("gap", "promised minus achieved (mean)", lambda row, _: _gap(row, np.asarray)),
    Column("error", "|promised minus achieved| (mean)", lambda row, _: _gap(row, np.abs)),
    Column(
        "achieving",
        "achieves a reward (share of plans)",
        lambda row, _: _share(None if row.achieved is None else row.achieved > 0),
    ),
    Column(
        "value_gap",
        "value of the planned minus the driven end",
        lambda row, _: _share(row.value_gaps),
    ),
    Column("nats", "nats per feature minus the unguided median", _likely),
    Column("unlikely", "below the unguided 1 % quantile (share)", _unlikely),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class PlanTruth:
    """Recorded segments, unguided plans and guided plans from the same starts.

    Attributes:
        rows: "recorded", "unguided" and, for a planner with guides, "guided".
        limits: thresholds of the shares.
        value: rank correlation of the guide's value; None if it is not available.
        empty: reasons for missing figures, by name of the figure.
        goals: goals of the starts, `[plans, goal]`, or None.
        seconds: wall-clock time.
        settings: starts, seed, environment and so on.
        machine: the machine that the measurement ran on.
    """

    rows: Mapping[str, TruthRow]
    limits: Limits
    value: ValueTruth | None
    empty: Mapping[str, str]
    goals: Float[np.ndarray, "plans goal"] | None
    seconds: float
    settings: dict[str, Any]
    machine: dict[str, Any]

    def figures(self, row: str) -> dict[str, Estimate | None]:
        """Return every figure of a row, by column name."""
        return {column.name: column.measure(self.rows[row], self.limits) for column in COLUMNS}

    def table(self) -> str:
        """Return a text table with a line for each figure and a column for each kind of plan."""
        figures = {name: self.figures(name) for name in self.rows}
        width = max(len(column.label) for column in COLUMNS)
        lines = [" " * width + "".join(f"  {name:>22}" for name in figures)]
        for column in COLUMNS:
            cells = "".join(f"  {_text(row[column.name]):>22}" for row in figures.values())
            lines.append(f"{column.label:<{width}}{cells}")
        if self.value is not None:
            name = self.value.name
            lines += [
                f"rank correlation of '{name}' with the shortest path to the goal: "
                f"{_text(self.value.recorded)} over recorded states, "
                f"{_text(self.value.at_rest)} at rest",
            ]
        lines.append(f"{self.settings['starts']} starts; {self.limits_in_words}; 95 % intervals")
        lines += [f"empty: {figure}: {reason}" for figure, reason in self.empty.items()]
        return "\n".join(lines)

    @property
    def limits_in_words(self) -> str:
        """Description of the thresholds of the shares."""
        limits = self.limits
        words = [f"misses in {limits.unit}"]
        if limits.clearance is not None:
            words.append(f"a wall is a clearance of {limits.clearance:.3f}")
        if limits.miss is not None:
            words.append(f"a leg is feasible up to a miss of {limits.miss:.3f}")
        return ", ".join([*words, f"near is {limits.near:g}"])

    def to_dict(self) -> dict[str, Any]:
        """Return figures, figures by leg, and figures of every plan as JSON values."""
        rows = {}
        for name, row in self.rows.items():
            figures = {key: _plain(figure) for key, figure in self.figures(name).items()}
            rows[name] = {**figures, "by_leg": self._by_leg(row), "per_plan": self._per_plan(row)}
        value = self.value
        return {
            "format": FORMAT,
            "rows": rows,
            "value": None
            if value is None
            else {
                "name": value.name,
                "recorded": _plain(value.recorded),
                "at_rest": _plain(value.at_rest),
                "states": value.states,
            },
            "limits": asdict(self.limits),
            "empty": dict(self.empty),
            "seconds": self.seconds,
            "settings": dict(self.settings),
            "machine": dict(self.machine),
        }

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dict` to a JSON file, atomically."""
        return write_whole(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    def _by_leg(self, row: TruthRow) -> dict[str, list[float] | None]:
        """Return shares and medians of every leg or way-point."""
        undrivable = infeasible(row, self.limits)
        return {
            "cut": _listed(row.cuts, lambda cuts: cuts.mean(axis=0)),
            "cut_up_to": _listed(
                row.cuts, lambda cuts: np.logical_or.accumulate(cuts, axis=1).mean(axis=0)
            ),
            "infeasible": _listed(undrivable, lambda legs: legs.mean(axis=0)),
            "leg_miss": _listed(row.leg_misses, lambda misses: np.median(misses, axis=0)),
            "miss": _listed(row.misses, lambda misses: np.median(misses, axis=0)),
        }

    def _per_plan(self, row: TruthRow) -> dict[str, list[float] | None]:
        """Return numbers of every plan, for paired comparisons of two planners."""
        undrivable = infeasible(row, self.limits)
        middle_of = None if row.misses is None else middle(row.misses.shape[1]) - 1
        return {
            "first_cut": _listed(row.cuts, _first_cut),
            "infeasible": _listed(undrivable, lambda legs: legs.mean(axis=1)),
            "miss_first": _listed(row.misses, lambda misses: misses[:, 0]),
            "miss_middle": _listed(row.misses, lambda misses: misses[:, middle_of]),
            "miss_last": _listed(row.misses, lambda misses: misses[:, -1]),
            "promised": _listed(row.promised),
            "achieved": _listed(row.achieved),
            "nats": _listed(row.nats),
        }


def _first_cut(cuts: Bool[np.ndarray, "plans legs"]) -> np.ndarray:
    """Return the number of the first leg that cuts a wall, from 1; 0 if no leg does."""
    return np.where(cuts.any(axis=1), cuts.argmax(axis=1) + 1, 0)


def _listed(
    values: np.ndarray | None, of: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> list[float] | None:
    return None if values is None else [float(f"{value:.6g}") for value in of(values)]


def _plain(estimate: Estimate | None) -> dict[str, float] | None:
    if estimate is None or not np.isfinite(estimate.value):
        return None
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _text(estimate: Estimate | None) -> str:
    return "-" if estimate is None else estimate.text(digits=3)
