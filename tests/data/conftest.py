import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `foreign_writers.py` and the like

Fields = dict[str, np.ndarray]


@pytest.fixture
def recording() -> Callable[..., Fields]:
    """Fields of a sound recording with episodes of the given lengths, all ended by a timeout."""

    def make(lengths: tuple[int, ...] = (20, 7, 33), seed: int = 0) -> Fields:
        generator = np.random.default_rng(seed)
        steps = sum(lengths)
        timeouts = np.zeros(steps, np.bool_)
        timeouts[np.cumsum(lengths) - 1] = True
        return {
            "observations": generator.normal(size=(steps, 3)).astype(np.float32),
            "actions": generator.uniform(-1, 1, size=(steps, 2)).astype(np.float32),
            "rewards": generator.random(steps).astype(np.float32),
            "terminals": np.zeros(steps, np.bool_),
            "timeouts": timeouts,
        }

    return make


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty local store of Minari's."""
    folder = tmp_path / "store"
    folder.mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder
