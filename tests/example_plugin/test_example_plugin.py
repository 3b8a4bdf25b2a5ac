"""A user-defined guide and denoiser: one file and one `@register` line suffice."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toys import flat_model, flat_planner

import pgdiff

sys.path.insert(0, str(Path(__file__).parent))
from slow_plans import SlowPlans, TokenMLP, TokenMLPConfig

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def episodes() -> pgdiff.Episodes:
    """Return walks in a square: place and velocity."""
    rng = np.random.default_rng(0)
    rows = 2000
    velocity = np.cumsum(rng.normal(scale=0.05, size=(rows, 2)), axis=0)
    place = np.cumsum(velocity, axis=0)
    observations = np.concatenate([np.sin(place), np.cos(place) * velocity], axis=1)
    return pgdiff.Episodes.from_arrays(
        observations=observations,
        actions=rng.normal(size=(rows, 2)),
        rewards=np.zeros(rows),
        terminals=np.zeros(rows),
        timeouts=np.arange(1, rows + 1) % 500 == 0,
    )


@pytest.fixture(scope="module")
def trainer() -> pgdiff.Trainer:
    return pgdiff.Trainer(
        steps=60, batch_size=32, learning_rate=3e-3, log_every=10, device="cpu", progress=False
    )


@pytest.fixture(scope="module")
def model(episodes: pgdiff.Episodes, trainer: pgdiff.Trainer) -> pgdiff.TrajectoryDiffusion:
    made = flat_model(episodes, horizon=8, stride=2, denoiser=TokenMLPConfig(width=32))
    return trainer.fit(made, episodes)


@pytest.fixture
def folder(model: pgdiff.TrajectoryDiffusion, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def plan(model: pgdiff.TrajectoryDiffusion, *, scale: float) -> pgdiff.Plan:
    guide = SlowPlans(scale=scale)
    planner = flat_planner(model, guides=[guide], candidates=8, steps=5, device="cpu")
    return planner.plan(np.array([0.2, -0.1, 0.1, 0.0], dtype=np.float32), seed=3)


def test_it_learns(model: pgdiff.TrajectoryDiffusion, trainer: pgdiff.Trainer) -> None:
    assert isinstance(model.network, TokenMLP)
    losses = [record["train/diffusion_loss"] for record in trainer.history]
    assert losses[-1] < 0.8 * losses[0]


def test_it_comes_back_from_a_folder(model: pgdiff.TrajectoryDiffusion, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    described = config["learner"]["denoiser"]
    expected = {"kind": "denoiser", "name": "token_mlp", "import": "slow_plans"}
    assert described == {**expected, "width": 32}
    loaded = pgdiff.TrajectoryDiffusion.from_pretrained(folder, device="cpu")
    assert loaded.denoiser == model.denoiser
    before, after = plan(model, scale=1.0), plan(loaded, scale=1.0)
    np.testing.assert_array_equal(before.candidates, after.candidates)
    np.testing.assert_array_equal(before.scores, after.scores)


def test_the_guide_slows_plans(model: pgdiff.TrajectoryDiffusion) -> None:
    unguided, guided = plan(model, scale=0.0), plan(model, scale=0.2)
    # With equal noise, every candidate becomes slower, and the slowest is chosen.
    assert (guided.scores > unguided.scores).all()
    assert guided.best == guided.scores.argmax()
    moves = np.diff(guided.observations[:, :2], axis=0)
    np.testing.assert_allclose(
        guided.scores[guided.best], -np.square(moves).sum(axis=1).mean(), rtol=1e-5
    )


def test_without_the_file_the_error_names_what_is_missing(folder: Path) -> None:
    code = f"import pgdiff; pgdiff.TrajectoryDiffusion.from_pretrained({str(folder)!r})"
    done = python(code)
    assert done.returncode != 0
    message = done.stderr.splitlines()[-1]
    assert "PgdiffError" in message
    assert "token_mlp" in message and "import slow_plans" in message
    with_it = f"import sys; sys.path.insert(0, {str(HERE)!r}); import slow_plans; {code}"
    assert python(with_it).returncode == 0


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in another interpreter, from the root of the checkout."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=HERE.parents[1], capture_output=True, text=True
    )
