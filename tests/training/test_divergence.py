"""NaN in data, losses, gradients, weights, averages and the optimiser reaches no checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from regression import PairSource, Regression, make_episodes
from safetensors.torch import load_file
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.training import Callback, Trainer, TrainingDiverged, list_checkpoints

NAN = float("nan")


class Spoiled(Regression):
    """Spoils something at the given calls (from 1)."""

    def __init__(self, what: str = "", calls: tuple[int, ...] = (7,)) -> None:
        super().__init__(noise=0.1)
        self.what, self.bad_calls = what, calls

    def dataset(self, episodes: Any) -> PairSource:
        return SpoiledSource(episodes) if self.what == "data" else super().dataset(episodes)

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        losses = super().losses(batch, generator)
        if not self.training or self.calls not in self.bad_calls:
            return losses
        if self.what == "loss":
            losses["ridge"] = losses["ridge"] + NAN
        if self.what == "gradient":
            losses["ridge"] = losses["ridge"] + _Explodes.apply(self.bias)  # type: ignore
        if self.what == "large":
            losses["ridge"] = losses["ridge"] + 1e30 * self.weight.sum() - 1e30 * self.bias
        return losses

    @torch.no_grad()
    def after_step(self) -> None:
        super().after_step()
        if self.what == "weight" and self.calls in self.bad_calls:
            self.weight[1] = NAN
        if self.what == "target" and self.calls in self.bad_calls:
            self.target[2] = float("inf")


class _Explodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return 0 * value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * NAN


class SpoiledSource(PairSource):
    """The reward of row 11 is NaN."""

    def batch(self, indices: np.ndarray) -> Any:
        pairs = super().batch(indices)
        targets = pairs.targets.copy()
        targets[self.rows[indices] == 11] = NAN
        return pairs._replace(targets=targets)


class Act(Callback):
    """Calls a function of trainer and step after every step."""

    def __init__(self, act: Callable[[Trainer, int], None]) -> None:
        self.act = act

    def on_start(self, trainer: Trainer, learner: Any) -> None:
        self.trainer = trainer

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        self.act(self.trainer, step)


def trainer(folder: Path | None = None, **settings: Any) -> Trainer:
    defaults = {"steps": 30, "batch_size": 8, "progress": False, "device": "cpu", "log_every": 5}
    if folder is not None:
        defaults["checkpoint_every"] = 3
    return Trainer(folder=folder, **defaults | settings)


def sound(folder: Path) -> list[str]:
    """Return the names of the checkpoints; every value in them is finite."""
    found = list_checkpoints(folder / "checkpoints")
    for checkpoint in found:
        for file in checkpoint.glob("*.safetensors"):
            assert all(tensor.isfinite().all() for tensor in load_file(file).values()), file
    return [checkpoint.name for checkpoint in found]


def test_it_stops_with_step_and_cause(tmp_path: Path) -> None:
    for what, message in (
        ("loss", r"at step 7: the loss 'ridge' is nan\. The weights are those of step 6"),
        ("gradient", r"at step 7: the gradient norm is nan .*1 parameters .*first 'bias'"),
        ("weight", "at step 8: the loss 'squared' is nan.*because the weight 'weight' is not"),
        ("data", "the loss 'squared' is nan, because `targets` of the batch is not.*example"),
    ):
        settings = {"steps": 300, "checkpoint_every": 100} if what == "data" else {}
        with pytest.raises(TrainingDiverged, match=message):
            trainer(tmp_path / what, **settings).fit(Spoiled(what), make_episodes())
        names = sound(tmp_path / what)
        assert what == "data" or names[-1] == "step-00000006"


def test_a_gradient_that_overflows_its_norm() -> None:
    with pytest.raises(TrainingDiverged, match=r"gradient norm is inf.*every gradient is finite"):
        trainer().fit(Spoiled("large"), make_episodes())


def test_weights_spoiled_after_the_step_reach_no_checkpoint(tmp_path: Path) -> None:
    for name in ("target", "weight"):
        with pytest.raises(
            TrainingDiverged, match=rf"after step 9: '{name}' of the weights is not"
        ):
            trainer(tmp_path / name).fit(Spoiled(name, (9,)), make_episodes())
        assert sound(tmp_path / name) == ["step-00000003", "step-00000006"]


def _average(run: Trainer, step: int) -> None:
    if step == 8:
        run.averaged.bias.fill_(NAN)  # type: ignore[attr-defined]


def _optimiser(run: Trainer, step: int) -> None:
    if step == 9:
        assert run._state is not None
        for state in run._state.optimizer.state.values():
            state["exp_avg"].fill_(float("inf"))


def test_callbacks_that_spoil_something_are_found_out(tmp_path: Path) -> None:
    for act, message in (
        (_average, "'bias' of the averaged weights"),
        (_optimiser, r"'weight\.exp_avg' of the optim"),
    ):
        folder = tmp_path / act.__name__
        run = trainer(folder, callbacks=[Act(act)], validation=0.0)
        with pytest.raises(TrainingDiverged, match=f"after step 9: {message}.* is not finite"):
            run.fit(Regression(), make_episodes())
        assert sound(folder) == ["step-00000003", "step-00000006"]


def test_without_checkpoints_it_is_found_at_the_end() -> None:
    def spoil(run: Trainer, step: int) -> None:
        if step == 30:
            run.averaged.bias.fill_(NAN)  # type: ignore[attr-defined]

    with pytest.raises(TrainingDiverged, match="after step 30: 'bias' of the averaged weights"):
        trainer(callbacks=[Act(spoil)], validation=0.0).fit(Regression(), make_episodes())


# ----------------------------------------------------------------------------------------- skipping


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_skipped_update_changes_nothing_and_is_counted(what: str, tmp_path: Path) -> None:
    states: list[dict[str, Tensor]] = []

    def keep(run: Trainer, step: int) -> None:
        assert run._state is not None
        state = run._state
        parts = {"learner": learner, "averaged": run.averaged}
        states.append(
            {
                f"{part} {name}": value.clone()
                for part, module in parts.items()
                for name, value in module.state_dict().items()  # type: ignore[attr-defined]
            }
            | {
                f"{number} {key}": value.clone()
                for number, values in enumerate(state.optimizer.state.values())
                for key, value in values.items()
            }
        )

    learner = Spoiled(what, (7, 8, 20))
    run = trainer(tmp_path, on_nan="skip", callbacks=[Act(keep)])
    run.fit(learner, make_episodes())
    for step in (7, 8, 20):  # the state after a skipped step equals that before it
        before, after = states[step - 2], states[step - 1]
        assert all(torch.equal(before[name], after[name]) for name in before)
    changed = [s for s in range(2, 31) if not _same(states[s - 2], states[s - 1])]
    assert changed == [s for s in range(2, 31) if s not in (7, 8, 20)]
    skipped = {record["step"]: record["train/skipped"] for record in run.history}
    assert skipped == {5: 0, 10: 2, 15: 2, 20: 3, 25: 3, 30: 3}
    assert all(np.isfinite(record["train/loss"]) for record in run.history)
    assert learner.updates == 27 and sound(tmp_path)


def _same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, two[name]) for name, value in one.items())


def test_too_many_in_a_row_stop() -> None:
    skipping = {"on_nan": "skip", "max_skips": 3}
    trainer(**skipping).fit(Spoiled("loss", (4, 5, 6, 10, 11, 12)), make_episodes())
    with pytest.raises(TrainingDiverged, match=r"step 13: .*`max_skips`=3"):
        trainer(**skipping).fit(Spoiled("loss", (4, 5, 6, 10, 11, 12, 13)), make_episodes())
    with pytest.raises(TrainingDiverged, match=r"step 1: .*`max_skips`=0"):
        trainer(on_nan="skip", max_skips=0).fit(Spoiled("loss", (1,)), make_episodes())


def test_spoiled_weights_are_not_skipped_over() -> None:
    with pytest.raises(
        TrainingDiverged, match=r"step 8: .*the weight 'weight'.*Skipping cannot fix"
    ):
        trainer(on_nan="skip").fit(Spoiled("weight"), make_episodes())


def test_a_window_of_the_log_in_which_all_is_skipped(tmp_path: Path) -> None:
    run = trainer(tmp_path, on_nan="skip", validation=0.0)
    run.fit(Spoiled("loss", (6, 7, 8, 9, 10)), make_episodes())
    record = run.history[1]
    assert record["step"] == 10 and record["train/skipped"] == 5 and "train/loss" not in record
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.history


class ByData(Spoiled):
    """The fault follows from the batch, so that a resumed training meets it too."""

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        losses = Regression.losses(self, batch, generator)
        if self.training and float(batch.inputs[0, 0]) > 0.8:
            losses["ridge"] = losses["ridge"] + NAN
        return losses


def test_a_stopped_training_goes_on_with_skip_and_is_exact(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", on_nan="skip")
    whole.fit(ByData(), make_episodes())
    assert whole.history[-1]["train/skipped"] > 2
    with pytest.raises(TrainingDiverged) as error:
        trainer(tmp_path / "cut", checkpoint_every=1).fit(ByData(), make_episodes())
    assert isinstance(error.value, PgdiffError)

    def stop(run: Trainer, step: int) -> None:
        if step == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut", on_nan="skip", resume=True, callbacks=[Act(stop)]).fit(
            ByData(), make_episodes()
        )
    trainer(tmp_path / "cut", on_nan="skip", resume=True).fit(ByData(), make_episodes())
    for name in ("manifest.json", "trainer.json"):
        one, two = (
            (tmp_path / run / "checkpoints" / "step-00000030" / name).read_bytes()
            for run in ("whole", "cut")
        )
        assert one == two
