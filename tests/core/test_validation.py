import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdiff.core.validation import (
    PgdiffError,
    check_in,
    check_positive_int,
    check_range,
    nearest,
    require,
)


def test_the_error_is_a_value_error() -> None:
    assert issubclass(PgdiffError, ValueError)


def test_nearest_suggests_what_was_meant() -> None:
    assert (
        nearest("cosin", ["linear", "cosine"]) == "one of {cosine, linear}. Did you mean 'cosine'?"
    )
    assert nearest("zzz", ["linear", "cosine"]) == "one of {cosine, linear}."


def test_check_in() -> None:
    assert check_in("solver", "ddim", ("ddim", "ddpm")) == "ddim"
    assert check_in("solver", "ddim", iter(["ddim"])) == "ddim"
    with pytest.raises(PgdiffError) as error:
        check_in("solver", "dim", {"ddim": 1, "ddpm": 2})
    assert str(error.value) == (
        "`solver` must be one of {ddim, ddpm}. Did you mean 'ddim'? Got 'dim'."
    )


@given(value=st.integers(-5, 5), minimum=st.integers(-3, 3))
def test_check_positive_int(value: int, minimum: int) -> None:
    if value >= minimum:
        assert check_positive_int("n", value, minimum=minimum) == value
    else:
        with pytest.raises(PgdiffError, match=f"at least {minimum}. Got {value}."):
            check_positive_int("n", value, minimum=minimum)


def test_check_positive_int_takes_numpys_integers_and_nothing_else() -> None:
    number: Any = np.int64(3)
    assert type(check_positive_int("n", number)) is int
    wrong: list[Any] = [True, 3.0, "3", None, math.nan, [3]]
    for value in wrong:
        with pytest.raises(PgdiffError, match="`n` must be an integer"):
            check_positive_int("n", value)


@given(
    value=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]),
    open_low=st.booleans(),
    open_high=st.booleans(),
)
def test_check_range(value: float, open_low: bool, open_high: bool) -> None:
    above = value > 0 if open_low else value >= 0
    below = value < 1 if open_high else value <= 1
    interval = f"{'(' if open_low else '['}0.0, 1.0{')' if open_high else ']'}"
    options = {"low": 0.0, "high": 1.0, "open_low": open_low, "open_high": open_high}
    if above and below:
        assert check_range("x", value, **options) == value
    else:
        with pytest.raises(PgdiffError) as error:
            check_range("x", value, **options)
        assert str(error.value) == f"`x` must be a number in {interval}. Got {value!r}."


def test_check_range_refuses_what_is_no_finite_number() -> None:
    wrong: list[Any] = [math.nan, math.inf, -math.inf, "much", None, [1.0]]
    for value in wrong:
        with pytest.raises(PgdiffError, match=r"`x` must be a number in \[-inf, inf\]"):
            check_range("x", value)


def test_require() -> None:
    assert require("math", extra="viz") is math
    with pytest.raises(PgdiffError) as error:
        require("no_such_module.part", extra="viz")
    assert "'no_such_module'" in str(error.value)
    assert "pip install 'pgdiff-rl[viz]'" in str(error.value)
    assert isinstance(error.value.__cause__, ImportError)
