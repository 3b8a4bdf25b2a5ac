"""NumPy's numbers act like Python's, in every setting."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import (
    flat_model,
    flat_planner,
    flat_rollout,
    flat_sample,
    stir,
    tiny_model,
    walk,
)

import pgdiff
from pgdiff import (
    InverseDynamics,
    Planner,
    Sampling,
    SegmentValue,
    Trainer,
    TransitionValue,
    generate,
)
from pgdiff.agents import TD3BC, Cloning, FittedQ
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import DPMSolver, IndependentLevels, LogSnrSpacing, MonteCarlo, Resample
from pgdiff.dynamics import DynamicsEnsemble
from pgdiff.guides import Value
from pgdiff.planning import Plausibility
from pgdiff.synthesis import Workers

EPISODES = walk()
OBSERVATION = np.zeros(4, np.float32)
whole = pytest.mark.parametrize("i", [np.uint8], ids=["uint8"])
reals = pytest.mark.parametrize("f", [np.float32], ids=["float32"])
pytestmark = pytest.mark.usefixtures("unchecked")  # whose checks accept only Python's numbers


def small(i: Any = int) -> dict[str, Any]:
    return {"width": i(16), "depth": i(1)}


CAUSAL = tiny_model(
    EPISODES,
    denoiser=TransformerConfig(width=16, depth=1, heads=2, attention="causal"),
    level_distribution=IndependentLevels(),
    known=("none", "start", "start_arrival"),
)
ROWS = tiny_model(
    EPISODES,
    fields=("observations", "actions", "rewards", "terminals"),
    stride=1,
    known=("none",),
)
VALUE = stir(TransitionValue.from_episodes(EPISODES, stride=3, width=16, depth=1))
INVERSE = InverseDynamics.from_episodes(EPISODES, stride=3, width=16, depth=1)


@whole
def test_whole_numbers_of_a_planner(i: Any) -> None:
    def made(i: Any) -> Planner:
        return flat_planner(
            CAUSAL,
            guides=[Value(VALUE, scale=0.02, gradient_at="denoiser")],
            controller=INVERSE,
            candidates=i(3),
            steps=i(3),
            horizon=i(5),
            replan_every=i(2),
            lookahead=i(1),
            arrivals=[i(2), i(4)],
            seed=i(3),
            solver=DPMSolver(order=i(2)),
            monte_carlo=MonteCarlo(futures=i(2), steps=i(1)),
            plausibility=Plausibility(pairs=i(1), tokens=i(3), features=(i(0),)),
        )

    one, other = made(i), made(int)
    goal = (0.5, 0.5)
    plans = [
        made.plan(OBSERVATION, condition={"goal": goal}, seed=n)
        for made, n in ((one, i(4)), (other, 4))
    ]
    np.testing.assert_array_equal(plans[0].candidates, plans[1].candidates)
    acts = [
        made.predict(OBSERVATION, made.initial_state([n]))[0]
        for made, n in ((one, i(4)), (other, 4))
    ]
    np.testing.assert_array_equal(*acts)
    pgdiff.explain(one, OBSERVATION, condition={"goal": goal}, seed=i(4))


@whole
def test_whole_numbers_of_samples_and_data(i: Any, tmp_path: Path) -> None:
    def all_of(i: Any) -> list[np.ndarray]:
        x = flat_sample(CAUSAL, batch=i(2), generators=[0], steps=i(2), horizon=i(4))
        long = flat_rollout(
            CAUSAL, OBSERVATION[None], tokens=i(8), context=i(2), seed=i(1), steps=i(2)
        )
        data = generate(
            ROWS,
            transitions=i(9),
            seed=i(1),
            batch=i(2),
            sampling=Sampling(steps=i(2)),
            workers=Workers(threads=i(1)),
            out=tmp_path / f"{i is int}.hdf5",
        )
        return [x.numpy(), long.observations.numpy(), np.asarray(data.observations)]

    for a, b in zip(all_of(i), all_of(int), strict=True):
        np.testing.assert_array_equal(a, b)


@whole
def test_whole_numbers_of_what_is_learned(i: Any, tmp_path: Path) -> None:
    value: dict[str, Any] = {"stride": i(3), "seed": i(1)}
    shared: dict[str, Any] = {"members": i(2), "seed": i(1), **small(i)}
    learners = [
        flat_model(EPISODES, horizon=i(6), position=[i(0), i(1)], **value),
        InverseDynamics.from_episodes(EPISODES, **value, **small(i)),
        TransitionValue.from_episodes(EPISODES, value_features=[i(0)], **value, **small(i)),
        SegmentValue.from_episodes(EPISODES, horizon=i(6), **value),
        TD3BC.from_episodes(EPISODES, **shared),
        Cloning.from_episodes(EPISODES, **shared),
        DynamicsEnsemble.from_episodes(EPISODES, **shared),
        FittedQ.from_episodes(
            EPISODES, policies=[TD3BC.from_episodes(EPISODES, members=1)], seed=i(1)
        ),
    ]
    for number, learner in enumerate(learners):
        learner.save_pretrained(tmp_path / f"{number}")
    trainer = Trainer(
        steps=i(4),
        batch_size=i(4),
        warmup=i(1),
        log_every=i(2),
        validate_every=i(2),
        checkpoint_every=i(2),
        keep=i(1),
        workers=i(0),
        seed=i(1),
        folder=tmp_path / "run",
        device="cpu",
        progress=False,
    )
    trainer.fit(learners[1], EPISODES)


@reals
def test_real_numbers(f: Any, tmp_path: Path) -> None:
    planner = flat_planner(
        CAUSAL,
        guides=[Value(VALUE, scale=f(0.02), td_lambda=f(0.5))],
        controller=INVERSE,
        candidates=2,
        steps=3,
        clip=f(2.0),
        spacing=LogSnrSpacing(high=f(6.0)),
        warm_start=f(0.5),
        warm_share=f(0.5),
        scale_factors=[f(0.5), f(1.0)],
        stabilization=f(0.1),
        observation_level=f(0.1),
        missing_level=f(0.5),
    )
    _, state = planner.predict(OBSERVATION)
    planner.predict(OBSERVATION, state)
    flat_planner(CAUSAL, guides=[Value(VALUE)], scale_factors=np.array([0.5, 1.0])).plan(
        OBSERVATION
    )
    assert Resample(threshold=f(0.5)).threshold == 0.5
    value = TransitionValue.from_episodes(EPISODES, stride=3, discount=f(0.9), tau=f(0.1))
    value.save_pretrained(tmp_path / "value")
    Trainer(
        steps=2, learning_rate=f(1e-3), ema_decay=f(0.5), clip_norm=f(1.0), validation=f(0.0),
        weight_decay=f(0.0), folder=tmp_path / "run", device="cpu", progress=False,
    ).fit(value, EPISODES)  # fmt: skip
    assert torch.isfinite(value.value(torch.zeros(1, 4))).all()
