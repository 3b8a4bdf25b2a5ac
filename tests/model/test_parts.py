"""Parts of a model and of its sampling that are none, or classes of such."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import generator, stir, tiny_model, walk

from pgdiff import TransitionValue
from pgdiff.diffusion import CosineSchedule, ForcingLevels, Guidance, KarrasSpacing, Pyramid
from pgdiff.diffusion.solvers import DDIM
from pgdiff.guides import Value, bind
from pgdiff.validation import PgdiffError

pytestmark = pytest.mark.usefixtures("unchecked")

EPISODES = walk()
MODEL = tiny_model(EPISODES)
VALUE = Value(stir(TransitionValue.from_episodes(EPISODES, stride=3, width=16, depth=1)))
BOUND = bind(VALUE, MODEL)
MATRIX = [[1.0] * 6, [0.0] * 6]


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("levels", "pyramid", "a LevelSchedule or Tensor. Got 'pyramid'"),
        ("levels", MATRIX, "a LevelSchedule or Tensor"),
        ("levels", np.array(MATRIX), "a LevelSchedule or Tensor. Got a ndarray"),
        ("levels", Pyramid, "a LevelSchedule or Tensor. Got <class"),
        ("solver", "ddim", "a Solver. Got 'ddim'"),
        ("solver", DDIM, "a Solver. Got <class"),
        ("spacing", "karras", "a Spacing"),
        ("spacing", KarrasSpacing, "a Spacing"),
        ("history", 2.0, "a HistoryGuidance"),
        ("history", "vanilla", "a HistoryGuidance"),
        ("monte_carlo", 4, "a MonteCarlo"),
        ("trust_region", 0.5, "a TrustRegion"),
        ("resample", 1, "a Resample"),
        ("known", "start", "a Known"),
        ("observed", 0.1, "an Observed. Got 0.1"),
        ("start", np.zeros((2, 6, 4)), "a Tensor. Got a ndarray"),
        ("condition", {"return": 1.0}, "a Condition"),
        ("classifier_free", 2.0, "a ClassifierFree"),
        ("stabilization", None, "a number in"),
        ("stabilization", "0.1", "a number in"),
        ("guidance", None, "a sequence of Guidance. Got None"),
        ("guidance", BOUND, "a sequence of Guidance. Got a Guidance"),
        (
            "guidance",
            [VALUE],
            r"a sequence of .* a Value in it; pgdiff.guides.bind\(guide, model\)",
        ),
        ("guidance", [Guidance], "a sequence of Guidance"),
        ("generators", generator(0), "a sequence of Generator. Got a Generator"),
        ("generators", [0], "a sequence of Generator. Got 0 in it"),
    ],
)
def test_a_part_of_the_sampling(name: str, part: Any, message: str) -> None:
    settings: dict[str, Any] = {"batch": 2, "generators": [generator(0)], "steps": 2, name: part}
    with pytest.raises(PgdiffError, match=f"^`{name}` must be {message}[^\n]*$"):
        MODEL.sample(**settings)


def test_a_matrix_without_dimensions() -> None:
    with pytest.raises(PgdiffError, match=r"`levels` must have shape .* Got \[\]"):
        MODEL.sample(batch=2, generators=[generator(0)], levels=torch.tensor(1.0))


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("levels", 3, "a TrainingLevels. Got 3"),
        ("levels", "forcing", "a TrainingLevels. Got 'forcing'"),
        ("levels", ForcingLevels, "a TrainingLevels. Got <class"),
        ("loss_weight", "fused_snr", "a LossWeight"),
        ("schedule", "cosine", "a NoiseSchedule"),
        ("schedule", CosineSchedule, "a NoiseSchedule"),
        ("prediction", "x0", "a Prediction"),
    ],
)
def test_a_part_of_the_model(name: str, part: Any, message: str) -> None:
    with pytest.raises(PgdiffError, match=f"`{name}` must be {message}"):
        tiny_model(EPISODES, **{name: part})


def test_samples_are_as_precise_as_the_weights() -> None:
    x = tiny_model(EPISODES).double().sample(batch=2, generators=[generator(0)], steps=2)
    assert x.dtype == torch.float64
