"""An agent that learns from data that its current policy guides."""

import copy
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path += [str(Path(__file__).parents[1] / name) for name in ("synthesis", "training")]
from line_world import FIELDS, recording
from stopping import Stop

from pgdiff import PgdiffError, load_episodes, load_learner
from pgdiff.runs.stages import Stage
from pgdiff.synthesis import ShardSampler
from pgdiff.synthesis.mixed_batches import MixedTransitions
from pgdiff.training import TrainingInterrupted
from pgdiff.workflows.regeneration import Regenerate, Regeneration
from pgdiff.workflows.train import train_stages

MODEL = Stage(
    name="model",
    learner="trajectory_diffusion",
    arguments={
        "tokens": {"horizon": 6, "fields": list(FIELDS), "normalizer": "arctanh"},
        "inpainting": {"patterns": ["none"], "goal_features": [0]},
        "denoiser": {"name": "transformer", "width": 16, "depth": 1, "heads": 2},
    },
    trainer={"steps": 12, "batch_size": 16},
)
SYNTHETIC = {
    "every": 4,
    "trajectories": 7,  # two batches of 4
    "batch": 4,
    "share": 0.5,
    "guide": {"scale": 1.0},
    "sampling": {"steps": 2, "solver": "ddim"},
}


def agent(learner: str, *, steps: int = 10, **changes: Any) -> Stage:
    return Stage(
        name="agent",
        learner=learner,
        arguments={"members": 2, "width": 16},
        trainer={
            "steps": steps,
            "batch_size": 16,
            "ema_decay": 0.0,
            "validation": 0.0,
            "checkpoint_every": 3,
        },
        synthetic=SYNTHETIC | changes,
    )


def train(folder: Path, *stages: Stage, **options: Any) -> Any:
    settings: dict[str, Any] = {"task": {"name": "line"}, "progress": False, "device": "cpu"}
    return train_stages(recording(), stages, folder=folder, **(settings | options))


@pytest.mark.parametrize("learner", ["td3_bc", "iql"])
def test_sets_are_made_anew_and_steered(tmp_path: Path, learner: str) -> None:
    run = train(tmp_path / "run", MODEL, agent(learner))
    assert run.finished
    folder = tmp_path / "run" / "logs" / "agent" / "synthetic"
    # The checkpoint of update 3 is kept, and the first set with it; one file for each member.
    assert len(list(folder.glob("*.hdf5"))) == 6
    kept = sorted(folder.glob("000002-*.hdf5"))
    assert len(kept) == 2
    first, second = (load_episodes(file) for file in kept)
    assert len(first) == len(second) == 8
    assert not np.array_equal(first.observations[:3], second.observations[:3])
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["stages"][1]["synthetic"]["every"] == 4
    real = train(tmp_path / "real", MODEL, agent(learner, share=0.0))
    assert real.finished
    weights = [
        torch.cat([p.flatten() for p in load_learner(tmp_path / name / "agent").parameters()])  # type: ignore[attr-defined]
        for name in ("run", "real")
    ]
    assert not torch.equal(*weights)


@pytest.mark.parametrize(
    ("steps", "at", "sets"),
    [
        (10, 2, 1),
        (10, 9, 3),
        (8, 8, 2),
        pytest.param(10, 5, 3, marks=pytest.mark.slow),
        pytest.param(10, 9, 1, marks=pytest.mark.slow),
        pytest.param(8, 8, 1, marks=pytest.mark.slow),
    ],
)
def test_one_that_goes_on_ends_the_same(tmp_path: Path, steps: int, at: int, sets: int) -> None:
    learner = agent("td3_bc", steps=steps, sets=sets)
    whole = train(tmp_path / "whole", MODEL, learner)
    assert whole.finished
    with pytest.raises((KeyboardInterrupt, TrainingInterrupted)):
        train(tmp_path / "cut", MODEL, learner, callbacks={"agent": [Stop(at)]})
    train(tmp_path / "cut", MODEL, learner, resume=True)
    states = [
        load_learner(tmp_path / name / "agent", device="cpu").state_dict()  # type: ignore[attr-defined]
        for name in ("whole", "cut")
    ]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_each_members_own_policy_of_the_time_steers_its_sets(
    tmp_path: Path, monkeypatch: Any
) -> None:
    seen: list[tuple[int, Any]] = []
    shard = ShardSampler.shard

    def spy(self: ShardSampler, number: int) -> Any:
        weights = [
            torch.cat([p.detach().flatten() for p in guide.agent.parameters()])  # type: ignore[attr-defined]
            for guide in self.guides
        ]
        seen.append((number, weights[0].clone() if weights else None))
        return shard(self, number)

    monkeypatch.setattr(ShardSampler, "shard", spy)
    train(tmp_path / "run", MODEL, agent("td3_bc", trajectories=4))
    # A batch a set, of two members, before the first update and at 4 and 8.
    assert [number for number, _ in seen] == list(range(6))
    assert seen[0][1] is None and seen[1][1] is None
    guides = [weights for _, weights in seen[2:]]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(guides, 2))
    # The second member ends nearer to its policy at update 8 than to that of the first member.
    last = load_learner(tmp_path / "run" / "agent", device="cpu").member(1)  # type: ignore[attr-defined]
    final = torch.cat([p.detach().flatten() for p in last.parameters()])
    assert (final - guides[3]).norm() < (final - guides[1]).norm() < (final - guides[2]).norm()


def test_the_average_does_not_copy_the_model(tmp_path: Path) -> None:
    model = train(tmp_path / "run", MODEL).load("model")
    learner = agent("td3_bc").build(recording(), seed=0)
    settings = Regeneration.from_settings(SYNTHETIC)
    made = Regenerate(model, learner, settings=settings, folder=tmp_path, seed=0)  # type: ignore[arg-type]
    assert copy.deepcopy(made.source).__self__ is made  # type: ignore[attr-defined]


def test_the_newest_sets_are_learned_from_together(tmp_path: Path, monkeypatch: Any) -> None:
    taken: list[tuple[int, np.ndarray]] = []
    replace_sets = MixedTransitions.replace

    def spy(self: MixedTransitions, synthetic: Any) -> None:
        taken.append((len(synthetic), np.asarray(synthetic[1].observations)))
        replace_sets(self, synthetic)

    monkeypatch.setattr(MixedTransitions, "replace", spy)
    train(tmp_path / "run", MODEL, agent("td3_bc", steps=12, sets=3))
    folder = tmp_path / "run" / "logs" / "agent" / "synthetic"
    assert [count for count, _ in taken] == [2, 2, 2]  # before the first update, and at 4 and 8
    for first, (_, rows) in enumerate(taken):
        files = [folder / f"{number:06d}-1.hdf5" for number in range(first, first + 3)]
        sets = [load_episodes(file).observations for file in files if file.is_file()]
        assert len(sets) >= 2
        np.testing.assert_array_equal(rows[-sum(map(len, sets)) :], np.concatenate(sets))
    # No two sets hold the same trajectories.
    assert len(np.unique(taken[0][1], axis=0)) == len(taken[0][1])


def test_old_sets_go_and_one_that_is_lost_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "logs" / "agent" / "synthetic"
    with pytest.raises((KeyboardInterrupt, TrainingInterrupted)):
        train(tmp_path / "run", MODEL, agent("td3_bc", steps=40), callbacks={"agent": [Stop(30)]})
    # Checkpoints of updates 24 and 27 existed at update 28, so the set of 24 is kept.
    assert sorted({int(file.name[:6]) for file in folder.glob("*.hdf5")}) == [6, 7]
    entries = [entry for entry in folder.iterdir() if entry.name != "settings.json"]
    assert len(entries) == 2 * len(list(folder.glob("*.hdf5")))  # and their caches
    for file in folder.glob("*.hdf5"):
        file.unlink()
    with pytest.raises(PgdiffError, match="must exist to resume at update 27"):
        train(tmp_path / "run", MODEL, agent("td3_bc", steps=40), resume=True)


def test_sets_of_another_model_are_refused(tmp_path: Path) -> None:
    """The model of the run is trained again while the agent is unfinished."""
    with pytest.raises((KeyboardInterrupt, TrainingInterrupted)):
        train(tmp_path / "run", MODEL, agent("td3_bc"), callbacks={"agent": [Stop(5)]})
    other = replace(MODEL, trainer={"steps": 13, "batch_size": 16})
    train(tmp_path / "run", other, add=True, overwrite=True)
    with pytest.raises(PgdiffError, match="`model` must equal the setting"):
        train(tmp_path / "run", agent("td3_bc"), add=True, resume=True)


def test_bad_settings_are_named() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"trajectories": 0}, "`trajectories` must be"),
        ({"batch": 0.5}, "`batch` must be"),
        ({"share": 2.0}, "`share` must be"),
        ({"evry": 3}, "`synthetic` has no 'evry'"),
        ({"sampling": {"stps": 3}}, "`sampling` has no 'stps'"),
        ({"sampling": {"steps": 0}}, "`steps` must be"),
        ({"sampling": [3]}, "`sampling` must be settings by name"),
        ({"guide": {"scle": 1.0}}, "has no 'scle'"),
        ({"guide": {"temperature": 0}}, "`temperature` must be"),
        ({"guide": {"agent": "other.zip"}}, "`guide` must not have 'agent'"),
        ({"guide": 3}, "`guide` must be settings by name. Got 3"),
        ({"compile": "maybe"}, "`compile` must be true or false"),
        ({"termination": "nowhere-v0"}, "`termination` must be an environment's id"),
        ({"termination": 3}, "`termination` must be an environment's id. Got 3"),
    ]
    for changes, message in cases:
        with pytest.raises(PgdiffError, match=message):
            agent("td3_bc", **changes)
    with pytest.raises(PgdiffError, match="`workers` of the stage 'agent'"):
        replace(agent("iql"), trainer={"workers": 2})
    with pytest.raises(PgdiffError, match="needs a learner that uses rewards"):
        agent("cloning")


def test_the_published_guidance_by_its_names(tmp_path: Path) -> None:
    guide = {
        "scale": 0.1,
        "gradient_at": "x",
        "rule": "policy_guided",
        "scale_schedule": "sine_bump",
    }
    sampling = SYNTHETIC["sampling"] | {"trust_region": None}
    learner = agent("td3_bc", guide=guide | {"normalize_gradient": None}, sampling=sampling)
    assert train(tmp_path / "run", MODEL, learner).finished


def test_what_no_model_makes_is_named(tmp_path: Path) -> None:
    with pytest.raises(PgdiffError, match="must refer to a stage of the run"):
        train(tmp_path / "alone", agent("td3_bc"))


def test_guides_that_do_not_fit_the_model_are_named_before_it_is_trained(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"token_weights": [1.0, 2.0, 3.0]}, "`token_weights` of .* must be 6 factors"),
        ({"fields": ["action_chunks"]}, "`fields` must be one of"),
    ]
    for guide, message in cases:
        guided_agent = agent("td3_bc", guide=guide)
        with pytest.raises(PgdiffError, match=message):
            train(tmp_path / "run", MODEL, guided_agent)
        guides = {"policy": guide | {"agent": {"stage": "agent"}}}
        with pytest.raises(PgdiffError, match=message):
            train(tmp_path / "run", MODEL, agent("td3_bc"), guides=guides)
    assert not (tmp_path / "run").exists()
