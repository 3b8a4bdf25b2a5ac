"""Samples, plans and trainings equal the stored ones up to rounding."""

from pathlib import Path

import pytest
from golden import differences, one_thread, reduced, run, stored

STORED = Path(__file__).parent / "arrays.npz"


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_every_entry_is_what_it_was() -> None:
    messages: list[str] = []
    with one_thread():
        arrays, failed = run(say=messages.append)
    lines = differences(
        stored(STORED), reduced(arrays), tolerance=True, names=("arrays.npz", "this run")
    )
    errors = [message for message in messages if "FAILED" in message]
    assert not failed and not lines, "\n".join([*errors, *lines])
