"""The trajectory diffusion model: in-painting, predictions, training."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import DOUBLE, fit, flat_model, flat_sample, generator, record, tiny_model, walk

from pgdiff import InpaintingPatterns, TrajectoryDiffusion
from pgdiff.core.validation import PgdiffError
from pgdiff.data import LimitsNormalizer
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import (
    CosineSchedule,
    IndependentLevels,
    Inpainting,
    LinearSchedule,
    SamplerStep,
    X0Prediction,
)
from pgdiff.diffusion.predictions import EDMPrediction, EpsilonPrediction, VPrediction
from pgdiff.model import AffineCodec
from pgdiff.training.learner import to_tensors
from pgdiff.trajectory import Layout

BOTH = ("observations", "actions")
START = torch.tensor([[0.3, -0.2, 0.1, 0.4], [-0.5, 0.6, 0.0, -0.3]])
GOAL = torch.tensor([[0.9, -0.7], [0.2, 0.1]])


class Fixed(nn.Module):
    """A network with a fixed output."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.output


def draw(model: TrajectoryDiffusion, *, batch: int = 2, **options: Any) -> Tensor:
    return flat_sample(model, batch=batch, generators=[generator(0)], **options)


# ------------------------------------------------------------------------------------ in-painting


def test_a_start_is_clean_from_the_beginning_and_held_exactly() -> None:
    model = tiny_model()
    known = model.inpaint(START)
    assert known.tokens.expand(2, -1).tolist() == [[True, *[False] * 5]] * 2
    steps: list[SamplerStep] = []
    x = draw(model, known=known, steps=3, callback=steps.append)
    assert all((step.level[:, 0] == 0).all() and (step.level[:, 1:] > 0).all() for step in steps)
    assert all(torch.equal(step.x[:, 0], model.codec.normalizer.normalize(START)) for step in steps)
    torch.testing.assert_close(model.codec.decode(x).observations[:, 0], START, rtol=0, atol=1e-6)


def test_a_goal_is_a_position_alone() -> None:
    model = tiny_model(known=("start_goal",))
    known = model.inpaint(START, GOAL)
    expected = torch.zeros(6, 4, dtype=torch.bool)
    expected[0], expected[-1, :2] = True, True
    assert torch.equal(known.mask.expand(2, -1, -1), expected.expand(2, -1, -1))
    steps: list[SamplerStep] = []
    x = draw(model, known=known, steps=3, callback=steps.append)
    assert all((step.level[:, -1] > 0).all() for step in steps), "a part of a token is not a token"
    observations = model.codec.decode(x).observations
    torch.testing.assert_close(observations[:, -1, :2], GOAL, rtol=0, atol=1e-6)
    torch.testing.assert_close(observations[:, 0], START, rtol=0, atol=1e-6)


def test_goal_features_are_those_that_a_goal_gives() -> None:
    model = tiny_model(known=("start_goal",), position=(3, 1))
    values = model.codec.normalizer.unnormalize(model.inpaint(START, GOAL).values)
    torch.testing.assert_close(values[:, -1, [3, 1]], GOAL)


@pytest.mark.parametrize("fields", [BOTH, BOTH[::-1]])
def test_a_token_with_actions_keeps_its_level_and_holds_the_observation(
    fields: tuple[str, ...],
) -> None:
    model = tiny_model(fields=fields)
    assert model.codec.features == 6 and model.codec.normalizer.features == 6
    known = model.inpaint(START)
    assert not known.tokens.any() and (known.mask.sum(dim=(1, 2)) == 4).all()
    steps: list[SamplerStep] = []
    x = draw(model, known=known, steps=3, callback=steps.append)
    for step in steps:
        assert (step.level == step.level[0, 0]).all()
        held = model.codec.decode(step.x)
        torch.testing.assert_close(held.observations[:, 0], START, rtol=0, atol=1e-6)
    segment = model.codec.decode(x)
    assert segment.observations.shape == (2, 6, 4)
    assert segment.actions is not None and segment.actions.shape == (2, 6, 2)


def test_an_untrained_pattern_is_warned_of_by_name() -> None:
    with pytest.warns(UserWarning, match=r"trained with .*\['start'\], not with 'start_goal'"):
        tiny_model().inpaint(START, GOAL)
    with pytest.warns(UserWarning, match="not with 'start'"):
        tiny_model(known=("none", "start_goal")).inpaint(START)
    tiny_model(known=("none", "start")).inpaint(START)


def test_samples_from_what_was_never_given_are_warned_of() -> None:
    """A model with a level for each token also accepts whole tokens outside its patterns."""
    for levels, known, tokens, features, expected in (
        (None, ("start",), [], 4, "never without given features"),
        (None, ("none",), [], 4, None),
        (None, ("start",), [0], 4, None),
        (None, ("start",), [0, 1], 4, "not with the features that are given here"),
        (IndependentLevels(), ("none",), [0, 1, 4], 4, None),
        (IndependentLevels(), ("start",), [0, 3], 4, None),
        (IndependentLevels(), ("none",), [3], 2, "not with the features that are given here"),
        (IndependentLevels(), ("start",), [], 4, "never without given features"),
    ):
        mask = torch.zeros(1, 6, 4, dtype=torch.bool)
        mask[:, tokens, :features] = True
        given = Inpainting(mask, torch.zeros(1, 6, 4)) if tokens else None
        warns = nullcontext() if expected is None else pytest.warns(UserWarning, match=expected)
        with warns:
            draw(tiny_model(level_distribution=levels, known=known), known=given, steps=1)


# -------------------------------------------------------------------------------------- denoising


@pytest.mark.parametrize(
    ("prediction", "noise_schedule"),
    [
        (X0Prediction(), CosineSchedule()),
        (VPrediction(), CosineSchedule()),
        (VPrediction(), LinearSchedule()),
        (EpsilonPrediction(), LinearSchedule()),
    ],
    ids=repr,
)
def test_denoise_inverts_what_the_network_is_trained_to_give(
    prediction: Any, noise_schedule: Any
) -> None:
    model = tiny_model(prediction=prediction, noise_schedule=noise_schedule).double()
    x0, epsilon = torch.randn(2, 3, 6, 4, generator=generator(1), dtype=DOUBLE)
    level = torch.rand(3, 6, generator=generator(2), dtype=DOUBLE)
    level[:, 0], level[0, 1] = 0.0, 0.999
    alpha, sigma = noise_schedule.alpha(level)[..., None], noise_schedule.sigma(level)[..., None]
    outputs = {
        X0Prediction: x0,
        EpsilonPrediction: epsilon,
        VPrediction: alpha * epsilon - sigma * x0,  # Salimans & Ho 2022, appendix D
    }
    model.network = Fixed(outputs[type(prediction)])
    estimate = model.denoise(alpha * x0 + sigma * epsilon, level)
    torch.testing.assert_close(estimate, x0, rtol=1e-9, atol=1e-9)


def test_the_loss_is_that_of_the_prediction_over_what_is_not_known() -> None:
    """It equals a formula: x0-prediction, a network that returns 0 except for the first token."""
    episodes = walk()
    model = tiny_model(episodes)
    dataset = model.dataset(episodes)
    batch = dataset.batch(np.arange(10))
    batch = to_tensors(batch, torch.device("cpu"))
    output = torch.zeros(10, 6, 4)
    output[:, 0] = 1e6
    model.network = Fixed(output)
    loss = model.losses(batch, generator(0))["diffusion"]
    x0 = model.codec.normalizer.normalize(batch.observations)
    torch.testing.assert_close(loss, x0[:, 1:].square().mean())


def test_a_field_has_its_scale(tmp_path: Path) -> None:
    """The scale applies in the network's units, like its limits; raw units do not change."""
    episodes = walk()
    scaled = tiny_model(episodes, fields=BOTH, field_scales={"actions": 0.2})
    plain = tiny_model(episodes, fields=BOTH)
    batch = plain.dataset(episodes).batch(np.arange(10))
    batch = to_tensors(batch, torch.device("cpu"))
    x, expected = scaled.codec.encode(batch), plain.codec.encode(batch)
    assert torch.equal(x[..., :4], expected[..., :4])
    torch.testing.assert_close(x[..., 4:], 0.2 * expected[..., 4:])
    segment = scaled.codec.decode(x)
    torch.testing.assert_close(segment.observations, batch.observations)
    torch.testing.assert_close(segment.actions, batch.actions)
    low, high = scaled.codec.clean_limits()
    torch.testing.assert_close(high, torch.tensor([1.0, 1.0, 1.0, 1.0, 0.2, 0.2]))
    torch.testing.assert_close(low, -high)
    scaled.save_pretrained(tmp_path / "model")
    loaded = TrajectoryDiffusion.from_pretrained(tmp_path / "model", device="cpu")
    assert torch.equal(draw(loaded), draw(scaled))
    assert not torch.equal(draw(scaled), draw(plain))


def test_an_edm_model_knows_how_large_its_fields_are(tmp_path: Path) -> None:
    """A new network returns 0, which leaves the best estimate that is linear in each feature."""
    model = flat_model(
        walk(),
        horizon=6,
        fields=BOTH,
        prediction=EDMPrediction(),
        field_scales={"actions": 0.1},
        denoiser=TransformerConfig(width=16, depth=1, heads=2),
    ).eval()
    model.save_pretrained(tmp_path / "model")
    loaded = TrajectoryDiffusion.from_pretrained(tmp_path / "model", device="cpu")
    x, level = torch.randn(3, 6, 6, generator=generator(1)), torch.linspace(0, 1, 6)[None]
    alpha, sigma = (
        part(level)[..., None]
        for part in (model.process.noise_schedule.alpha, model.process.noise_schedule.sigma)
    )
    data = torch.tensor([0.5] * 4 + [0.05] * 2)
    expected = alpha * data**2 / (alpha**2 * data**2 + sigma**2) * x
    for each in (model, loaded, model.with_horizon(6)):
        torch.testing.assert_close(each.denoise(x, level), expected)
    assert model.process.prediction == EDMPrediction()  # the saved value is the given one


def test_the_network_sees_what_the_pattern_gives_and_the_patterns_are_drawn() -> None:
    episodes = walk()
    model = tiny_model(episodes, known=("none", "start", "start_goal"))
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(module: nn.Module, arguments: Any) -> None:
        seen.append(arguments)

    model.network.register_forward_pre_hook(spy)
    batch = model.dataset(episodes).batch(np.arange(300))
    batch = to_tensors(batch, torch.device("cpu"))
    model.losses(batch, generator(0))
    ((x, level),) = seen
    x0 = model.codec.normalizer.normalize(batch.observations)
    start = (x[:, 0] == x0[:, 0]).all(dim=-1)
    goal = (x[:, -1, :2] == x0[:, -1, :2]).all(dim=-1)
    kinds = [int((~start & ~goal).sum()), int((start & ~goal).sum()), int((start & goal).sum())]
    print(f"\npatterns drawn (none, start, start_goal) of 300: {kinds}")
    assert sum(kinds) == 300 and min(kinds) > 70
    assert torch.equal(level[:, 0] == 0, start) and (level[:, 1:] == level[:, 1:2]).all()
    # Levels are those of Kingma et al. 2021, appendix I.1: evenly spaced over [0, 1).
    ordered = level[:, 1].sort().values
    torch.testing.assert_close(ordered.diff(), torch.full((299,), 1 / 300), rtol=0, atol=1e-5)


def test_losses_draw_from_the_generator_alone() -> None:
    episodes = walk()
    model = tiny_model(episodes, known=("none", "start"))
    batch = model.dataset(episodes).batch(np.arange(20))
    batch = to_tensors(batch, torch.device("cpu"))
    before = torch.random.get_rng_state()
    losses = [model.losses(batch, generator(seed))["diffusion"].item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(before, torch.random.get_rng_state())


# ---------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize(
    ("prediction", "noise_schedule"),
    [
        (X0Prediction(), CosineSchedule()),
        pytest.param(VPrediction(), CosineSchedule(), marks=pytest.mark.slow),
        pytest.param(EpsilonPrediction(), LinearSchedule(), marks=pytest.mark.slow),
    ],
    ids=["x0", "v", "epsilon"],
)
def test_samples_from_an_overfitted_model_are_the_few_segments(
    prediction: Any, noise_schedule: Any
) -> None:
    """Five straight paths from different points; the start identifies the path."""
    angle = np.linspace(0, 2 * np.pi, 5, endpoint=False)
    along = np.linspace(0, 1, 8)[:, None]
    ways = [
        np.array([np.cos(a), np.sin(a)]) + along * np.array([np.cos(2 * a + 1), np.sin(3 * a)])
        for a in angle
    ]
    episodes = record(np.concatenate(ways), np.zeros((40, 1)), np.zeros(40), lengths=[8] * 5)
    model = flat_model(
        episodes,
        horizon=8,
        denoiser=TransformerConfig(width=32, depth=2),
        prediction=prediction,
        noise_schedule=noise_schedule,
    )
    fit(model, episodes, steps=600)
    truth = torch.tensor(np.stack(ways), dtype=torch.float32)
    starts = truth[:, 0].repeat_interleave(20, dim=0)
    x = draw(model, batch=100, known=model.inpaint(starts), steps=20)
    sampled = model.codec.decode(x).observations.reshape(5, 20, 8, 2)
    error = (sampled - truth[:, None]).norm(dim=-1).mean().item()
    others = (truth[:, None] - truth.roll(1, 0)[:, None]).norm(dim=-1).mean().item()
    print(f"\n{prediction}: mean distance to the right way {error:.3f}, to another {others:.3f}")
    assert error < 0.05 * others


# ---------------------------------------------------------------------------------------- new ones


def test_first_weights_come_from_the_seed_and_nothing_global_is_touched() -> None:
    episodes = walk()

    def weights(seed: int) -> Tensor:
        model = flat_model(episodes, horizon=4, seed=seed)
        return torch.cat([p.flatten() for p in model.parameters()])

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = weights(0)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    assert torch.equal(first, weights(0)) and not torch.equal(first, weights(1))


def test_same_generators_same_samples() -> None:
    model = tiny_model()
    before = torch.random.get_rng_state()
    first, again = (draw(model, known=model.inpaint(START), steps=4) for _ in range(2))
    other = flat_sample(
        model, batch=2, generators=[generator(1)], known=model.inpaint(START), steps=4
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_level_matrix_takes_the_place_of_steps() -> None:
    model = tiny_model()
    rows = torch.tensor([[1.0] * 6, [0.5, 0.5, 0.5, 1, 1, 1], [0, 0, 0, 0.5, 0.5, 0.5], [0] * 6])
    seen: list[SamplerStep] = []
    with pytest.warns(UserWarning, match="one level for the whole sequence"):
        draw(model, level_schedule=rows, callback=seen.append)
    assert torch.equal(torch.cat([step.level for step in seen]), rows[:-1])


def test_a_standard_normaliser_is_not_clipped() -> None:
    # Standard deviations have no natural limit, the data's range has.
    model = tiny_model(normalizer="standard")
    assert torch.equal(draw(model), draw(model, clip=None))
    assert not torch.equal(draw(model), draw(model, clip=0.1))
    assert torch.equal(draw(tiny_model()), draw(tiny_model(), clip=1.0))


def test_raw_units_come_back() -> None:
    episodes = walk()
    model = tiny_model(episodes, fields=BOTH)
    batch = model.dataset(episodes).batch(np.arange(7))
    batch = to_tensors(batch, torch.device("cpu"))
    x = model.codec.encode(batch)
    assert x.abs().max() <= 1 + 1e-6
    segment = model.codec.decode(x)
    torch.testing.assert_close(segment.observations, batch.observations)
    torch.testing.assert_close(segment.actions, batch.actions)
    assert segment.stride == 3


# ------------------------------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prediction": EpsilonPrediction()}, "'epsilon' with a schedule whose alpha.1. is 0"),
        ({"known": ()}, "`patterns` must be a list of at least one pattern"),
        ({"known": ("start", "begin")}, "`patterns` must be one of .* Got 'begin'"),
        ({"fields": ("observations", "action")}, "`fields` must be .* Did you mean 'actions'"),
        ({"fields": ("actions",)}, "`fields` must hold 'observations'"),
        ({"normalizer": "limit"}, "`normalizer` must be .* Did you mean 'limits'"),
        ({"horizon": 0}, "`horizon` must be an integer of at least 1"),
        ({"stride": 0}, "`stride` must be"),
        ({"stride": 0, "fields": ("observations", "action_chunks")}, "`stride` must be"),
        ({"seed": -1}, "`seed` must be"),
        ({"field_scales": {"actions": 0.1}}, "`field_scales` must be one of .observations."),
        ({"field_scales": {"observations": 0}}, "`field_scales.observations` must be a number"),
        ({"field_scales": [0.1]}, "`field_scales` must be numbers by name of a field"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PgdiffError, match=message):
        flat_model(walk(), **({"horizon": 4} | settings))


@pytest.mark.usefixtures("unchecked")
def test_parts_that_do_not_fit_are_refused() -> None:
    parts: dict[str, Any] = {
        "layout": Layout(fields=(("observations", 3),), horizon=4),
        "normalizer": LimitsNormalizer(torch.zeros(3), torch.ones(3)),
    }
    AffineCodec(**parts)
    with pytest.raises(PgdiffError, match=r"`normalizer` must have the 3 features .* Got 2"):
        narrow = LimitsNormalizer(torch.zeros(2), torch.ones(2))
        AffineCodec(**(parts | {"normalizer": narrow}))
    for features in ((0, 3), (-1, 0)):
        wrong = InpaintingPatterns(patterns=("start_goal",), goal_features=features)
        with pytest.raises(PgdiffError, match="`goal_features` must be indices of the 3 features"):
            AffineCodec(**parts, inpainting=wrong)
    with pytest.raises(PgdiffError, match="`fields` must give 'rewards' the size 1"):
        Layout(fields=(("observations", 3), ("rewards", 2)), horizon=4)
    line = {
        "layout": Layout(fields=(("observations", 1),), horizon=4),
        "normalizer": LimitsNormalizer(torch.zeros(1), torch.ones(1)),
    }
    AffineCodec(**line)  # without goals, no goal features are needed


@pytest.mark.usefixtures("unchecked")
def test_bad_requests_are_named() -> None:
    model = tiny_model(known=("start", "start_goal"))
    with pytest.raises(PgdiffError, match=r"`batch` must be an integer of at least 1. Got 0"):
        draw(model, batch=0)
    with pytest.raises(PgdiffError, match="`steps` must be"):
        draw(model, steps=0)
    with pytest.raises(PgdiffError, match=r"`observation` must have shape \[2, 4\]. Got \[2, 3\]"):
        model.inpaint(START[:, :3])
    for goal in (GOAL[:, :1], GOAL[:1], torch.zeros(2, 3)):
        with pytest.raises(PgdiffError, match=r"`goal` must have shape \[2, 2\]"):
            model.inpaint(START, goal)
    with pytest.raises(PgdiffError, match="`goal` must be finite"):
        model.inpaint(START, GOAL * torch.nan)
