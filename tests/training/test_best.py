"""The best weights by a logged metric, and evaluation by a user function."""

from pathlib import Path
from typing import Any

import pytest
import torch
from regression import Regression, make_episodes
from safetensors.torch import load_file
from stopping import Stop

from pgdiff.core.validation import PgdiffError
from pgdiff.training import Callback, EvaluationCallback, Trainer, list_checkpoints

SCORES = {10: 0.3, 20: 0.9, 30: 0.1, 40: 0.9, 50: 0.2}


class Kept(Callback):
    """Averaged weights after every step."""

    def __init__(self) -> None:
        self.weights: dict[int, torch.Tensor] = {}

    def on_start(self, trainer: Trainer, learner: Any) -> None:
        self.trainer = trainer

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        averaged: Any = self.trainer.averaged
        self.weights[step] = averaged.weight.detach().clone()


def score(learner: Any, step: int) -> dict[str, float]:
    assert not learner.training
    return {"eval/score": SCORES[step]}


def trainer(folder: Path | None, *callbacks: Callback, **settings: Any) -> Trainer:
    defaults = {"steps": 50, "batch_size": 8, "progress": False, "device": "cpu"}
    every = EvaluationCallback(score, every=10)
    return Trainer(folder=folder, callbacks=[every, *callbacks], **defaults | settings)


def fit(run: Trainer) -> Regression:
    return run.fit(Regression(noise=0.2), make_episodes())


@pytest.mark.parametrize(("mode", "best"), [("max", 20), ("min", 30)])
def test_best_is_kept_whatever_keep_is(mode: str, best: int, tmp_path: Path) -> None:
    kept = Kept()
    settings = {"best": "eval/score", "mode": mode, "checkpoint_every": 5, "keep": 1}
    run = trainer(tmp_path, kept, **settings)
    learner = fit(run)
    assert [record["eval/score"] for record in run.history] == list(SCORES.values())
    assert torch.equal(learner.weight, kept.weights[50]), "the last average, unless requested"
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 1
    file = tmp_path / "best" / "ema.safetensors"
    assert torch.equal(load_file(file)["weight"], kept.weights[best])
    # A finished training also returns the best.
    again = fit(trainer(tmp_path, **settings, use_best=True, resume=True))
    assert torch.equal(again.weight, kept.weights[best])
    other = fit(trainer(tmp_path / "other", **settings, use_best=True))
    assert torch.equal(other.weight, kept.weights[best])


def test_resumed_it_is_the_same(tmp_path: Path) -> None:
    """Interrupted before, between and after checkpoints, validations and records."""
    for metric in ("eval/loss", "train/loss", "eval/score"):
        settings = {"best": metric, "checkpoint_every": 8, "log_every": 3, "validate_every": 4}
        root = tmp_path / metric.replace("/", "-")
        fit(trainer(root / "whole", **settings))
        for at in (9, 22) if metric != "eval/score" else (9, 47):
            with pytest.raises(KeyboardInterrupt):
                fit(trainer(root / str(at), Stop(at), **settings))
            fit(trainer(root / str(at), **settings, resume=True))
            for name in ("best", "checkpoints/step-00000050"):
                one, two = (root / run / name / "manifest.json" for run in ("whole", str(at)))
                assert one.read_bytes() == two.read_bytes(), (metric, at, name)


def test_a_damaged_best_is_set_aside(tmp_path: Path) -> None:
    settings = {"best": "eval/score", "mode": "max", "checkpoint_every": 5}
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(tmp_path, Stop(27), **settings))
    file = tmp_path / "best" / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"ema\.safetensors' is damaged.*best weights so far"):
        fit(trainer(tmp_path, **settings, resume=True))
    assert (tmp_path / "best.damaged").is_dir() and (tmp_path / "best").is_dir()


def test_another_metric_is_no_resumption(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(tmp_path, Stop(27), best="eval/loss", checkpoint_every=5))
    with pytest.raises(PgdiffError, match="`best` must be 'eval/loss min'"):
        fit(trainer(tmp_path, best="train/loss", checkpoint_every=5, resume=True))


def test_a_metric_that_is_never_logged(tmp_path: Path) -> None:
    fit(trainer(tmp_path / "a", best="eval/sccore"))
    with pytest.raises(PgdiffError, match="Got 'eval/sccore', which was never logged"):
        fit(trainer(tmp_path / "b", best="eval/sccore", use_best=True))


def test_settings(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"best": "eval/loss", "folder": None}, "`folder` must be set for `best`"),
        ({"best": "eval/loss", "validation": 0.0}, "`validation` must be above 0"),
        ({"use_best": True}, "`best` must be a metric"),
        ({"best": 3}, "`best` must be the name"),
        ({"best": "eval/loss", "mode": "mx"}, "Did you mean 'max'"),
    ]
    for settings, message in cases:
        with pytest.raises(PgdiffError, match=message):
            Trainer(**{"steps": 5, "folder": tmp_path} | settings)


def test_evaluation_has_no_part_in_training() -> None:
    """It may draw from the global generator; the weights are as without it."""

    def noisy(learner: Any, step: int) -> dict[str, float]:
        return {"eval/noise": float(torch.rand(()))}

    def weights(*callbacks: Callback) -> torch.Tensor:
        run = Trainer(steps=20, progress=False, device="cpu", callbacks=callbacks)
        return run.fit(Regression(noise=0.1, dropout=0.3), make_episodes()).weight

    assert torch.equal(weights(), weights(EvaluationCallback(noisy, every=3)))


def test_what_an_evaluation_may_return() -> None:
    def run(value: Any) -> list[dict[str, float]]:
        act = EvaluationCallback(lambda learner, step: {"eval/x": value}, every=2)
        run = Trainer(steps=3, progress=False, device="cpu", callbacks=[act], log_every=100)
        run.fit(Regression(), make_episodes())
        return run.history

    assert [(r["step"], r["eval/x"]) for r in run(torch.tensor(2.5))] == [(2, 2.5), (3, 2.5)]
    with pytest.warns(UserWarning, match="'eval/x' is nan at step"):
        history = run(float("nan"))
    assert all("eval/x" not in record for record in history)
    with pytest.raises(PgdiffError, match=r"'eval/x' must be a float\. Got 'good'"):
        run("good")
    with pytest.raises(PgdiffError, match="`every`"):
        EvaluationCallback(score, every=0)
