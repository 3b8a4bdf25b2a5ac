import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from regression import PairSource, Regression, make_episodes
from torch import Tensor

from pgdiff import Episodes, InverseDynamics, SegmentValue
from pgdiff.core.validation import PgdiffError
from pgdiff.training import Callback, Learner, Trainer, TrainingDiverged
from pgdiff.training.compilation import compile_errors


def trainer(**settings: Any) -> Trainer:
    return Trainer(**{"steps": 60, "batch_size": 16, "progress": False, "device": "cpu"} | settings)


def equal(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    other = two.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())


def test_learns_the_least_squares_answer() -> None:
    episodes = make_episodes()
    learner = Regression()
    assert isinstance(learner, Learner)
    run = trainer(steps=600, learning_rate=0.05, batch_size=64, validation=0.0, ema_decay=0.98)
    assert run.fit(learner, episodes) is learner
    inputs = np.c_[episodes.observations, np.ones(episodes.steps)]
    answer, *_ = np.linalg.lstsq(inputs, episodes.rewards, rcond=None)
    learned = [*learner.weight.tolist(), learner.bias.item()]
    np.testing.assert_allclose(learned, answer, atol=2e-3)
    assert not learner.training and learner.weight.requires_grad
    assert learner.updates == 600


def test_a_message_says_how_many_episodes_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """90 of 100 episodes are shorter than a segment."""
    messages: list[str] = []
    # Without pytest's `caplog`: an earlier test may have configured logging.
    monkeypatch.setattr("pgdiff.training.trainer._LOG.warning", messages.append)
    lengths = np.array([40] * 10 + [5] * 90)
    rows = int(lengths.sum())
    timeouts = np.isin(np.arange(1, rows + 1), lengths.cumsum())
    observations = np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32)
    episodes = Episodes.from_arrays(
        observations=observations,
        actions=observations[:, :1],
        rewards=np.zeros(rows),
        terminals=np.zeros(rows, bool),
        timeouts=timeouts,
    )
    learner = SegmentValue.from_episodes(episodes, horizon=4, stride=3)
    for held_out in (0.0, 0.5):
        messages.clear()
        trainer(steps=1, validation=held_out).fit(learner, episodes)
        [message] = messages
        assert "SegmentValue learns from 10 of 100 episodes (400 of 850 rows)" in message
        assert "the longest of them has 5 rows" in message
    messages.clear()
    trainer(steps=1).fit(Regression(), make_episodes())
    trainer(steps=1).fit(InverseDynamics.from_episodes(episodes, stride=3), episodes)
    assert messages == []


def test_learner_holds_the_averaged_weights_after_fit() -> None:
    """They equal the trainer's steps, repeated with plain PyTorch and averaged by hand."""
    seen: list[Tensor] = []

    class Watch(Callback):
        def on_step(self, step: int, metrics: dict[str, float]) -> None:
            seen.append(learner.weight.detach().clone())

    learner = Regression()
    run = trainer(steps=30, ema_decay=0.8, callbacks=[Watch()])
    run.fit(learner, make_episodes())
    average = seen[0]
    for n, weight in enumerate(seen[1:], start=1):
        decay = min(0.8, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(learner.weight.detach(), average)
    assert not torch.equal(learner.weight, seen[-1])
    assert equal(learner, run.averaged)  # type: ignore[arg-type]


def test_same_seed_same_weights_another_seed_another() -> None:
    def train(seed: int) -> Regression:
        return trainer(seed=seed).fit(Regression(noise=0.3, dropout=0.2), make_episodes())

    torch.manual_seed(1)
    one = train(0)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert equal(one, train(0))
    assert not equal(one, train(1))
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is put back"


def test_records_have_the_names_of_stable_baselines3(tmp_path: Path) -> None:
    run = trainer(steps=25, log_every=10, validate_every=20, folder=tmp_path)
    run.fit(Regression(), make_episodes())
    assert [record["step"] for record in run.history] == [10, 20, 25]
    assert {"train/loss", "train/squared_loss", "train/ridge_loss"} < run.history[0].keys()
    assert {"train/learning_rate", "train/n_updates", "train/gradient_norm"} < run.history[0].keys()
    assert {"time/fps", "time/iterations", "time/time_elapsed"} < run.history[0].keys()
    assert "eval/loss" not in run.history[0]
    assert {"eval/loss", "eval/squared_loss"} < run.history[1].keys()
    assert "eval/loss" in run.history[2], "the last step is validated"
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.history
    assert not (tmp_path / "checkpoints").exists()

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = events.Scalars("train/loss")
    assert [point.step for point in points] == [10, 20, 25]
    assert points[0].value == pytest.approx(run.history[0]["train/loss"], rel=1e-6)


def test_logged_loss_is_the_mean_since_the_last_record() -> None:
    losses: list[float] = []

    class Watch(Callback):
        def on_step(self, step: int, metrics: dict[str, float]) -> None:
            losses.append(metrics["train/loss"])

    run = trainer(steps=20, log_every=10, callbacks=[Watch()])
    run.fit(Regression(), make_episodes())
    for record, window in zip(run.history, (losses[:10], losses[10:]), strict=True):
        assert record["train/loss"] == pytest.approx(np.mean(window))


def test_validation_sees_held_out_episodes_and_averaged_weights_only() -> None:
    sources: list[PairSource] = []

    class Watched(Regression):
        def dataset(self, episodes: Any) -> PairSource:
            sources.append(PairSource(episodes))
            return sources[-1]

    run = trainer(steps=20, validate_every=10, validation=0.25)
    learner = run.fit(Watched(), make_episodes())
    train, held_out = sources
    assert len(held_out) == 3 * 40 and len(train) == 9 * 40
    assert not set(train.rows) & set(held_out.rows)
    batch = held_out.batch(np.arange(len(held_out)))
    error = batch.inputs @ learner.weight.detach().numpy() + learner.bias.item() - batch.targets
    assert run.history[-1]["eval/loss"] == pytest.approx(np.square(error).mean(), rel=1e-5)


def test_callbacks_are_called_in_order_and_closed() -> None:
    calls: list[str] = []

    class Watch(Callback):
        def on_start(self, trainer: Trainer, learner: Learner) -> None:
            self.trainer = trainer
            calls.append("start")

        def on_step(self, step: int, metrics: dict[str, float]) -> None:
            calls.append(f"step {step}")
            if step == 1:
                self.trainer.log({"eval/mean_reward": 5.0})

        def on_log(self, step: int, metrics: dict[str, float]) -> None:
            calls.append(f"log {step}")

        def on_validation(self, step: int, metrics: dict[str, float]) -> None:
            calls.append(f"validation {step}")

        def on_end(self, trainer: Trainer, learner: Learner) -> None:
            assert not learner.training  # type: ignore[attr-defined]
            calls.append("end")

        def close(self) -> None:
            calls.append("close")

    run = trainer(steps=2, log_every=2, callbacks=[Watch()])
    run.fit(Regression(), make_episodes())
    steps = ["step 1", "log 1", "step 2", "validation 2", "log 2"]
    assert calls == ["start", *steps, "end", "close"]
    assert run.history[0] == {"step": 1, "eval/mean_reward": 5.0}


def _spoiled_loss(calls: int, error: Tensor) -> Tensor:
    return error * float("nan") if calls == 7 else error


class _NanGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * float("inf")


def _spoiled_gradient(calls: int, error: Tensor) -> Tensor:
    return _NanGradient.apply(error) if calls == 7 else error  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_spoiled_loss, "step 7: the loss 'squared' is nan"),
        (_spoiled_gradient, "step 7: the gradient norm is (inf|nan)"),
    ],
    ids=["loss", "gradient"],
)
def test_nan_stops_before_the_weights_change(spoil: Any, message: str, tmp_path: Path) -> None:
    before: list[dict[str, Tensor]] = []
    closed: list[bool] = []

    class Watch(Callback):
        def on_step(self, step: int, metrics: dict[str, float]) -> None:
            before[:] = [
                {name: value.clone() for name, value in module.state_dict().items()}
                for module in (learner, run.averaged)  # type: ignore[attr-defined]
            ]

        def close(self) -> None:
            closed.append(True)

    learner = Regression()
    learner.spoil = spoil
    run = trainer(callbacks=[Watch()], folder=tmp_path, checkpoint_every=7)
    with pytest.raises(TrainingDiverged, match=message) as caught:
        run.fit(learner, make_episodes())
    assert isinstance(caught.value, PgdiffError) and run.step == 6
    for module, values in zip((learner, run.averaged), before, strict=True):
        state = module.state_dict()  # type: ignore[attr-defined]
        assert all(torch.equal(state[name], value) for name, value in values.items())
        assert all(value.isfinite().all() for value in state.values())
    assert closed and not (tmp_path / "checkpoints").exists()


def test_nan_on_held_out_episodes_stops_too() -> None:
    class Unsteady(Regression):
        def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
            losses = super().losses(batch, generator)
            return losses if self.training else {"squared": losses["squared"] * float("nan")}

    with pytest.raises(TrainingDiverged, match="step 10: the loss 'squared' is nan on held-out"):
        trainer(validate_every=10).fit(Unsteady(), make_episodes())


def test_learners_that_do_not_fit_are_refused() -> None:
    class Empty(Regression):
        def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
            return {}

    class Detached(Regression):
        def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
            return {"squared": super().losses(batch, generator)["squared"].detach()}

    class Frozen(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.requires_grad_(False)

    class Starved(Regression):
        def dataset(self, episodes: Any) -> PairSource:
            source = PairSource(episodes)
            if len(episodes) < 6:
                source.rows = source.rows[:0]
            return source

    episodes = make_episodes()
    for learner, message in (
        (torch.nn.Linear(1, 1), "must be a torch.nn.Module with dataset"),
        (Empty(), "at least one loss"),
        (Detached(), "'squared' of Detached must be a differentiable scalar"),
        (Frozen(), "must have a trainable parameter"),
        (Starved(), "`validation` must leave Starved at least one example"),
    ):
        with pytest.raises(PgdiffError, match=message):
            trainer().fit(learner, episodes)  # type: ignore[type-var]
    with pytest.raises(PgdiffError, match="finds no example"):
        trainer(validation=0.0).fit(Starved(), make_episodes(count=3))


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    trainer(progress=True, log_every=5).fit(Regression(), make_episodes())
    assert "Regression" in capsys.readouterr().err


def test_threads_are_for_the_time_of_fit_alone() -> None:
    seen = []

    class Look(Callback):
        def on_step(self, step: int, metrics: dict[str, float]) -> None:
            seen.append(torch.get_num_threads())
            if step == 3:
                raise RuntimeError("broken")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for threads in (1, 3, None):
            with pytest.raises(RuntimeError, match="broken"):
                trainer(threads=threads, callbacks=[Look()]).fit(Regression(), make_episodes())
            assert torch.get_num_threads() == 2
        trainer(threads=1, steps=2).fit(Regression(), make_episodes())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1, 1, 3, 3, 3, 2, 2, 2]
    with pytest.raises(PgdiffError, match="`threads` must be"):
        trainer(threads=0)


def test_a_space_in_a_path_is_named_where_compiling_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.exc import TorchDynamoException

    cache = tmp_path / "a b"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    with pytest.raises(PgdiffError) as error, compile_errors(True):
        raise TorchDynamoException("CppCompileError: C++ compile error\n\nCommand: g++ ...")
    assert "torch.compile failed (CppCompileError: C++ compile error)" in str(error.value)
    assert f"the space in '{cache}'. Set TORCHINDUCTOR_CACHE_DIR to" in str(error.value)


def test_compile_calls_the_learner_or_says_that_it_cannot() -> None:
    class Compiled(Regression):
        compiled = False

        def compile_parts(self) -> None:
            self.compiled = True

    learner = trainer(compile=True, steps=2).fit(Compiled(), make_episodes())
    assert learner.compiled
    with pytest.warns(UserWarning, match="no compile_parts"):
        trainer(compile=True, steps=2).fit(Regression(), make_episodes())


def test_a_failing_compilation_is_one_clear_error() -> None:
    class Uncompilable(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = Double()  # type: ignore[assignment]

        def compile_parts(self) -> None:
            self.dropout.compile(backend=_broken_backend)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(PgdiffError, match="`compile` must be False"):
            trainer(compile=True, steps=2).fit(Uncompilable(), make_episodes())


class Double(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2.0


def _broken_backend(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no compiler")


def test_without_tensorboard_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.warns(UserWarning, match=r"pip install 'pgdiff-rl\[train\]'"):
        trainer(steps=2, folder=tmp_path).fit(Regression(), make_episodes())
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PgdiffError, match=r"Cannot write .*metrics\.jsonl"):
        trainer(folder=tmp_path / "file").fit(Regression(), make_episodes())
    assert (tmp_path / "file").read_text() == "mine"


def test_averaged_weights_exist_from_the_start_of_fit() -> None:
    with pytest.raises(PgdiffError, match="`fit`"):
        _ = trainer().averaged
