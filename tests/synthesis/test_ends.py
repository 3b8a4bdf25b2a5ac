"""Trajectories that end by a task's rule."""

import numpy as np
import pytest
from line_world import FIELDS, ROWS, model

from pgdiff import PgdiffError, Sampling, generate
from pgdiff.diffusion import Churn
from pgdiff.synthesis import ShardSampler, TaskEnds


def beyond(observations: np.ndarray) -> np.ndarray:
    over: np.ndarray = observations[..., 0] % 1 > 0.8
    return over


def everywhere(observations: np.ndarray) -> np.ndarray:
    return np.ones(observations.shape[:-1], bool)


def test_a_rule_that_a_task_has() -> None:
    falls = TaskEnds("pgdiff_envs:walker2d-v5")
    upright, fallen = np.zeros((2, 17))
    upright[0], fallen[0] = 1.2, 0.7
    assert falls(np.stack([upright, fallen])).tolist() == [False, True]
    with pytest.raises(PgdiffError, match=r"of the model.s task\. .* of 17 features\. Got 1"):
        ShardSampler(model=model(), termination=falls)
    assert falls == TaskEnds("pgdiff_envs:walker2d-v5")


@pytest.mark.parametrize(("horizon", "fields"), [(1, ROWS), (8, FIELDS), (8, ROWS)])
def test_no_row_is_beyond_the_end(horizon: int, fields: tuple[str, ...]) -> None:
    sampled_model = model(horizon=horizon, fields=fields)
    settings = {"batch": 64, "sampling": Sampling(steps=4, solver=Churn()), "termination": beyond}
    made = generate(sampled_model, transitions=300, **settings)
    assert made.next_observations is not None
    assert 0 < made.terminals.sum() < made.steps
    assert not beyond(made.observations).any()
    assert made.terminals[beyond(made.next_observations)].all()


def test_it_is_a_setting_of_the_shards(tmp_path) -> None:
    settings = {"transitions": 20, "batch": 64, "sampling": Sampling(steps=2)}
    generate(model(), out=tmp_path / "a.hdf5", termination=beyond, **settings)
    for other in (None, TaskEnds("pgdiff_envs:hopper-v5")):
        with pytest.raises(PgdiffError, match="`termination` must "):
            changed = settings | {"termination": other, "on_existing": "resume"}
            generate(model(), out=tmp_path / "a.hdf5", **changed)


def test_one_that_leaves_nothing_is_named() -> None:
    with pytest.raises(PgdiffError, match="Shard 3 has no transitions: `termination`"):
        sampling = Sampling(steps=2)
        ShardSampler(model=model(), batch=4, sampling=sampling, termination=everywhere).shard(3)


def test_other_environments_are_named() -> None:
    for env, message in (
        ("pgdiff_envs:maze2d-umaze-v1", "`termination` must be an environment with ends_episode"),
        ("nowhere-v0", "`termination` must be an environment's id. Got 'nowhere-v0'"),
        ("nothing:walker2d-v5", "`termination` must be an environment's id. Got 'nothing:"),
        (3, "`termination` must be an environment's id. Got 3"),
    ):
        with pytest.raises(PgdiffError, match=message):
            TaskEnds(env)
