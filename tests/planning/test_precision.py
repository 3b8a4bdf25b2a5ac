"""Models in half and double precision, autocast, and observations that are tensors."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from toys import fit, flat_model, flat_planner, stir, tiny_model, walk

import pgdiff
from pgdiff import InverseDynamics, Planner, TrajectoryDiffusion, TransitionValue
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import ResidualMLPConfig, TemporalUnetConfig, TransformerConfig
from pgdiff.diffusion import IndependentLevels, Pyramid
from pgdiff.guides import Guide, Value
from pgdiff.planning import Plausibility

EPISODES = walk()
OBSERVATION = np.zeros(4, np.float32)
SMALL: dict[str, Any] = {"width": 16, "depth": 1}
MODEL = tiny_model(EPISODES)
CAUSAL = tiny_model(
    EPISODES,
    denoiser=TransformerConfig(**SMALL, heads=2, attention="causal"),
    level_distribution=IndependentLevels(),
)
OTHERS = [
    stir(flat_model(EPISODES, horizon=8, stride=3, denoiser=config), size=0)
    for config in (TemporalUnetConfig(width=16, mults=(1, 2)), ResidualMLPConfig(**SMALL))
]
VALUE = stir(TransitionValue.from_episodes(EPISODES, stride=3, **SMALL))
INVERSE = InverseDynamics.from_episodes(EPISODES, stride=3, **SMALL)


def planner(model: TrajectoryDiffusion = MODEL, **options: Any) -> Planner:
    guides: Sequence[Guide] = [Value(VALUE, scale=0.02)]
    settings = {"guides": guides, "controller": INVERSE, "candidates": 3, "steps": 4} | options
    return flat_planner(model, **settings)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_network_alone_computes_in_another_precision(kind: torch.dtype) -> None:
    """Samples, guides, controllers and NumPy get float32 at least."""
    guides = () if kind == torch.float64 else (Value(VALUE, scale=0.02),)
    cases: list[tuple[TrajectoryDiffusion, dict[str, Any]]] = [
        (MODEL, {"plausibility": Plausibility(), "guides": guides}),
        (
            CAUSAL,
            {"guides": (), "level_schedule": Pyramid(), "context": 1, "observation_level": 0.1},
        ),
        *((model, {"guides": ()}) for model in OTHERS),
    ]
    level = torch.full((1, 8), 0.5)
    for model, options in cases:
        converted = copy.deepcopy(model).to(kind)
        x = torch.zeros(2, model.codec.tokens, 4)
        one, other = (m.denoise(x, level[:, : x.shape[1]]) for m in (model, converted))
        assert other.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)
        made = planner(converted, **options, controller=copy.deepcopy(INVERSE).to(kind))
        assert np.isfinite(made.plan(OBSERVATION).candidates).all()
        assert made.predict(OBSERVATION)[0].dtype == np.float32


def test_autocast_rounds_the_network_and_not_the_scores() -> None:
    made = planner(plausibility=Plausibility())
    plain = made.plan(OBSERVATION)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = made.plan(OBSERVATION)
        action, _ = made.predict(OBSERVATION)
        assert action.dtype == np.float32
        pgdiff.explain(made, OBSERVATION)
        planner(CAUSAL, level_schedule=Pyramid()).plan(OBSERVATION)
    assert (cast.candidates != plain.candidates).any()
    segment = MODEL.codec.layout.segment(torch.from_numpy(cast.candidates))
    expected = made.guides[0].objective(segment, torch.zeros(1, 6)).detach()
    np.testing.assert_allclose(cast.scores, expected, rtol=1e-5)


def test_a_guide_in_another_precision_is_named() -> None:
    half = Value(copy.deepcopy(VALUE).half(), scale=0.02)
    with pytest.raises(PgdiffError, match=r"'value' must compute in torch.float32.*\.to\(torch.fl"):
        planner(guides=[half]).plan(OBSERVATION)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
def test_nothing_is_trained_in_half_precision(kind: torch.dtype) -> None:
    for learner in (MODEL, INVERSE):
        with pytest.raises(
            PgdiffError, match=r"must be float32 or float64 for training.*float\(\)"
        ):
            fit(copy.deepcopy(learner).to(kind), EPISODES, steps=1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_observations_and_goals_may_be_tensors_with_gradients(kind: torch.dtype) -> None:
    tensor = torch.zeros(4, dtype=kind, requires_grad=True)
    made = planner(tiny_model(EPISODES, known=("start", "start_goal")))
    goal = torch.full((2,), 0.5, dtype=kind, requires_grad=True)
    expected, got = (
        made.plan(x, condition={"goal": place})  # type: ignore[arg-type]
        for x, place in ((OBSERVATION, (0.5, 0.5)), (tensor, goal))
    )
    np.testing.assert_array_equal(got.candidates, expected.candidates)
    state = made.initial_state([0], {"goal": goal[None]})  # type: ignore[arg-type]
    np.testing.assert_array_equal(
        made.predict(tensor, state)[0],  # type: ignore[arg-type]
        made.predict(OBSERVATION, made.initial_state([0], {"goal": np.full((1, 2), 0.5)}))[0],
    )
