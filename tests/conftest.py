import importlib
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


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that a test registers are gone after it."""
    registry = importlib.import_module("pgdiff.registry")
    for home in ("pgdiff.workflows.stages", "pgdiff.planning"):
        importlib.import_module(home)  # all of the package's own parts are there by now
    kinds = {kind: dict(parts) for kind, parts in registry._REGISTRY.items()}
    monkeypatch.setattr(registry, "_REGISTRY", kinds)
    monkeypatch.setattr(registry, "_NAMES", dict(registry._NAMES))
