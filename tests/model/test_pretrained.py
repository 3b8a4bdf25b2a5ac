"""Folders of networks: loading returns the saved network or raises an error."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import flat_sample, generator, stir, tiny_model, walk

from pgdiff import GoalValue, InverseDynamics, SegmentValue, TrajectoryDiffusion, TransitionValue
from pgdiff.core.pretrained import Pretrained, load_learner
from pgdiff.core.serialization import load_folder, save_folder
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import LinearSchedule
from pgdiff.diffusion.predictions import VPrediction
from pgdiff.trajectory import Segment

EPISODES = walk()
TINY = TransformerConfig(width=16, depth=1)
OBSERVATIONS = torch.randn(5, 6, 4, generator=generator(0))
LEVEL = torch.rand(5, 6, generator=generator(1))


def model() -> Pretrained:
    return tiny_model(
        EPISODES,
        fields=("actions", "observations"),
        prediction=VPrediction(),
        noise_schedule=LinearSchedule(beta_max=15.0),
        normalizer="standard",
        known=("start", "start_goal"),
    )


def transition_value() -> Pretrained:
    value = TransitionValue.from_episodes(
        EPISODES, stride=3, discount=0.97, expectile=0.8, width=16, depth=1
    )
    stir(value.value_network, seed=1)  # so that the target network differs
    return stir(value)


def goal_value() -> Pretrained:
    value = GoalValue.from_episodes(
        EPISODES, stride=3, latent=4, log_space=True, value_features=[0, 1], width=16, depth=1
    )
    stir(value.value_network, seed=1)
    return stir(value)


def segment_value() -> Pretrained:
    return stir(SegmentValue.from_episodes(EPISODES, horizon=6, stride=3, denoiser=TINY))


def inverse_dynamics() -> Pretrained:
    return stir(InverseDynamics.from_episodes(EPISODES, stride=3, width=16, depth=1))


def outputs(learner: Any) -> list[Tensor]:
    """Return a learner's outputs for fixed inputs."""
    segment = Segment(observations=OBSERVATIONS, stride=3)
    if isinstance(learner, TrajectoryDiffusion):
        known = learner.inpaint(OBSERVATIONS[:, 0], OBSERVATIONS[:, -1, :2])
        x = flat_sample(learner, batch=5, generators=[generator(2)], known=known, steps=3)
        return [x, learner.codec.decode(x).observations]
    if isinstance(learner, TransitionValue):
        slow = learner.target_network(OBSERVATIONS)
        return [learner.objective(segment), learner.objective(segment, td_lambda=0.5), slow]
    if isinstance(learner, GoalValue):
        with_goal = segment.replace(condition={"goal": OBSERVATIONS[:, 0, :2]})
        return [learner.objective(with_goal), learner.objective(with_goal, td_lambda=0.5)]
    if isinstance(learner, SegmentValue):
        return [learner.objective(segment, LEVEL)]
    actions = learner.act(*OBSERVATIONS[:, :2].unbind(1), torch.arange(1, 6))
    return [torch.from_numpy(actions), torch.tensor(learner.low)]


each_learner = pytest.mark.parametrize(
    "make",
    [model, transition_value, goal_value, segment_value, inverse_dynamics],
    ids=["model", "transition_value", "goal_value", "segment_value", "inverse_dynamics"],
)
Make = Callable[[], Pretrained]


@each_learner
@pytest.mark.usefixtures("unchecked")
@torch.no_grad()
def test_what_is_saved_comes_back(make: Make, tmp_path: Path) -> None:
    learner = make()
    learner.save_pretrained(tmp_path / "saved")
    before = torch.random.get_rng_state()
    loaded = type(learner).from_pretrained(tmp_path / "saved")
    assert torch.equal(before, torch.random.get_rng_state()), "a load draws from nothing global"
    assert not loaded.training
    assert loaded.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    loaded.to("cpu")
    for expected, got in zip(outputs(learner), outputs(loaded), strict=True):
        assert torch.equal(expected, got)
    again = load_learner(tmp_path / "saved", device="cpu")
    assert type(again) is type(learner)
    again.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors", "manifest.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@each_learner
def test_another_kind_is_refused(make: Make, tmp_path: Path) -> None:
    learner = make()
    learner.save_pretrained(tmp_path / "saved")
    wrong = InverseDynamics if not isinstance(learner, InverseDynamics) else TransitionValue
    message = f"must hold a {wrong.__name__}. Got a {type(learner).__name__}"
    with pytest.raises(PgdiffError, match=message):
        wrong.from_pretrained(tmp_path / "saved")
    assert isinstance(Pretrained.from_pretrained(tmp_path / "saved"), type(learner))


@each_learner
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "manifest.json"])
def test_one_flipped_bit_is_noticed(make: Make, name: str, tmp_path: Path) -> None:
    learner = make()
    learner.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(PgdiffError, match=name):
        type(learner).from_pretrained(tmp_path / "saved")


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    for number, described in enumerate(({"name": "perceiver"}, {"name": ["model"]}, {}, None, 3)):
        folder = tmp_path / str(number)
        save_folder(folder, {"learner": described}, {})
        with pytest.raises(PgdiffError, match=r"must name one of the networks .*'inverse_dynam"):
            load_learner(folder)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    transition_value().save_pretrained(tmp_path / "saved")
    config, tensors = load_folder(tmp_path / "saved")
    config["learner"]["width"] = 32
    save_folder(tmp_path / "wider", config, tensors)
    with pytest.raises(PgdiffError, match="weights do not fit TransitionValue"):
        load_learner(tmp_path / "wider")
    config["learner"]["wideness"] = 32
    save_folder(tmp_path / "odd", config, tensors)
    with pytest.raises(PgdiffError, match="'wideness'"):
        load_learner(tmp_path / "odd")


def test_nan_weights_are_not_saved(tmp_path: Path) -> None:
    learner = inverse_dynamics()
    next(learner.parameters()).data[0, 0] = float("nan")
    with pytest.raises(PgdiffError, match="must be finite"):
        learner.save_pretrained(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_absent_folders_and_devices_are_named(tmp_path: Path) -> None:
    with pytest.raises(PgdiffError, match="does not exist"):
        TrajectoryDiffusion.from_pretrained(tmp_path / "nowhere")
    inverse_dynamics().save_pretrained(tmp_path / "saved")
    with pytest.raises(PgdiffError, match="`device` must be 'auto'"):
        InverseDynamics.from_pretrained(tmp_path / "saved", device="gpu")


def test_a_reader_needs_no_other_import(tmp_path: Path) -> None:
    inverse_dynamics().save_pretrained(tmp_path / "saved")
    code = f"import pgdiff; print(type(pgdiff.load_learner({str(tmp_path / 'saved')!r})).__name__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "InverseDynamics", result.stderr
