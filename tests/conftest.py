import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

sys.path.insert(0, str(Path(__file__).parent / "model"))  # `toys.py`, small worlds and models


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch runtime type checks off: wrong input then meets the errors that users see."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
