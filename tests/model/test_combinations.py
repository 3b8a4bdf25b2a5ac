"""Every schedule with every prediction, backbone and solver: saved, loaded, trained, sampled."""

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import generator, stir, walk

from pgdiff import TrajectoryDiffusion
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import Consistency
from pgdiff.diffusion.schedules import TabulatedSchedule
from pgdiff.diffusion.training_levels import IndependentLevels, MixtureLevels, SequenceLevels
from pgdiff.registry import registered, to_config
from pgdiff.validation import PgdiffError

EPISODES = walk()
TABLE = tuple(torch.linspace(0.999**0.5, 1e-3, 50, dtype=torch.float64).square().tolist())
SMALL = {
    "transformer": {"width": 16, "depth": 1, "heads": 2},
    "temporal_unet": {"width": 8, "mults": (1, 2)},
    "residual_mlp": {"width": 16, "depth": 1},
}
# Which predictions a schedule refuses, from their definitions alone.
REFUSED = {
    "epsilon": {"cosine", "sigmoid", "flow"},  # alpha(1) is 0
    "v": {"flow", "edm"},  # variance is not preserved
    "flow": {"cosine", "linear", "sigmoid", "edm", "tabulated"},  # alpha + sigma is not 1
}
UNFITTED = [
    (schedule, prediction) for prediction, names in REFUSED.items() for schedule in sorted(names)
]
PAIRS = [
    pair
    for pair in itertools.product(registered("schedule"), registered("prediction"))
    if pair not in UNFITTED
]


def make_schedule(name: str) -> Any:
    if name == "tabulated":
        return TabulatedSchedule(alphas_cumprod=TABLE)
    return registered("schedule")[name]()


def make_model(schedule: str, prediction: str, **options: Any) -> TrajectoryDiffusion:
    settings = {
        "horizon": 6,
        "stride": 3,
        "denoiser": TransformerConfig(width=16, depth=1, heads=2),
        "schedule": make_schedule(schedule),
        "prediction": registered("prediction")[prediction](),
    }
    return TrajectoryDiffusion.from_episodes(EPISODES, **(settings | options))


def draw(model: TrajectoryDiffusion, **options: Any) -> torch.Tensor:
    known = model.given(torch.tensor([[0.3, -0.2, 0.1, 0.0]] * 4))
    return model.sample(batch=4, generators=[generator(3)], known=known, steps=4, **options)


def losses(model: TrajectoryDiffusion) -> torch.Tensor:
    raw = model.dataset(EPISODES).batch(torch.arange(8).numpy())
    batch = type(raw)(*(torch.as_tensor(value) for value in raw))
    return model.losses(batch, generator(0))["diffusion"]


def check_round_trip(model: TrajectoryDiffusion, folder: Path) -> None:
    stir(model)
    model.save_pretrained(folder)
    again = TrajectoryDiffusion.from_pretrained(folder, device="cpu")
    assert to_config(again) == to_config(model)
    assert torch.equal(draw(again), draw(model))


@pytest.mark.parametrize(("schedule", "prediction"), PAIRS)
def test_each_pair_learns_is_saved_and_samples(
    schedule: str, prediction: str, tmp_path: Path
) -> None:
    model = make_model(schedule, prediction)
    loss = losses(model)
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    check_round_trip(model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())["learner"]
    assert config["schedule"]["name"] == schedule
    assert config["prediction"]["name"] == prediction


@pytest.mark.parametrize(("schedule", "prediction"), UNFITTED)
def test_a_prediction_that_does_not_fit_is_refused_by_name(schedule: str, prediction: str) -> None:
    with pytest.raises(PgdiffError, match=f"`prediction` must not be '{prediction}'"):
        make_model(schedule, prediction)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_each_backbone(name: str, tmp_path: Path) -> None:
    denoiser = registered("denoiser")[name](**SMALL.get(name, {}))
    model = make_model("cosine", "x0", denoiser=denoiser)
    losses(model).backward()
    check_round_trip(model, tmp_path / "model")


@pytest.mark.parametrize("weight", sorted(registered("loss_weight")))
@pytest.mark.parametrize("prediction", ["x0", "v", "edm"])
def test_each_loss_weight(weight: str, prediction: str, tmp_path: Path) -> None:
    model = make_model("cosine", prediction, loss_weight=registered("loss_weight")[weight]())
    loss = losses(model)
    assert torch.isfinite(loss) and loss > 0
    check_round_trip(model, tmp_path / "model")


def test_each_law_of_training_levels(tmp_path: Path) -> None:
    mixture = MixtureLevels(parts=(SequenceLevels(), IndependentLevels()))
    others = [make() for name, make in registered("levels").items() if name != "mixture"]
    for number, levels in enumerate([mixture, *others]):
        model = make_model("cosine", "x0", levels=levels)
        assert torch.isfinite(losses(model))
        check_round_trip(model, tmp_path / str(number))


@pytest.mark.parametrize("schedule", sorted(registered("schedule")))
@pytest.mark.parametrize("solver", sorted(registered("solver")))
def test_one_model_serves_every_solver(schedule: str, solver: str) -> None:
    model = stir(make_model(schedule, "x0"))
    if solver == "consistency":
        with pytest.raises(PgdiffError, match="consistency"):
            draw(model, solver=Consistency())
        chosen = Consistency(force=True)
    else:
        chosen = registered("solver")[solver]()
    x = draw(model, solver=chosen)
    assert torch.equal(x, draw(model, solver=chosen))
    assert x.abs().max() <= 1 + 1e-6, "limits normaliser: into level 0 every solver gives x0_hat"


@pytest.mark.parametrize("levels", sorted(registered("level_schedule")))
@pytest.mark.parametrize("spacing", sorted(registered("spacing")))
def test_every_spacing_with_every_level_schedule(levels: str, spacing: str) -> None:
    model = stir(make_model("linear", "x0", levels=IndependentLevels()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = draw(
            model,
            levels=registered("level_schedule")[levels](),
            spacing=registered("spacing")[spacing](),
        )
    assert torch.isfinite(x).all()


def test_a_distilled_model_says_so(tmp_path: Path) -> None:
    model = make_model("cosine", "x0")
    distilled = TrajectoryDiffusion(
        layout=model.layout,
        normalizer=model.normalizer,
        denoiser=model.denoiser,
        schedule=model.schedule,
        prediction=model.prediction,
        distilled=True,
    )
    stir(distilled).save_pretrained(tmp_path / "model")
    again = TrajectoryDiffusion.from_pretrained(tmp_path / "model", device="cpu")
    assert again.distilled
    assert torch.isfinite(draw(again, solver=Consistency())).all()


def test_what_is_known_is_not_scaled_away() -> None:
    known = ("start", "start_goal")
    make_model("cosine", "edm", known=known)
    with pytest.raises(PgdiffError, match="known in part"):
        make_model("edm", "edm", known=known)


def test_a_schedule_of_ones_own_that_leaks_is_refused() -> None:
    class Thin(type(make_schedule("flow"))):  # type: ignore[misc]
        def log_snr(self, level: torch.Tensor) -> torch.Tensor:
            return super().log_snr(0.5 * level)

    with pytest.raises(PgdiffError, match="at level 1 must be at most"):
        TrajectoryDiffusion.from_episodes(EPISODES, horizon=4, schedule=Thin())
