"""Every schedule with every prediction, backbone and solver: saved, loaded, trained, sampled."""

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import flat_model, flat_sample, generator, stir, walk

from pgdiff import TrajectoryDiffusion
from pgdiff.core.registry import registered, to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import Consistency
from pgdiff.diffusion.level_distributions import IndependentLevels, MixtureLevels, SequenceLevels
from pgdiff.diffusion.schedules import TabulatedSchedule
from pgdiff.training.learner import to_tensors

EPISODES = walk()
TABLE = tuple(torch.linspace(0.999**0.5, 1e-3, 50, dtype=torch.float64).square().tolist())
SMALL = {
    "transformer": {"width": 16, "depth": 1, "heads": 2},
    "temporal_unet": {"width": 8, "mults": (1, 2)},
    "residual_mlp": {"width": 16, "depth": 1},
}
# Predictions that a schedule refuses, by their definitions.
REFUSED = {
    "epsilon": {"cosine", "sigmoid", "flow"},  # alpha(1) is 0
    "v": {"flow", "edm"},  # variance is not preserved
    "flow": {"cosine", "linear", "sigmoid", "edm", "tabulated"},  # alpha + sigma is not 1
}
UNFITTED = [
    (noise_schedule, prediction)
    for prediction, names in REFUSED.items()
    for noise_schedule in sorted(names)
]
PAIRS = [
    pair
    for pair in itertools.product(registered("noise_schedule"), registered("prediction"))
    if pair not in UNFITTED
]


def make_schedule(name: str) -> Any:
    if name == "tabulated":
        return TabulatedSchedule(alphas_cumprod=TABLE)
    return registered("noise_schedule")[name]()


def make_model(noise_schedule: str, prediction: str, **options: Any) -> TrajectoryDiffusion:
    settings = {
        "horizon": 6,
        "stride": 3,
        "denoiser": TransformerConfig(width=16, depth=1, heads=2),
        "noise_schedule": make_schedule(noise_schedule),
        "prediction": registered("prediction")[prediction](),
    }
    return flat_model(EPISODES, **(settings | options))


def draw(model: TrajectoryDiffusion, **options: Any) -> torch.Tensor:
    known = model.inpaint(torch.tensor([[0.3, -0.2, 0.1, 0.0]] * 4))
    return flat_sample(model, batch=4, generators=[generator(3)], known=known, steps=4, **options)


def losses(model: TrajectoryDiffusion) -> torch.Tensor:
    raw = model.dataset(EPISODES).batch(torch.arange(8).numpy())
    batch = to_tensors(raw, torch.device("cpu"))
    return model.losses(batch, generator(0))["diffusion"]


def check_round_trip(model: TrajectoryDiffusion, folder: Path) -> None:
    stir(model)
    model.save_pretrained(folder)
    again = TrajectoryDiffusion.from_pretrained(folder, device="cpu")
    assert to_config(again) == to_config(model)
    assert torch.equal(draw(again), draw(model))


@pytest.mark.parametrize(("noise_schedule", "prediction"), PAIRS)
def test_each_pair_learns_is_saved_and_samples(
    noise_schedule: str, prediction: str, tmp_path: Path
) -> None:
    model = make_model(noise_schedule, prediction)
    loss = losses(model)
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    check_round_trip(model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())["learner"]
    assert config["process"]["noise_schedule"]["name"] == noise_schedule
    assert config["process"]["prediction"]["name"] == prediction


@pytest.mark.parametrize(("noise_schedule", "prediction"), UNFITTED)
def test_a_prediction_that_does_not_fit_is_refused_by_name(
    noise_schedule: str, prediction: str
) -> None:
    with pytest.raises(PgdiffError, match=f"`prediction` must not be '{prediction}'"):
        make_model(noise_schedule, prediction)


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
    others = [
        make() for name, make in registered("level_distribution").items() if name != "mixture"
    ]
    for number, levels in enumerate([mixture, *others]):
        model = make_model("cosine", "x0", level_distribution=levels)
        assert torch.isfinite(losses(model))
        check_round_trip(model, tmp_path / str(number))


@pytest.mark.parametrize("noise_schedule", sorted(registered("noise_schedule")))
@pytest.mark.parametrize("solver", sorted(registered("solver")))
def test_one_model_serves_every_solver(noise_schedule: str, solver: str) -> None:
    model = stir(make_model(noise_schedule, "x0"))
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
    model = stir(make_model("linear", "x0", level_distribution=IndependentLevels()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = draw(
            model,
            level_schedule=registered("level_schedule")[levels](),
            spacing=registered("spacing")[spacing](),
        )
    assert torch.isfinite(x).all()


def test_a_distilled_model_says_so(tmp_path: Path) -> None:
    model = make_model("cosine", "x0")
    distilled = TrajectoryDiffusion(
        codec=model.codec, denoiser=model.denoiser, process=model.process, distilled=True
    )
    stir(distilled).save_pretrained(tmp_path / "model")
    again = TrajectoryDiffusion.from_pretrained(tmp_path / "model", device="cpu")
    assert again.distilled
    assert torch.isfinite(draw(again, solver=Consistency())).all()


def test_given_features_are_not_scaled_away() -> None:
    known = ("start", "start_goal")
    make_model("cosine", "edm", known=known)
    with pytest.raises(PgdiffError, match="given in part"):
        make_model("edm", "edm", known=known)


def test_a_user_schedule_that_leaks_is_refused() -> None:
    class Thin(type(make_schedule("flow"))):  # type: ignore[misc]
        def log_snr(self, level: torch.Tensor) -> torch.Tensor:
            return super().log_snr(0.5 * level)

    with pytest.raises(PgdiffError, match="at level 1 must be at most"):
        flat_model(EPISODES, horizon=4, noise_schedule=Thin())
