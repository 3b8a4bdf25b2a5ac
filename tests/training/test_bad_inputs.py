"""Bad settings and data of trainings: a table of errors (for files, see `test_bad_files.py`).

Unusual but sound: a batch larger than the data is accepted; examples are drawn with replacement.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from regression import Regression, make_episodes
from toys import flat_model

from pgdiff.core.validation import PgdiffError
from pgdiff.critics import TransitionValue
from pgdiff.data import Episodes, SegmentDataset
from pgdiff.denoisers import TemporalUnetConfig
from pgdiff.model import TrajectoryDiffusion
from pgdiff.training import Trainer

NAN, INF = float("nan"), float("inf")


def trainer(**settings: Any) -> Trainer:
    return Trainer(**{"steps": 4, "batch_size": 8, "progress": False, "device": "cpu"} | settings)


# ----------------------------------------------------------------------------------------- settings

SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "no steps": ({"steps": 0}, "`steps` must be an integer of at least 1. Got 0"),
    "steps below zero": ({"steps": -3}, "`steps`"),
    "half a step": ({"steps": 2.5}, "`steps`"),
    "true for a number": ({"steps": True}, "`steps` must be an integer of at least 1. Got True"),
    "batch of none": ({"batch_size": 0}, "`batch_size` must be an integer of at least 1. Got 0"),
    "half an example": ({"batch_size": 2.5}, "`batch_size`"),
    "learning rate 0": ({"learning_rate": 0.0}, "`learning_rate` must be a number in (0"),
    "learning rate below zero": ({"learning_rate": -1e-3}, "`learning_rate`"),
    "learning rate NaN": ({"learning_rate": NAN}, "`learning_rate` must be a number"),
    "learning rate infinite": ({"learning_rate": INF}, "`learning_rate`"),
    "learning rate in words": ({"learning_rate": "3e-4"}, "`learning_rate`"),
    "warm-up below zero": ({"warmup": -1}, "`warmup`"),
    "weight decay below zero": ({"weight_decay": -0.1}, "`weight_decay`"),
    "an average that never moves": ({"ema_decay": 1.0}, "`ema_decay`"),
    "gradients clipped to nothing": ({"clip_norm": 0.0}, "`clip_norm`"),
    "everything held out": ({"validation": 1.0}, "`validation`"),
    "never validated": ({"validate_every": 0}, "`validate_every`"),
    "never logged": ({"log_every": 0}, "`log_every`"),
    "a checkpoint every 0 steps": ({"checkpoint_every": 0}, "`checkpoint_every`"),
    "no checkpoint kept": ({"keep": 0}, "`keep`"),
    "processes below zero": ({"workers": -1}, "`workers`"),
    "unknown rule for NaN": ({"on_nan": "ignore"}, "`on_nan` must be one of {skip, stop}"),
    "skips below zero": ({"on_nan": "skip", "max_skips": -1}, "`max_skips`"),
    "seed below zero": ({"seed": -1}, "`seed` must be an integer in [0, 2^63)"),
    "seed too large": ({"seed": 2**63}, "`seed`"),
    "unknown device": ({"device": "gpu"}, "`device` must be 'auto', 'cpu'"),
    "callback that is none": ({"callbacks": ["bar"]}, "`callbacks` must be a sequence of Callback"),
    "resume without a folder": ({"resume": True}, "`folder` must be set"),
    "checkpoints without a folder": ({"checkpoint_every": 5}, "`folder` must be set"),
}


def test_settings_of_the_trainer() -> None:
    for name, (settings, message) in SETTINGS.items():
        with pytest.raises(PgdiffError) as error:
            trainer(**settings)
        assert message in str(error.value), name


# ---------------------------------------------------------------------------------- data and shapes


def _episodes(length: int = 40) -> Episodes:
    return make_episodes(count=12, length=length)


def _model(**arguments: Any) -> TrajectoryDiffusion:
    settings: dict[str, Any] = {"horizon": 8, "stride": 2}
    settings |= arguments
    return flat_model(_episodes(), **settings)


def _value(**arguments: Any) -> TransitionValue:
    return TransitionValue.from_episodes(_episodes(), **{"stride": 2, "width": 8} | arguments)


def _nan_episodes() -> Episodes:
    rewards = np.zeros(40)
    rewards[13] = NAN
    ends = np.arange(40) == 39
    return Episodes.from_arrays(
        observations=np.zeros((40, 2)),
        actions=np.zeros((40, 1)),
        rewards=rewards,
        terminals=np.zeros(40),
        timeouts=ends,
    )


SHAPES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "horizon 0": (lambda: SegmentDataset(_episodes(), 0, 1), ["`horizon`", "at least 1", "Got 0"]),
    "horizon -3": (lambda: SegmentDataset(_episodes(), -3, 1), ["`horizon`", "Got -3"]),
    "horizon above every episode": (
        lambda: SegmentDataset(_episodes(), 50, 1),
        ["`horizon` 50", "longest of the 12 episodes has 40 rows", "horizon of 40"],
    ),
    "horizon above every episode at its stride": (
        lambda: trainer().fit(_model(horizon=50), _episodes()),
        ["`horizon` 50 at `stride` 2 needs 99 rows", "horizon of 20"],
    ),
    "stride 0": (lambda: SegmentDataset(_episodes(), 4, 0), ["`stride`", "Got 0"]),
    "horizon that a U-Net cannot halve": (
        lambda: _model(horizon=10, denoiser=TemporalUnetConfig()),
        ["multiple of 4", "3 resolutions", "Got 10"],
    ),
    "discount 0": (lambda: _value(discount=0.0), ["`discount`", "Got 0.0"]),
    "discount above 1": (lambda: _value(discount=1.5), ["`discount`", "Got 1.5"]),
    "discount NaN": (lambda: _value(discount=NAN), ["`discount`", "Got nan"]),
    "discount below 0 of rewards": (
        lambda: SegmentDataset(_episodes(), 4, 1, fields=("rewards",), discount=-0.5),
        ["`discount`", "Got -0.5"],
    ),
    "unknown field": (
        lambda: SegmentDataset(_episodes(), 4, 1, fields=("action",)),
        ["`fields`", "Did you mean 'actions'"],
    ),
    "unknown normaliser": (lambda: _value(normalizer="limit"), ["Did you mean 'limits'"]),
    "NaN in the recording": (_nan_episodes, ["`rewards`, row 13", "NaN"]),
    "held-out episodes too short": (
        lambda: trainer(validation=0.1).fit(_model(horizon=20), make_episodes(count=5, length=40)),
        ["`validation`", "0.1", "0 to disable validation"],
    ),
    "normaliser of another size": (
        lambda: TrajectoryDiffusion(
            codec=replace(
                _model().codec, normalizer=type(_value().normalizer)(torch.zeros(5), torch.ones(5))
            ),
            denoiser=_model().denoiser,
        ),
        ["`normalizer` must have the 3 features", "Got 5"],
    ),
    "a value where a model is asked for": (
        lambda: trainer().fit(_episodes(), _episodes()),  # type: ignore[type-var]
        ["`learner` must be a torch.nn.Module", "Got Episodes"],
    ),
}


@pytest.mark.usefixtures("unchecked")
def test_data_and_shapes() -> None:
    for name, (make, fragments) in SHAPES.items():
        with pytest.raises(PgdiffError) as error:
            make()
        for fragment in fragments:
            assert fragment in str(error.value), name


def test_a_batch_larger_than_the_data_is_drawn_with_replacement() -> None:
    run = trainer(batch_size=5000, steps=2)
    run.fit(Regression(), make_episodes(count=2, length=5))
    assert run.history[-1]["step"] == 2
