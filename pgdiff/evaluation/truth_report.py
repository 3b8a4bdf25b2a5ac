"""What a measurement of plan truth found: numbers of every plan, a table and a JSON file."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from pgdiff.evaluation.aggregates import Estimate
from pgdiff.evaluation.intervals import mean_of, median_of
from pgdiff.evaluation.value_truth import ValueTruth
from pgdiff.saving import write_whole

FORMAT = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class TruthRow:
    """The plans of one kind; what could not be measured is None.

    Attributes:
        waypoints: `[plans, tokens, obs]`.
        driven: `[plans, tokens, obs]`, where each plan leads when it is followed open loop, at the
            times of its way-points.
        cuts: `[plans, legs]`, whether a leg cuts a wall.
        through: `[plans, legs]`, whether a leg has a point inside a wall.
        in_wall: `[plans, legs]`, whether the way-point at a leg's end lies inside a wall.
        leg_misses: `[plans, legs]`, how far each leg ends from its way-point when the simulator is
            set to the way-point before.
        misses: `[plans, legs]`, how far each way-point is missed open loop.
        promised: `[plans]`, sum of rewards along the straight legs.
        achieved: `[plans]`, sum of rewards along the driven way.
        value_gaps: `[plans]`, value of the last way-point less that of the place where the driven
            way ends.
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
    """What shares are counted by.

    Attributes:
        clearance: at which a point of a leg counts as in a wall: the quantile of 0.1 % of the
            recording's rows. None where the environment has no clearance.
        miss: up to which a leg counts as feasible: the quantile of 99 % of the recorded legs. None
            where nothing was driven.
        near: miss of the last way-point up to which a plan counts as arrived.
        unit: of misses, in words.
        nats: median, and quantile of 1 %, of the unguided plans' nats per feature. None where no
            likelihood was taken.
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
        name: in the file.
        label: in the table.
        measure: the figure with its interval; None where it could not be measured.
    """

    name: str
    label: str
    measure: Measured


def middle(legs: int) -> int:
    """Return the number of the way-point in the middle of a plan, from 1."""
    return (legs + 1) // 2


def _share(values: np.ndarray | None) -> Estimate | None:
    """Mean of shares, one for each plan."""
    if values is None:
        return None
    return mean_of(np.asarray(values, np.float64))


def _median(values: np.ndarray | None) -> Estimate | None:
    return None if values is None else median_of(np.asarray(values, np.float64))


def _cut(row: TruthRow, legs: int | None) -> Estimate | None:
    return None if row.cuts is None else _share(row.cuts[:, :legs].max(axis=1))


def _missed(row: TruthRow, waypoint: int | None) -> Estimate | None:
    """Median miss of a way-point, from 1; None for that in the middle."""
    if row.misses is None:
        return None
    number = middle(row.misses.shape[1]) if waypoint is None else waypoint
    return _median(row.misses[:, number - 1 if number > 0 else number])


def _gap(row: TruthRow, of: Callable[[np.ndarray], np.ndarray]) -> Estimate | None:
    if row.promised is None or row.achieved is None:
        return None
    return _share(of(row.promised - row.achieved))


def infeasible(row: TruthRow, limits: Limits) -> Bool[np.ndarray, "plans legs"] | None:
    """Return which legs cannot be driven."""
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
    Column("gap", "promised less achieved (mean)", lambda row, _: _gap(row, np.asarray)),
    Column("error", "|promised less achieved| (mean)", lambda row, _: _gap(row, np.abs)),
    Column(
        "achieving",
        "achieves a reward (share of plans)",
        lambda row, _: _share(None if row.achieved is None else row.achieved > 0),
    ),
    Column(
        "value_gap",
        "value of the planned less of the driven end",
        lambda row, _: _share(row.value_gaps),
    ),
    Column("nats", "nats per feature less the unguided median", _likely),
    Column("unlikely", "below the unguided 1 % quantile (share)", _unlikely),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class PlanTruth:
    """Recorded segments, unguided plans and guided plans from the same starts.

    Attributes:
        rows: "recorded", "unguided" and, for a planner with guides, "guided".
        limits: what shares are counted by.
        value: how well the guide's value orders states; None where that could not be measured.
        empty: why a figure could not be measured, by what is missing.
        goals: `[plans, goal]` of the starts, or None.
        seconds: wall-clock time.
        settings: starts, seed, environment and so on.
        machine: what it ran on.
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
        """Return every figure of a row by the name of its column."""
        return {column.name: column.measure(self.rows[row], self.limits) for column in COLUMNS}

    def table(self) -> str:
        """Return a text table with a line for each figure and a column for each kind of plan."""
        found = {name: self.figures(name) for name in self.rows}
        width = max(len(column.label) for column in COLUMNS)
        lines = [" " * width + "".join(f"  {name:>22}" for name in found)]
        for column in COLUMNS:
            cells = "".join(f"  {_text(of[column.name]):>22}" for of in found.values())
            lines.append(f"{column.label:<{width}}{cells}")
        if self.value is not None:
            name = self.value.name
            lines += [
                f"rank correlation of '{name}' with the true way to the goal: "
                f"{_text(self.value.recorded)} over recorded states, "
                f"{_text(self.value.at_rest)} at rest",
            ]
        lines.append(f"{self.settings['starts']} starts; {self.limits_in_words}; 95 % intervals")
        lines += [f"empty: {what}: {why}" for what, why in self.empty.items()]
        return "\n".join(lines)

    @property
    def limits_in_words(self) -> str:
        """The limits that shares are counted by, in words."""
        limits = self.limits
        said = [f"misses in {limits.unit}"]
        if limits.clearance is not None:
            said.append(f"a wall is a clearance of {limits.clearance:.3f}")
        if limits.miss is not None:
            said.append(f"a leg is feasible up to a miss of {limits.miss:.3f}")
        return ", ".join([*said, f"near is {limits.near:g}"])

    def to_dict(self) -> dict[str, Any]:
        """Return figures, figures by leg, and figures of every plan, ready for JSON."""
        rows = {}
        for name, row in self.rows.items():
            figures = {key: _plain(found) for key, found in self.figures(name).items()}
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
        """Write `to_dict`; whole or not at all."""
        return write_whole(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    def _by_leg(self, row: TruthRow) -> dict[str, list[float] | None]:
        """Shares and medians of every leg or way-point."""
        cannot = infeasible(row, self.limits)
        return {
            "cut": _listed(row.cuts, lambda cuts: cuts.mean(axis=0)),
            "cut_up_to": _listed(
                row.cuts, lambda cuts: np.logical_or.accumulate(cuts, axis=1).mean(axis=0)
            ),
            "infeasible": _listed(cannot, lambda legs: legs.mean(axis=0)),
            "leg_miss": _listed(row.leg_misses, lambda misses: np.median(misses, axis=0)),
            "miss": _listed(row.misses, lambda misses: np.median(misses, axis=0)),
        }

    def _per_plan(self, row: TruthRow) -> dict[str, list[float] | None]:
        """Numbers of every plan, so that two planners can be compared start by start."""
        cannot = infeasible(row, self.limits)
        middle_of = None if row.misses is None else middle(row.misses.shape[1]) - 1
        return {
            "first_cut": _listed(row.cuts, _first_cut),
            "infeasible": _listed(cannot, lambda legs: legs.mean(axis=1)),
            "miss_first": _listed(row.misses, lambda misses: misses[:, 0]),
            "miss_middle": _listed(row.misses, lambda misses: misses[:, middle_of]),
            "miss_last": _listed(row.misses, lambda misses: misses[:, -1]),
            "promised": _listed(row.promised),
            "achieved": _listed(row.achieved),
            "nats": _listed(row.nats),
        }


def _first_cut(cuts: Bool[np.ndarray, "plans legs"]) -> np.ndarray:
    """Number of the first leg that cuts a wall, from 1; 0 where none does."""
    return np.where(cuts.any(axis=1), cuts.argmax(axis=1) + 1, 0)


def _listed(
    values: np.ndarray | None, of: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> list[float] | None:
    return None if values is None else [float(f"{value:.6g}") for value in of(values)]


def _plain(found: Estimate | None) -> dict[str, float] | None:
    if found is None or not np.isfinite(found.value):
        return None
    return {"value": found.value, "low": found.low, "high": found.high}


def _text(found: Estimate | None) -> str:
    return "-" if found is None else found.text(digits=3)
