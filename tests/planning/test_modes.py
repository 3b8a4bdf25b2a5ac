"""Results in torch's inference and no-grad modes equal those outside."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves
from toys import fit, flat_planner, flat_rollout, flat_sample, stir, tiny_model, walk

import pgdiff
from pgdiff import InverseDynamics, Planner, SegmentValue, TransitionValue
from pgdiff.agents import TD3BC
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import Guidance, IndependentLevels, MonteCarlo, Pyramid, TrustRegion
from pgdiff.guides import Critic, Value, bind
from pgdiff.training.learner import to_tensors

EPISODES = walk()
OBSERVATION = np.zeros(4, np.float32)
SMALL: dict[str, Any] = {"width": 16, "depth": 1}
MODEL = tiny_model(EPISODES, known=("start", "start_goal"))
CAUSAL = tiny_model(
    EPISODES,
    denoiser=TransformerConfig(**SMALL, heads=2, attention="causal"),
    level_distribution=IndependentLevels(),
)
VALUE = stir(TransitionValue.from_episodes(EPISODES, stride=3, **SMALL))
NOISY = stir(
    SegmentValue.from_episodes(EPISODES, horizon=6, stride=3, denoiser=TransformerConfig(**SMALL))
)
INVERSE = InverseDynamics.from_episodes(EPISODES, stride=3, **SMALL)


def planner(**options: Any) -> Planner:
    settings: dict[str, Any] = {
        "model": MODEL,
        "guides": [Value(VALUE, scale=0.02)],
        "controller": INVERSE,
        "candidates": 2,
        "steps": 3,
    }
    return flat_planner(**(settings | options))


def guides_at(place: str) -> list[Value]:
    return [Value(NOISY, scale=0.02, gradient_at=place, transform="none")]  # type: ignore[arg-type]


def sampled(model: Any = MODEL, place: str = "denoiser", **options: Any) -> Any:
    given = model.inpaint(torch.zeros(2, 4))
    guidance = [bind(guide, model) for guide in guides_at(place)]
    return flat_sample(model, batch=2, generators=[0], known=given, guidance=guidance, **options)


def made_here() -> Any:
    """All parts are made in the caller's mode too."""
    model = tiny_model(EPISODES)
    value = stir(TransitionValue.from_episodes(EPISODES, stride=3, **SMALL))
    return planner(model=model, guides=[Value(value, scale=0.02, gradient_at="denoiser")]).plan(
        OBSERVATION
    )


def likelihood() -> Any:
    batch = to_tensors(MODEL.dataset(EPISODES).batch(np.arange(2)), torch.device("cpu"))
    return MODEL.log_likelihood(batch, steps=2)


def trained() -> Any:
    inverse = InverseDynamics.from_episodes(EPISODES, stride=3, **SMALL)
    return list(fit(inverse, EPISODES, steps=2, batch_size=4).state_dict().values())


def q_gradient() -> Any:
    agent = TD3BC.from_episodes(EPISODES, members=1, **SMALL)
    model = tiny_model(EPISODES, fields=("observations", "actions"), stride=1)
    guide: Guidance = bind(Critic(agent, scale=0.1), model)
    return guide.gradient(torch.zeros(2, 6, 6), torch.zeros(1, 6))


NOISE: dict[str, Any] = {"observation_level": 0.2, "context": 1, "warm_start": 0.5}
CALLS: dict[str, Callable[[], Any]] = {
    "plan at x0": lambda: planner(guides=guides_at("x0")).plan(
        OBSERVATION, condition={"goal": (0.5, 0.5)}
    ),
    "plan at x": lambda: planner(guides=guides_at("x"), trust_region=TrustRegion()).plan(
        OBSERVATION
    ),
    "plan through": lambda: planner(guides=guides_at("denoiser")).plan(
        OBSERVATION, condition={"goal": (0.5, 0.5)}
    ),
    "parts made within": made_here,
    "predict": lambda: planner(model=CAUSAL, guides=guides_at("denoiser"), **NOISE).predict(
        OBSERVATION
    ),
    "explain": lambda: pgdiff.explain(planner(), OBSERVATION),
    "sample": lambda: sampled(
        start=torch.zeros(2, 6, 4), level_schedule=torch.linspace(0.5, 0, 4)[:, None].expand(-1, 6)
    ),
    "futures": lambda: sampled(CAUSAL, level_schedule=Pyramid(), monte_carlo=MonteCarlo()),
    "rollout": lambda: flat_rollout(
        CAUSAL, OBSERVATION[None], tokens=9, guidance=[bind(guides_at("denoiser")[0], CAUSAL)]
    ),
    "likelihood": likelihood,
    "training": trained,
    "critic": q_gradient,
}


def numbers(result: Any) -> list[np.ndarray]:
    """Return all numbers of plans, states and tensors."""
    found: list[np.ndarray] = []
    for leaf in tree_leaves(result):
        if dataclasses.is_dataclass(leaf):
            found += numbers(list(vars(leaf).values()))
        elif leaf is not None and not isinstance(leaf, str):
            found.append(np.asarray(leaf))
    return found


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_in_inference_and_no_grad_mode_all_is_as_outside(call: Callable[[], Any]) -> None:
    outside = numbers(call())
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            inside = numbers(call())
        assert len(outside) == len(inside) > 0
        for a, b in zip(outside, inside, strict=True):
            np.testing.assert_array_equal(a, b)


class Weighted:
    """A guide with a tensor attribute."""

    name, gradient_at, scale = "weighted", "x0", 1.0

    def __init__(self) -> None:
        self.weight = torch.ones(4)

    def objective(self, segment: Any, level: torch.Tensor) -> torch.Tensor:
        return (segment.observations * self.weight).sum(dim=(1, 2))


def test_a_tensor_made_in_inference_mode_is_named() -> None:
    with torch.inference_mode():
        guide = Weighted()
    with pytest.raises(PgdiffError, match=r"'weighted' must use .* outside torch.inference_mode"):
        planner(guides=[guide]).plan(OBSERVATION)
