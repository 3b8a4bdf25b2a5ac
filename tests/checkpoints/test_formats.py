"""Every released format loads, samples, and reproduces its stored plan."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import flat_planner

from pgdiff import InverseDynamics, TrajectoryDiffusion, TransitionValue, load_learner
from pgdiff.core.serialization import FORMAT
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import DDIM, UniformSpacing
from pgdiff.guides import Value

HERE = Path(__file__).parent
PLAINEST: dict[str, Any] = {"solver": DDIM(), "spacing": UniformSpacing()}
each_format = pytest.mark.parametrize("number", range(1, FORMAT + 1))


@each_format
def test_old_checkpoints_plan_as_they_did(number: int) -> None:
    folder = HERE / f"format{number}"
    expected = json.loads((folder / "plan.json").read_text())
    model = TrajectoryDiffusion.from_pretrained(folder / "model", device="auto")
    value = TransitionValue.from_pretrained(folder / "value", device="auto")
    controller = InverseDynamics.from_pretrained(folder / "inverse_dynamics", device="auto")
    assert model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    observation = np.array(expected["observation"])
    guide = Value(value, **expected["guide"])
    settings = expected["planner"] | PLAINEST
    planner = flat_planner(model, guides=[guide], controller=controller, **settings)
    plan = planner.plan(observation)
    unguided = flat_planner(model, **settings).plan(observation)
    action, _ = planner.predict(observation)

    def compare(name: str, got: Any) -> None:
        difference = np.abs(np.asarray(got) - np.asarray(expected[name])).max()
        print(f"\nformat {number}, {name}: largest difference {difference:.1e}")
        assert difference < 1e-4

    compare("candidates", plan.candidates)
    compare("scores", plan.scores)
    compare("unguided", unguided.candidates)
    compare("action", action)
    assert plan.best == expected["best"]
    assert np.abs(plan.candidates - unguided.candidates).max() > 0.01, "the guide has an effect"


@each_format
def test_old_checkpoints_say_their_format_and_are_small(number: int) -> None:
    folder = HERE / f"format{number}"
    for name in ("model", "value", "inverse_dynamics"):
        config = json.loads((folder / name / "config.json").read_text())
        assert config["format"] == number and config["version"]
        load_learner(folder / name, device="cpu")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"\nformat {number}: {size / 1000:.0f} kB")
    assert size < 100_000


def test_a_newer_format_is_refused_and_both_are_named(tmp_path: Path) -> None:
    shutil.copytree(HERE / f"format{FORMAT}" / "value", tmp_path / "value")
    for name in ("manifest.json", "config.json"):
        file = tmp_path / "value" / name
        text = file.read_text()
        file.write_text(text.replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}'))
    with pytest.raises(PgdiffError, match=f"has format {FORMAT + 1}; .* up to {FORMAT}"):
        load_learner(tmp_path / "value")
