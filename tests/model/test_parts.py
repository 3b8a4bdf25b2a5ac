"""Wrong parts of a model and of its sampling, and classes instead of instances."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import flat_sample, generator, stir, tiny_model, walk

from pgdiff import DiffusionProcess, Sampling, TransitionValue
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import (
    CosineSchedule,
    ForcingLevels,
    Guidance,
    KarrasSpacing,
    NoiseSource,
    Pyramid,
)
from pgdiff.diffusion.solvers import DDIM
from pgdiff.guides import Value, bind

pytestmark = pytest.mark.usefixtures("unchecked")

EPISODES = walk()
MODEL = tiny_model(EPISODES)
VALUE = Value(stir(TransitionValue.from_episodes(EPISODES, stride=3, width=16, depth=1)))
BOUND = bind(VALUE, MODEL)
MATRIX = [[1.0] * 6, [0.0] * 6]


SETTINGS: list[tuple[str, Any, str]] = [
    ("level_schedule", "pyramid", "a LevelSchedule or Tensor. Got 'pyramid'"),
    ("level_schedule", MATRIX, "a LevelSchedule or Tensor"),
    ("level_schedule", np.array(MATRIX), "a LevelSchedule or Tensor. Got a ndarray"),
    ("level_schedule", Pyramid, "a LevelSchedule or Tensor. Got <class"),
    ("solver", "ddim", "a Solver. Got 'ddim'"),
    ("solver", DDIM, "a Solver. Got <class"),
    ("spacing", "karras", "a Spacing"),
    ("spacing", KarrasSpacing, "a Spacing"),
    ("history", 2.0, "a HistoryGuidance"),
    ("history", "vanilla", "a HistoryGuidance"),
    ("monte_carlo", 4, "a MonteCarlo"),
    ("trust_region", 0.5, "a TrustRegion"),
    ("particles", 1, "a Resample"),
    ("classifier_free", 2.0, "a ClassifierFree"),
    ("stabilization", None, "a number in"),
    ("stabilization", "0.1", "a number in"),
    ("steps", 0, "an integer of at least 1"),
    ("horizon", 0, "an integer of at least 1"),
    ("clip", -1.0, "a number in"),
    ("kv_cache", 1, "true or false"),
]
ARGUMENTS: list[tuple[str, Any, str]] = [
    ("sampling", 4, "a Sampling. Got 4"),
    ("inpainting", "start", "an Inpainting"),
    ("measurement", 0.1, "a Measurement. Got 0.1"),
    ("start", np.zeros((2, 6, 4)), "a Tensor. Got a ndarray"),
    ("condition", 1.0, "a Condition or Mapping. Got 1.0"),
    ("guides", None, "a sequence of guides"),
    ("guides", VALUE, "a sequence of guides. Got a Value"),
    ("guides", BOUND, "a sequence of guides. Got a Guidance"),
    ("seed", generator(0), "an integer in"),
    ("seed", [0.5], "an integer in"),
    ("seed", [generator(0), 0], "a sequence of Generator. Got 0 in it"),
    ("seed", NoiseSource.from_seeds(0, batch=3), "a NoiseSource for the batch of 2. .* of 3"),
]


def test_a_wrong_setting_of_the_sampling_is_named() -> None:
    for name, part, message in SETTINGS:
        with pytest.raises(PgdiffError, match=f"^`{name}` must be {message}[^\n]*$"):
            Sampling(**{name: part})


def test_a_wrong_argument_of_sample_is_named() -> None:
    for name, part, message in ARGUMENTS:
        with pytest.raises(PgdiffError, match=f"^`{name}` must be {message}[^\n]*$"):
            MODEL.sample(2, **({"sampling": Sampling(steps=2)} | {name: part}))
    for guides in ([Guidance], [Value], [3]):
        with pytest.raises(PgdiffError, match="`guides` must have the attributes name"):
            MODEL.sample(2, guides=guides)


def test_a_matrix_without_dimensions() -> None:
    with pytest.raises(PgdiffError, match=r"`levels` must have shape .* Got \[\]"):
        flat_sample(MODEL, batch=2, generators=[generator(0)], level_schedule=torch.tensor(1.0))


def test_a_wrong_part_of_the_process_is_named() -> None:
    for name, part, message in (
        ("level_distribution", 3, "a LevelDistribution. Got 3"),
        ("level_distribution", "forcing", "a LevelDistribution. Got 'forcing'"),
        ("level_distribution", ForcingLevels, "a LevelDistribution. Got <class"),
        ("loss_weight", "fused_snr", "a LossWeight"),
        ("noise_schedule", "cosine", "a NoiseSchedule"),
        ("noise_schedule", CosineSchedule, "a NoiseSchedule"),
        ("prediction", "x0", "a Prediction"),
    ):
        with pytest.raises(PgdiffError, match=f"`{name}` must be {message}"):
            DiffusionProcess(**{name: part})


def test_samples_are_as_precise_as_the_weights() -> None:
    x = flat_sample(tiny_model(EPISODES).double(), batch=2, generators=[generator(0)], steps=2)
    assert x.dtype == torch.float64
