"""Next observations that are not what followed: resets, copies, and rows of a vector's autoreset.

Recorders that step vector environments get them wrong in a few known ways, and each of them would
make a value of one episode depend on another. All of them show in exact equalities of rows, which
do not happen by chance in recordings of real numbers.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from pgdiff.data.boundaries import far_moves, largest_moves
from pgdiff.data.checks import Source, block_rows
from pgdiff.data.problems import Problem
from pgdiff.validation import PgdiffError

_INSIDE, _COMPARED, _ENDS = 20_000, 2_000, 50_000
"""Rows looked at, at most: inside episodes, against rows further on, and at ends."""

_READ = 1 << 28
"""Bytes up to which a field of a file is read as a whole, since rows of it are slow to pick."""

_NEEDED = ("observations", "next_observations", "rewards", "terminals", "timeouts")

_SHIFTS = (*range(-4, 1), *range(2, 65))
"""Rows further on that `next_observations` are compared with, where the next row is not theirs."""

_FEW, _MOST = 0.1, 0.9
"""Shares of rows from which a pattern counts, and from which it accounts for all of them."""


def find_successor_problems(fields: Mapping[str, Source]) -> Iterator[Problem]:
    """Yield what is wrong with the successors of a recording whose values are sound.

    Args:
        fields: by their D4RL names, arrays or data sets of a file.
    """
    rows = _Rows.of(fields)
    if "next_observations" in fields:
        shift = _shifted(rows)
        yield from shift
        if not shift:
            yield from _standing_ends(rows)
        yield from _resets_at_ends(rows)
    found = _reset_rows(rows, _some(rows.followed_by_a_step(), _ENDS))
    if len(found):
        yield Problem(
            "observations",
            int(found[0]),
            f"is a row that no step of the task made ({len(found)} such rows, each after an end): "
            "it leads from an episode's last observation to a reset, as Gymnasium's vector "
            "environments with AutoresetMode.NEXT_STEP do in the call of `step` after an end.",
            "Leave these rows out, in the recorder or by `repair=True` (`pgdiff convert` with "
            "repair=true writes such a file).",
        )


def successors_checked(
    arrays: Mapping[str, np.ndarray], *, repair: bool
) -> Mapping[str, np.ndarray]:
    """Return the arrays if their successors are sound, or else repaired.

    Repaired arrays have no row of a vector environment's autoreset, and no `next_observations` (nor
    `infos/next_goal`) where those are at fault: successors are then the rows that follow, and the
    successor of an episode's last row is unknown.

    Raises:
        PgdiffError: the first fault, without `repair`.
    """
    problems = list(find_successor_problems(arrays))
    if not problems:
        return arrays
    if not repair:
        raise PgdiffError(str(problems[0]))
    rows, fields = _Rows.of(arrays), dict(arrays)
    made = _reset_rows(rows, rows.followed_by_a_step())
    if any(problem.field == "observations" for problem in problems) and len(made):
        kept = np.ones(len(rows.marked), np.bool_)
        kept[made] = False
        fields = {name: values[kept] for name, values in fields.items()}
    if any(problem.field == "next_observations" for problem in problems):
        for name in ("next_observations", "infos/next_goal"):
            fields.pop(name, None)
    return fields


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of a recording by number.

    Attributes:
        fields: the recording.
        marked: `[steps]`, whether an episode ends with the row.
        terminals: `[steps]`, whether the task ended there.
        inside: `[rows]`, evenly spread rows from which a step leads to the next row: neither is a
            row after an end, which may be a reset.
    """

    fields: Mapping[str, Source]
    marked: Bool[np.ndarray, " steps"]
    terminals: Bool[np.ndarray, " steps"]
    inside: Int[np.ndarray, " rows"]

    @classmethod
    def of(cls, fields: Mapping[str, Source]) -> "_Rows":
        """Look at the marks."""
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
        return cls(fields, marked, terminals, _some(np.flatnonzero(within), _INSIDE))

    def take(self, name: str, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows ..."]:
        """Return some rows of a field, as they are compared: float32."""
        source = self.fields[name]
        if isinstance(source, np.ndarray):
            values: np.ndarray = source[rows].astype(np.float32, copy=False)
            return values
        # A file reads slices fast and single rows slowly.
        order, step = np.sort(rows), block_rows(source)
        parts = [np.empty((0, *source.shape[1:]), np.float32)]
        for first in range(0, source.shape[0], step):
            near = order[np.searchsorted(order, first) : np.searchsorted(order, first + step)]
            if len(near):
                block = np.asarray(source[first : first + step])
                parts.append(block[near - first].astype(np.float32))
        found: np.ndarray = np.concatenate(parts)[np.searchsorted(order, rows)]
        return found

    def limits(self) -> Float[np.ndarray, " obs"]:
        """Return how far each feature moves in one step, at the most."""
        now, then = (self.take("observations", self.inside + k) for k in (0, 1))
        return largest_moves(np.abs(then - now))

    def followed_by_a_step(self) -> Int[np.ndarray, " ends"]:
        """Return the ends after which there are two rows, the first of which is no end."""
        ends = np.flatnonzero(self.marked[:-2])
        found: np.ndarray = ends[~self.marked[ends + 1]]
        return found


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    """Return all of the rows, or `most` of them, evenly spread."""
    if len(rows) <= most:
        return rows
    found: np.ndarray = rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
    return found


def _equal(a: np.ndarray, b: np.ndarray) -> Bool[np.ndarray, " rows"]:
    same: np.ndarray = (a == b).all(axis=1)
    return same


def _shifted(rows: _Rows) -> list[Problem]:
    """Find next observations that are those of another row than the next."""
    inside = rows.inside
    if not len(inside):
        return []
    after = rows.take("next_observations", inside)
    wrong = ~_equal(after, rows.take("observations", inside + 1))
    if wrong.mean() < _FEW:
        return []
    steps = len(rows.marked)
    chosen = _some(np.flatnonzero(wrong), _COMPARED)
    for shift in _SHIFTS:
        there = inside[chosen] + shift
        known = (there >= 0) & (there < steps)
        if not known.any():
            continue
        same = _equal(after[chosen[known]], rows.take("observations", there[known]))
        if same.mean() >= _MOST:
            return [_shift_problem(int(inside[chosen[0]]), shift)]
    return []


def _shift_problem(row: int, shift: int) -> Problem:
    if shift == 0:
        message = "is the observation of its own row, not the one that the step led to."
    else:
        place = f"{abs(shift)} row{'s' * (abs(shift) > 1)} {'on' if shift > 0 else 'back'}"
        message = f"is the observation {place}, where that of the next row is expected."
        if shift > 1:
            message += f" The rows of {shift} environments may be interleaved."
    return Problem(
        "next_observations",
        row,
        message,
        "Write what each step led to, or leave the field out, in the recorder or by `repair=True`.",
    )


def _standing_ends(rows: _Rows) -> list[Problem]:
    """Find cut episodes whose last row leads to itself, although the row before did not."""
    ends = np.flatnonzero(rows.marked & ~rows.terminals)
    ends = _some(ends[(ends > 0) & ~rows.marked[ends - 1]], _ENDS)
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
            f"is the observation of its own row, where the episode was cut ({standing.sum()} such "
            "rows).",
            "Write what the last step led to, or leave the field out, in the recorder or by "
            "`repair=True`.",
        )
    ]


def _resets_at_ends(rows: _Rows) -> list[Problem]:
    """Find ends whose next observation is the first one of the next episode."""
    ends = _some(np.flatnonzero(rows.marked[:-1]), _ENDS)
    if not len(ends):
        return []
    now, first = (rows.take("observations", ends + k) for k in (0, 1))
    same = _equal(rows.take("next_observations", ends), first) & ~_equal(now, first)
    if len(rows.inside):
        # Where the recording goes on after a mark, the next row is its successor, and is near.
        far, least = same & far_moves(np.abs(first - now), rows.limits()), _FEW * same.sum()
    else:
        far, least = same, _MOST * len(ends)
    if not far.any() or far.sum() < least:
        return []
    return [
        Problem(
            "next_observations",
            int(ends[far][0]),
            f"is the first observation of the next episode ({same.sum()} such rows of {len(ends)} "
            "ends): the environment was reset before the observation was kept.",
            "Write the one before the reset (Gymnasium: info['final_obs'], Stable-Baselines3: "
            "info['terminal_observation']), or leave the field out, in the recorder or by "
            "`repair=True`.",
        )
    ]


def _reset_rows(rows: _Rows, ends: Int[np.ndarray, " ends"]) -> Int[np.ndarray, " found"]:
    """Return the rows after these ends that only reset, if they show the pattern of NEXT_STEP.

    The row after an end repeats the episode's last observation, earns 0, and leads to the reset.
    """
    if not len(ends) or not len(rows.inside):
        return ends[:0]
    zero = rows.take("rewards", ends + 1).reshape(-1) == 0
    if zero.mean() < _MOST:
        return ends[:0]
    limits = rows.limits()
    now, last, first = (rows.take("observations", ends + k) for k in (0, 1, 2))
    if "next_observations" in rows.fields:
        goes_on = _equal(rows.take("next_observations", ends), last)
        goes_on &= _equal(rows.take("next_observations", ends + 1), first)
    else:
        goes_on = ~far_moves(np.abs(last - now), limits)
    only_resets = zero & goes_on
    leaps = only_resets & far_moves(np.abs(first - last), limits)
    if only_resets.mean() < 0.5 or leaps.sum() < max(1.0, _FEW * only_resets.sum()):
        return ends[:0]
    found: np.ndarray = ends[only_resets] + 1
    return found
