"""Detection of wrong next observations: resets, copies, and rows of a vector's autoreset.

Recorders of vector environments make a few known errors, each of which would make the values of one
episode depend on another episode. All of them show as exact equalities between rows, which do not
occur by chance in recordings of real numbers.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from pgdiff.core.validation import PgdiffError
from pgdiff.data.checks import Source, block_rows
from pgdiff.data.episode_boundaries import far_moves, largest_moves
from pgdiff.data.schema import Problem

_INSIDE, _COMPARED, _ENDS = 20_000, 2_000, 50_000
"""Largest numbers of rows that are tested: inside episodes, against later rows, and at ends."""

_READ = 1 << 28
"""Largest size in bytes of a field that is read as a whole; single rows of a file read slowly."""

_NEEDED = ("observations", "next_observations", "rewards", "terminals", "timeouts")

_SHIFTS = (*range(-4, 1), *range(2, 65))
"""Row offsets at which the observation of a wrong `next_observations` is searched."""

_FEW, _MOST = 0.1, 0.9
"""Least shares of rows at which a pattern counts, and at which it explains all rows."""


def find_successor_problems(fields: Mapping[str, Source]) -> Iterator[Problem]:
    """Yield the faults in the successors of a recording whose values are valid.

    Args:
        fields: arrays or data sets of a file, under their D4RL names.
    """
    rows = _Rows.from_fields(fields)
    if "next_observations" in fields:
        shift = _find_shift(rows)
        yield from shift
        if not shift:
            yield from _find_repeated_ends(rows)
        yield from _find_resets_at_ends(rows)
    resets = _find_reset_rows(rows, _subsample(rows.followed_by_a_step(), _ENDS))
    if len(resets):
        yield Problem(
            "observations",
            int(resets[0]),
            f"is a reset and not a step of the task ({len(resets)} rows, each after an end). "
            "Gymnasium's vector environments with AutoresetMode.NEXT_STEP reset in the call of "
            "`step` after an end.",
            "Drop these rows in the recorder, or load with `repair=True` (`pgdiff convert` with "
            "repair=true writes a repaired file).",
        )


def check_successors(arrays: Mapping[str, np.ndarray], *, repair: bool) -> Mapping[str, np.ndarray]:
    """Return the arrays, repaired if their successors are faulty.

    Repaired arrays have no rows of a vector environment's autoreset. Faulty `next_observations` are
    dropped together with `infos/next_goal`: successors are then the next rows, and the successor of
    an episode's last row is unknown.

    Raises:
        PgdiffError: at the first fault, without `repair`.
    """
    problems = list(find_successor_problems(arrays))
    if not problems:
        return arrays
    if not repair:
        raise PgdiffError(str(problems[0]))
    rows, fields = _Rows.from_fields(arrays), dict(arrays)
    resets = _find_reset_rows(rows, rows.followed_by_a_step())
    if any(problem.field == "observations" for problem in problems) and len(resets):
        kept = np.ones(len(rows.marked), np.bool_)
        kept[resets] = False
        fields = {name: values[kept] for name, values in fields.items()}
    if any(problem.field == "next_observations" for problem in problems):
        for name in ("next_observations", "infos/next_goal"):
            fields.pop(name, None)
    return fields


@dataclass(frozen=True, eq=False)
class _Rows:
    """Access to the rows of a recording.

    Attributes:
        fields: the recording.
        marked: `[steps]`, True where an episode ends with the row.
        terminals: `[steps]`, True where the task ended.
        inside: `[rows]`, evenly spread rows with a step to the next row: neither of the two is a
            row after an end, which may be a reset.
    """

    fields: Mapping[str, Source]
    marked: Bool[np.ndarray, " steps"]
    terminals: Bool[np.ndarray, " steps"]
    inside: Int[np.ndarray, " rows"]

    @classmethod
    def from_fields(cls, fields: Mapping[str, Source]) -> "_Rows":
        """Read the marks of a recording."""
        fields = {name: fields[name] for name in _NEEDED if name in fields}
        for name, source in fields.items():
            size = math.prod(source.shape) * np.dtype(source.dtype).itemsize
            if not isinstance(source, np.ndarray) and size <= _READ:
                fields[name] = np.asarray(source[:])

        def flag(name: str) -> np.ndarray:
            return np.asarray(fields[name][:]).reshape(-1).astype(np.bool_)

        terminals = flag("terminals")
        marked = terminals | flag("timeouts") if "timeouts" in fields else terminals
        within = ~marked[:-1]
        within[1:] &= ~marked[:-2]
        return cls(fields, marked, terminals, _subsample(np.flatnonzero(within), _INSIDE))

    def take(self, name: str, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows ..."]:
        """Return rows of a field as float32, the type in which rows are compared."""
        source = self.fields[name]
        if isinstance(source, np.ndarray):
            values: np.ndarray = source[rows].astype(np.float32, copy=False)
            return values
        # Files read slices quickly and single rows slowly.
        order, step = np.sort(rows), block_rows(source)
        parts = [np.empty((0, *source.shape[1:]), np.float32)]
        for first in range(0, source.shape[0], step):
            near = order[np.searchsorted(order, first) : np.searchsorted(order, first + step)]
            if len(near):
                block = np.asarray(source[first : first + step])
                parts.append(block[near - first].astype(np.float32))
        result: np.ndarray = np.concatenate(parts)[np.searchsorted(order, rows)]
        return result

    def limits(self) -> Float[np.ndarray, " obs"]:
        """Return the largest plausible one-step change of each feature."""
        now, then = (self.take("observations", self.inside + k) for k in (0, 1))
        return largest_moves(np.abs(then - now))

    def followed_by_a_step(self) -> Int[np.ndarray, " ends"]:
        """Return the ends that are followed by two rows, the first of which is not an end."""
        ends = np.flatnonzero(self.marked[:-2])
        result: np.ndarray = ends[~self.marked[ends + 1]]
        return result


def _subsample(rows: np.ndarray, most: int) -> np.ndarray:
    """Return the rows, or `most` evenly spread ones of them."""
    if len(rows) <= most:
        return rows
    result: np.ndarray = rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
    return result


def _equal(a: np.ndarray, b: np.ndarray) -> Bool[np.ndarray, " rows"]:
    same: np.ndarray = (a == b).all(axis=1)
    return same


def _find_shift(rows: _Rows) -> list[Problem]:
    """Find next observations that are the observations of a row other than the next one."""
    inside = rows.inside
    if not len(inside):
        return []
    after = rows.take("next_observations", inside)
    wrong = ~_equal(after, rows.take("observations", inside + 1))
    if wrong.mean() < _FEW:
        return []
    steps = len(rows.marked)
    chosen = _subsample(np.flatnonzero(wrong), _COMPARED)
    for shift in _SHIFTS:
        shifted = inside[chosen] + shift
        valid = (shifted >= 0) & (shifted < steps)
        if not valid.any():
            continue
        same = _equal(after[chosen[valid]], rows.take("observations", shifted[valid]))
        if same.mean() >= _MOST:
            return [_shift_problem(int(inside[chosen[0]]), shift)]
    return []


def _shift_problem(row: int, shift: int) -> Problem:
    if shift == 0:
        message = "is the observation of its own row instead of the next row."
    else:
        distance = f"{abs(shift)} row{'s' * (abs(shift) > 1)}"
        direction = "ahead" if shift > 0 else "back"
        message = (
            f"is the observation {distance} {direction} instead of the next row's observation."
        )
        if shift > 1:
            message += f" The rows of {shift} environments may be interleaved."
    return Problem(
        "next_observations",
        row,
        message,
        "Record the observation after each step, omit the field, or load with `repair=True`.",
    )


def _find_repeated_ends(rows: _Rows) -> list[Problem]:
    """Find cut-off episodes whose last next observation repeats their last row."""
    ends = np.flatnonzero(rows.marked & ~rows.terminals)
    ends = _subsample(ends[(ends > 0) & ~rows.marked[ends - 1]], _ENDS)
    if not len(ends) or not len(rows.inside):
        return []
    now = rows.take("observations", ends)
    moving = ~_equal(now, rows.take("observations", ends - 1))
    standing = moving & _equal(now, rows.take("next_observations", ends))
    if not standing.any() or standing.sum() < 0.5 * moving.sum():
        return []
    return [
        Problem(
            "next_observations",
            int(ends[standing][0]),
            f"is the observation of its own row at the end of a cut-off episode ({standing.sum()} "
            "rows).",
            "Record the observation after the last step, omit the field, or load with "
            "`repair=True`.",
        )
    ]


def _find_resets_at_ends(rows: _Rows) -> list[Problem]:
    """Find ends whose next observation is the first observation of the next episode."""
    ends = _subsample(np.flatnonzero(rows.marked[:-1]), _ENDS)
    if not len(ends):
        return []
    now, first = (rows.take("observations", ends + k) for k in (0, 1))
    same = _equal(rows.take("next_observations", ends), first) & ~_equal(now, first)
    if len(rows.inside):
        # If the recording continues after a mark, the next row is the successor, and is near.
        far, least = same & far_moves(np.abs(first - now), rows.limits()), _FEW * same.sum()
    else:
        far, least = same, _MOST * len(ends)
    if not far.any() or far.sum() < least:
        return []
    return [
        Problem(
            "next_observations",
            int(ends[far][0]),
            f"is the first observation of the next episode at {same.sum()} of {len(ends)} ends: "
            "the environment was reset before the observation was recorded.",
            "Record the observation before the reset (Gymnasium: info['final_obs'], "
            "Stable-Baselines3: info['terminal_observation']), omit the field, or load with "
            "`repair=True`.",
        )
    ]


def _find_reset_rows(rows: _Rows, ends: Int[np.ndarray, " ends"]) -> Int[np.ndarray, " resets"]:
    """Return the rows after these ends that only reset, if they have the pattern of NEXT_STEP.

    The row after an end repeats the episode's last observation, has reward 0, and is followed by
    the reset.
    """
    if not len(ends) or not len(rows.inside):
        return ends[:0]
    zero = rows.take("rewards", ends + 1).reshape(-1) == 0
    if zero.mean() < _MOST:
        return ends[:0]
    limits = rows.limits()
    now, last, first = (rows.take("observations", ends + k) for k in (0, 1, 2))
    if "next_observations" in rows.fields:
        continues = _equal(rows.take("next_observations", ends), last)
        continues &= _equal(rows.take("next_observations", ends + 1), first)
    else:
        continues = ~far_moves(np.abs(last - now), limits)
    only_resets = zero & continues
    jumping = only_resets & far_moves(np.abs(first - last), limits)
    if only_resets.mean() < 0.5 or jumping.sum() < max(1.0, _FEW * only_resets.sum()):
        return ends[:0]
    result: np.ndarray = ends[only_resets] + 1
    return result
