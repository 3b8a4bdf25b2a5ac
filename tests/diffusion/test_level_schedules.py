import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import monotone_matrices
from torch import Tensor

from pgdiff.core.registry import from_config, to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import full_sequence
from pgdiff.diffusion.level_schedules import (
    Autoregressive,
    FullSequence,
    LevelSchedule,
    Pyramid,
    Trapezoid,
    check_levels,
)

fast = settings(max_examples=60, deadline=None, derandomize=True)


@fast
@given(steps=st.integers(1, 300), tokens=st.integers(1, 20))
def test_full_sequence(steps: int, tokens: int) -> None:
    levels = full_sequence(steps=steps, tokens=tokens)
    assert levels.shape == (steps + 1, tokens)
    assert (levels == levels[:, :1]).all()
    assert (levels[0] == 1).all() and (levels[-1] == 0).all()
    torch.testing.assert_close(levels[:, 0], 1 - torch.arange(steps + 1) / steps)
    assert (levels.diff(dim=0) < 0).all()
    check_levels(levels, batch=3, tokens=tokens)


# ------------------------------------------------------------------------------- the schedules


@st.composite
def columns(draw: Any) -> Tensor:
    """Falling columns `[steps + 1]`, of distances of all sizes."""
    sizes = draw(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12))
    column = torch.tensor([0.0, *sizes], dtype=torch.float64).cumsum(0).flip(0)
    return column / column[0]


slopes = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 1.5]), st.floats(0.0, 20.0))
SCHEDULES: dict[str, Callable[[float], LevelSchedule]] = {
    "full": lambda slope: FullSequence(),
    "pyramid": lambda slope: Pyramid(slope=slope),
    "autoregressive": lambda slope: Autoregressive(),
    "trapezoid": lambda slope: Trapezoid(slope=slope),
}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    column=columns(),
    tokens=st.integers(1, 64),
    slope=slopes,
)
def test_every_token_walks_down_the_whole_column(
    name: str, column: Tensor, tokens: int, slope: float
) -> None:
    """Each token goes from 1 to 0 through every level of the column in order, and never up."""
    levels = SCHEDULES[name](slope).matrix(column, tokens=tokens)
    check_levels(levels, batch=1, tokens=tokens)
    assert levels.dtype == column.dtype
    assert (levels[0] == 1).all() and (levels[-1] == 0).all()
    assert (levels[-2] > 0).any()  # no superfluous row
    assert (levels.diff(dim=0) <= 0).all()
    assert (levels.diff(dim=0) < 0).any(dim=1).all()  # something moves in every row
    for token in levels.T:
        assert torch.equal(token.unique(sorted=True).flip(0), column)


@fast
@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    steps=st.integers(1, 12),
    tokens=st.integers(1, 64),
    slope=slopes,
)
def test_the_formula_written_in_numbers(name: str, steps: int, tokens: int, slope: float) -> None:
    """The index is `K + delay - m`, clipped to [0, K]: the levels left for token t at row m."""
    delays = {
        "full": lambda t: 0,
        "pyramid": lambda t: int(min(slope, steps) * t),
        "autoregressive": lambda t: steps * t,
        "trapezoid": lambda t: int(min(slope, steps) * min(t, tokens - 1 - t)),
    }
    delay = [delays[name](t) for t in range(tokens)]
    expected = [
        [min(max(steps + late - row, 0), steps) for late in delay]
        for row in range(steps + max(delay) + 1)
    ]
    column = torch.arange(steps, -1, -1, dtype=torch.float64) / steps
    levels = SCHEDULES[name](slope).matrix(column, tokens=tokens)
    assert (levels * steps).round().tolist() == expected


def test_no_slope_makes_tokens_wait_for_nothing() -> None:
    for slope in [4.5, 1e5, 1e15, 1e308]:
        column = torch.linspace(1.0, 0.0, 5)
        steep = Pyramid(slope=slope).matrix(column, tokens=3)
        assert torch.equal(steep, Autoregressive().matrix(column, tokens=3))
        ends = Trapezoid(slope=slope).matrix(column, tokens=5)
        assert torch.equal(ends, Trapezoid(slope=4.0).matrix(column, tokens=5))


def test_small_cases_by_hand() -> None:
    column = torch.tensor([1.0, 0.5, 0.0])
    rows = Pyramid(slope=1.0).matrix(column, tokens=3)
    assert rows.T.tolist() == [[1, 0.5, 0, 0, 0], [1, 1, 0.5, 0, 0], [1, 1, 1, 0.5, 0]]
    rows = Autoregressive().matrix(column, tokens=2)
    assert rows.T.tolist() == [[1, 0.5, 0, 0, 0], [1, 1, 1, 0.5, 0]]
    # Regression tests for faults of public code: the first column must end like the last, no column
    # of an even number may start clean, and half slopes must end clean.
    rows = Trapezoid(slope=1.0).matrix(column, tokens=5)
    ends, inner, middle = [1, 0.5, 0, 0, 0], [1, 1, 0.5, 0, 0], [1, 1, 1, 0.5, 0]
    assert rows.T.tolist() == [ends, inner, middle, inner, ends]
    rows = Trapezoid(slope=1.0).matrix(column, tokens=4)
    assert rows.T.tolist() == [[1, 0.5, 0, 0], [1, 1, 0.5, 0], [1, 1, 0.5, 0], [1, 0.5, 0, 0]]
    rows = Trapezoid(slope=0.5).matrix(column, tokens=5)
    assert rows.T.tolist() == [
        [1, 0.5, 0, 0],
        [1, 0.5, 0, 0],
        [1, 1, 0.5, 0],
        *[[1, 0.5, 0, 0]] * 2,
    ]


@fast
@given(tokens=st.integers(1, 64), column=columns())
def test_where_they_meet(tokens: int, column: Tensor) -> None:
    full = FullSequence().matrix(column, tokens=tokens)
    assert torch.equal(Pyramid(slope=0.0).matrix(column, tokens=tokens), full)
    assert torch.equal(Trapezoid(slope=0.0).matrix(column, tokens=tokens), full)
    steep = Pyramid(slope=float(len(column) - 1)).matrix(column, tokens=tokens)
    assert torch.equal(Autoregressive().matrix(column, tokens=tokens), steep)
    both = Trapezoid(slope=2.0).matrix(column, tokens=tokens)
    assert torch.equal(both, both.flip(1))


@pytest.mark.usefixtures("unchecked")
def test_bad_columns_and_settings_are_named() -> None:
    for column, message in [
        ([1.0, 0.5, 0.5, 0.0], r"fall strictly .* Got 0\.5 at row 2\."),
        ([1.0, 0.5, 0.75, 0.0], r"Got 0\.75 at row 2\."),
        ([1.5, 0.5, 0.0], r"Got 1\.5 at row 0\."),
        ([float("nan"), 0.5, 0.0], r"Got nan at row 0\."),
        ([1.0, float("nan"), 0.0], r"Got nan at row 1\."),
        ([1.0, 0.5], r"Got 0\.5 at row 1\."),
        ([1.0, -0.5], r"Got -0\.5 at row 1\."),
        ([0.0], r"shape \[steps \+ 1\]. Got \[1\]"),
        ([[1.0], [0.0]], r"Got \[2, 1\]"),
    ]:
        with pytest.raises(PgdiffError, match="`column` must .*" + message):
            FullSequence().matrix(torch.tensor(column), tokens=3)
    for schedule in (FullSequence(), Pyramid(), Autoregressive(), Trapezoid()):
        assert isinstance(schedule, LevelSchedule)
        with pytest.raises(PgdiffError, match="`tokens`"):
            schedule.matrix(torch.tensor([1.0, 0.0]), tokens=0)
    for kind in (Pyramid, Trapezoid):
        for slope in (-0.1, float("nan"), float("inf")):
            with pytest.raises(PgdiffError, match="`slope`"):
                kind(slope=slope)


def test_round_trip() -> None:
    for name in sorted(SCHEDULES):
        schedule = SCHEDULES[name](0.5)
        assert to_config(schedule)["name"] == name
        assert from_config("level_schedule", to_config(schedule)) == schedule


# ------------------------------------------------------------------------------- any user matrix


@fast
@given(levels=monotone_matrices())
def test_every_monotone_matrix_passes(levels: Tensor) -> None:
    check_levels(levels, batch=4, tokens=levels.shape[-1])
    check_levels(levels[:, None], batch=4, tokens=levels.shape[-1])
    check_levels(levels[:, None].expand(-1, 4, -1), batch=4, tokens=levels.shape[-1])


@fast
@given(levels=monotone_matrices(first=None), batched=st.booleans(), data=st.data())
def test_a_first_row_below_1_is_named(levels: Tensor, batched: bool, data: st.DataObject) -> None:
    """It is accepted if the token is known, or if sampling starts from a given sample."""
    tokens = levels.shape[1]
    below = levels[0] < 1
    given = levels[:, None].expand(-1, 2, -1) if batched else levels
    check_levels(given, batch=2, tokens=tokens, started=True)
    whole = (below | (torch.arange(tokens) % 2 == 0)).repeat(2, 1)
    check_levels(given, batch=2, tokens=tokens, given=whole)
    check_levels(given, batch=2, tokens=tokens, given=whole[:1])
    if below.any():
        column = data.draw(st.sampled_from(below.nonzero().flatten().tolist()))
        whole[1, column] = False
        message = f"`levels` must be 1 in the first row.* at row 0, column {column}\\."
        with pytest.raises(PgdiffError, match=message):
            check_levels(given, batch=2, tokens=tokens, given=whole)
        message = f"row 0, column {int(below.nonzero()[0])}\\."
        with pytest.raises(PgdiffError, match=message):
            check_levels(given, batch=2, tokens=tokens)


@fast
@given(
    levels=monotone_matrices(),
    data=st.data(),
    wrong=st.sampled_from([float("nan"), float("inf"), -0.01, 1.01]),
    batched=st.booleans(),
)
def test_a_wrong_entry_is_named(
    levels: Tensor, data: st.DataObject, wrong: float, batched: bool
) -> None:
    row = data.draw(st.integers(0, len(levels) - 1))
    column = data.draw(st.integers(0, levels.shape[1] - 1))
    levels[row, column] = wrong
    given = levels[:, None].expand(-1, 2, -1) if batched else levels
    with pytest.raises(PgdiffError, match=r"in \[0, 1\]") as error:
        check_levels(given, batch=2, tokens=levels.shape[1])
    assert f"at row {row}, column {column}." in str(error.value)


@fast
@given(levels=monotone_matrices(), data=st.data())
def test_a_rise_is_named(levels: Tensor, data: st.DataObject) -> None:
    row = data.draw(st.integers(1, len(levels) - 1))
    column = data.draw(st.integers(0, levels.shape[1] - 1))
    levels[: row + 1, column] = levels[row, column] = 0.3
    levels[row, column] = 0.31
    levels[row + 1 :, column] = 0.0
    with pytest.raises(PgdiffError, match="never rising") as error:
        check_levels(levels, batch=2, tokens=levels.shape[1])
    assert f"at row {row}, column {column}." in str(error.value)


@fast
@given(levels=monotone_matrices(), data=st.data())
def test_a_token_left_noisy_is_named(levels: Tensor, data: st.DataObject) -> None:
    column = data.draw(st.integers(0, levels.shape[1] - 1))
    levels[:, column] = 0.2
    with pytest.raises(PgdiffError, match="0 in the last row") as error:
        check_levels(levels, batch=2, tokens=levels.shape[1])
    assert re.search(rf"Got 0\.2\d* at row {len(levels) - 1}, column {column}\.", str(error.value))


@pytest.mark.usefixtures("unchecked")
def test_a_wrong_shape_is_named() -> None:
    for shape in [(5,), (5, 3), (1, 4), (0, 4), (5, 2, 3), (5, 2, 4, 1)]:
        with pytest.raises(PgdiffError, match=re.escape(f"Got {list(shape)}.")):
            check_levels(torch.zeros(shape), batch=2, tokens=4)


def test_a_wrong_batch_is_named() -> None:
    with pytest.raises(PgdiffError, match=r"batch size 2 or 1\. Got 3"):
        check_levels(torch.zeros(5, 3, 4), batch=2, tokens=4)


@pytest.mark.usefixtures("unchecked")
def test_several_numbers_are_not_one() -> None:
    for slope in (np.array([1.0, 2.0]), torch.ones(2), torch.ones(90, 2), 1j):
        with pytest.raises(PgdiffError, match=r"`slope` must be a number in .* Got [^\n]*$"):
            Pyramid(slope=slope)  # type: ignore[arg-type]


def test_bad_numbers_are_named() -> None:
    for steps in (0, -1):
        with pytest.raises(PgdiffError, match="`steps`"):
            full_sequence(steps=steps, tokens=3)
    with pytest.raises(PgdiffError, match="`tokens`"):
        full_sequence(steps=3, tokens=0)
