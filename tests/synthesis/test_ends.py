"""Trajectories that end by a task's rule."""

import numpy as np
import pytest
from line_world import FIELDS, ROWS, model

from pgdiff import PgdiffError, generate
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
        ShardSampler(model=model(), ends=falls)
    assert falls == TaskEnds("pgdiff_envs:walker2d-v5")


@pytest.mark.parametrize(("horizon", "fields"), [(1, ROWS), (8, FIELDS), (8, ROWS)])
def test_no_row_is_beyond_the_end(horizon: int, fields: tuple[str, ...]) -> None:
    asked = model(horizon=horizon, fields=fields)
    made = generate(asked, transitions=300, batch=64, steps=4, ends=beyond, progress=False)
    assert made.next_observations is not None
    assert 0 < made.terminals.sum() < made.steps
    assert not beyond(made.observations).any()
    assert made.terminals[beyond(made.next_observations)].all()


def test_it_is_a_setting_of_the_shards(tmp_path) -> None:
    settings = {"transitions": 20, "batch": 64, "steps": 2, "progress": False}
    generate(model(), out=tmp_path / "a.hdf5", ends=beyond, **settings)
    for other in (None, TaskEnds("pgdiff_envs:hopper-v5")):
        with pytest.raises(PgdiffError, match="ends"):
            generate(model(), out=tmp_path / "a.hdf5", ends=other, resume=True, **settings)


def test_one_that_leaves_nothing_is_named() -> None:
    with pytest.raises(PgdiffError, match="Shard 3 keeps no transition: by `ends`"):
        ShardSampler(model=model(), batch=4, steps=2, ends=everywhere).shard(3)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("pgdiff_envs:maze2d-umaze-v1", "must be an environment with ends_episode"),
        ("nowhere-v0", "`ends` must be an environment's id. Got 'nowhere-v0'"),
        ("nothing:walker2d-v5", "`ends` must be an environment's id. Got 'nothing:"),
    ],
)
def test_other_environments_are_named(env: str, message: str) -> None:
    with pytest.raises(PgdiffError, match=message):
        TaskEnds(env)
