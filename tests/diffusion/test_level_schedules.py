import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import monotone_matrices
from torch import Tensor

from pgdiff.diffusion import full_sequence
from pgdiff.diffusion.level_schedules import check_levels
from pgdiff.validation import PgdiffError

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


@fast
@given(levels=monotone_matrices())
def test_every_monotone_matrix_passes(levels: Tensor) -> None:
    check_levels(levels, batch=4, tokens=levels.shape[-1])
    check_levels(levels[:, None], batch=4, tokens=levels.shape[-1])
    check_levels(levels[:, None].expand(-1, 4, -1), batch=4, tokens=levels.shape[-1])


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
@pytest.mark.parametrize("shape", [(5,), (5, 3), (1, 4), (0, 4), (5, 2, 3), (5, 2, 4, 1)])
def test_a_wrong_shape_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(PgdiffError, match=re.escape(f"Got {list(shape)}.")):
        check_levels(torch.zeros(shape), batch=2, tokens=4)


def test_a_wrong_batch_is_named() -> None:
    with pytest.raises(PgdiffError, match=r"batch size 2 or 1\. Got 3"):
        check_levels(torch.zeros(5, 3, 4), batch=2, tokens=4)


def test_bad_numbers_are_named() -> None:
    for steps in (0, -1):
        with pytest.raises(PgdiffError, match="`steps`"):
            full_sequence(steps=steps, tokens=3)
    with pytest.raises(PgdiffError, match="`tokens`"):
        full_sequence(steps=3, tokens=0)
