"""Costs as guides: depths against dense sampling, gradients, and plans that avoid regions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from judges import EPISODES
from torch import Tensor
from toys import DOUBLE, fit, flat_model, flat_planner, generator, record, tiny_model

from pgdiff import Segment, TrajectoryDiffusion
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.guides import ActionLimit, Box, Constraint, Disc, Guide, SpeedLimit, bind
from pgdiff.testing import check_guide

LEVEL = torch.zeros(1, 6)
ACTIONS, CHUNKS = ("observations", "actions"), ("observations", "action_chunks")


def segment(*points: tuple[float, ...]) -> Segment:
    return Segment(observations=torch.tensor([points], dtype=DOUBLE))


def paths(dimensions: int = 2) -> Segment:
    """Return way-points that are far apart."""
    points = 1.5 * torch.randn(200, 5, dimensions, generator=generator(0), dtype=DOUBLE)
    return Segment(observations=points)


# ------------------------------------------------------------------------------------------ depths


def disc_depth(disc: Disc, points: Tensor) -> Tensor:
    away = (points - torch.tensor(disc.center, dtype=DOUBLE)).norm(dim=-1)
    return (disc.radius + disc.margin - away).clamp(min=0)


def box_depth(box: Box, points: Tensor) -> Tensor:
    low, high = torch.tensor(box.low, dtype=DOUBLE), torch.tensor(box.high, dtype=DOUBLE)
    faces = torch.cat([points - low, high - points], dim=-1).amin(dim=-1)
    return (faces + box.margin).clamp(min=0)


@pytest.mark.parametrize(
    ("region", "depth"),
    [
        (Disc((0.3, -0.2), 0.7), disc_depth),
        (Disc((0.3, -0.2), 0.4, margin=0.3), disc_depth),
        (Disc((0.3, -0.2, 0.1), 0.9, position=(0, 1, 2)), disc_depth),
        (Box((-0.5, -0.2), (0.9, 0.6)), box_depth),
        (Box((-0.5, -0.2), (0.9, 0.6), margin=0.2), box_depth),
        (Box((-0.5, -0.2, -0.6), (0.9, 0.6, 0.4), position=(0, 1, 2)), box_depth),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_line_is_as_deep_as_its_deepest_point(region: Any, depth: Any) -> None:
    """Compared with 2,001 points along each line between way-points."""
    seen = paths(len(region.position))
    share = torch.linspace(0, 1, 2001, dtype=DOUBLE)[:, None, None, None]
    start, end = seen.observations[:, :-1], seen.observations[:, 1:]
    dense = depth(region, start + share * (end - start)).amax(dim=0)
    result = region(seen)
    assert result.shape == (200, 4)
    assert (dense.square() <= result + 1e-12).all(), "no point is deeper"
    torch.testing.assert_close(result.sqrt(), dense, rtol=0, atol=3e-3)
    inside = region.inside(seen.observations)
    assert inside.shape == (200, 5) and 10 < int(inside.sum()) < 500
    through = (dense > region.margin) & ~inside[:, :-1] & ~inside[:, 1:]
    assert through.sum() > 20, "lines go through it whose ends are outside"


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        (Disc((0.0, 0.0), 1.0, path=False), [1.0, 0.25, 0.0]),
        (Disc((0.0, 0.0), 1.0, margin=1.0, path=False), [4.0, 2.25, 0.0]),
        (Box((-1.0, -2.0), (1.0, 2.0), path=False), [1.0, 0.25, 0.0]),
        (Box((-1.0, -2.0), (1.0, 2.0), margin=1.0, path=False), [4.0, 2.25, 0.0]),
    ],
    ids=str,
)
def test_way_points_alone(region: Any, expected: list[float]) -> None:
    seen = segment((0.0, 0.0), (0.5, 0.0), (0.0, 3.0))
    torch.testing.assert_close(region(seen), torch.tensor([expected], dtype=DOUBLE))
    objective = Constraint(region).objective(seen, LEVEL)
    torch.testing.assert_close(objective, torch.tensor([-sum(expected)], dtype=DOUBLE))


def test_a_single_way_point_has_no_lines() -> None:
    assert Disc((0.0, 0.0), 1.0)(segment((0.5, 0.0))).tolist() == [[0.25]]


@pytest.mark.parametrize("path", [True, False])
@pytest.mark.parametrize("region", [Disc((0.2, 0.1), 1.0), Box((-0.8, -0.9), (1.2, 1.1))])
def test_the_gradient_is_finite_at_the_center_and_where_plans_stand(
    region: Any, path: bool
) -> None:
    region = type(region)(**{**vars(region), "path": path})
    center = (0.2, 0.1)
    for points in ([center] * 3, [(1.0, 0.1), center, (-0.6, 0.1)], [(5.0, 5.0)] * 3):
        place = torch.tensor([points], dtype=DOUBLE, requires_grad=True)
        cost = region(Segment(observations=place)).sum()
        (gradient,) = torch.autograd.grad(cost, place)
        assert torch.isfinite(gradient).all()
        assert (cost > 0) == (points[0] != (5.0, 5.0))


def test_inside_leaves_the_margin_out() -> None:
    disc, box = Disc((1.0, 0.0), 0.5, margin=1.0), Box((0.5, -0.5), (1.5, 0.5), margin=1.0)
    places = np.array([[[1.0, 0.0], [1.4, 0.0]], [[1.4, 0.4], [1.6, 0.0]]])
    assert disc.inside(places).tolist() == [[True, True], [False, False]]
    assert box.inside(torch.from_numpy(places)).tolist() == [[True, True], [True, False]]
    assert disc.inside([1, 0]).tolist() is True


# ------------------------------------------------------------------------------------------ limits


def test_speed_and_action_limits_are_squared_excesses() -> None:
    seen = segment((0.0, 0.0, 3.0, 4.0), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, -2.5))
    assert SpeedLimit(2.0)(seen).tolist() == [[9.0, 0.0, 0.25]]
    assert SpeedLimit(2.0, velocity=(3,))(seen).tolist() == [[4.0, 0.0, 0.25]]
    actions = torch.tensor([[[0.0, 3.0], [-2.0, 0.5]]], dtype=DOUBLE)
    observations = torch.zeros(1, 2, 4, dtype=DOUBLE)
    limit = ActionLimit((-1.0, 0.0), 1)
    assert limit(Segment(observations=observations, actions=actions)).tolist() == [[4.0, 1.0]]
    box = np.float32([-1, -1]), np.float32([1, 1])
    assert ActionLimit(*box) == ActionLimit((-1.0, -1.0), (1.0, 1.0))
    chunks = actions.reshape(1, 1, 4).expand(1, 2, 4)
    result = limit(Segment(observations=observations, action_chunks=chunks, stride=2))
    assert result.tolist() == [[5.0, 5.0]]


@pytest.mark.parametrize("fields", [ACTIONS, CHUNKS])
@pytest.mark.parametrize(
    "cost",
    [
        Disc((0.2, 0.1), 3.0),
        Box((-1.0, -1.0), (2.0, 1.0)),
        SpeedLimit(0.2),
        ActionLimit(-0.3, 0.3),
        lambda segment: segment.observations.square().sum(dim=(1, 2)),
    ],
    ids=["disc", "box", "speed limit", "action limit", "function"],
)
def test_they_are_sound_guides(cost: Any, fields: tuple[str, ...]) -> None:
    guide = Constraint(cost)
    figures = check_guide(guide, tiny_model(EPISODES, fields=fields))
    assert isinstance(guide, Guide) and figures["gradient"] > 0 and figures["error"] < 1e-4


@pytest.fixture(scope="module")
def rays() -> TrajectoryDiffusion:
    """Return a model of straight paths from the origin, 0.1 per step, at angles within a radian."""
    angle = np.random.default_rng(0).uniform(-1, 1, (300, 1, 1))
    way = 0.1 * np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
    places = np.arange(16)[:, None] * way
    episodes = record(
        places.reshape(-1, 2),
        np.broadcast_to(way, places.shape).reshape(-1, 2),
        np.zeros(4800),
        lengths=[16] * 300,
    )
    model = flat_model(episodes, horizon=6, stride=3, denoiser=TransformerConfig(width=32, depth=1))
    return fit(model, episodes, steps=500)


@pytest.mark.slow
@pytest.mark.parametrize(
    "region",
    [Disc((0.8, 0.0), 0.25, margin=0.05), Box((0.6, -0.2), (1.0, 0.3), margin=0.05)],
    ids=["disc", "box"],
)
def test_plans_keep_away(rays: TrajectoryDiffusion, region: Any) -> None:
    """This also holds on the lines between way-points; otherwise plans do not change."""
    share = torch.linspace(0, 1, 50)[:, None, None, None]
    entered, uneven = [], []
    for scale in (0.0, 1.0, 100.0):
        guide = Constraint(region, scale=scale)
        planner = flat_planner(rays, guides=[guide], candidates=64, steps=10)
        places = torch.from_numpy(planner.plan(np.zeros(2)).candidates)
        lines = places[:, :-1] + share * places.diff(dim=1)
        entered.append(float(region.inside(lines).any(dim=0).any(dim=1).float().mean()))
        uneven.append(float((places.diff(dim=1).norm(dim=-1) - 0.3).abs().mean()))
    print(f"\nat scales 0, 1 and 100: share that goes through {entered}, uneven by {uneven}")
    assert entered[0] > 0.2 and entered[0] > entered[1] > entered[2] < entered[0] / 3
    assert max(uneven) < 0.03


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Disc((0, 0), 0.0), r"`radius` must be a number in \(0.0, inf\]. Got 0.0"),
        (lambda: Disc((0, 0), -1.0), "`radius` must be"),
        (lambda: Disc((0, 0), 1.0, margin=-0.1), "`margin` must be"),
        (lambda: Disc((0, math.nan), 1.0), "`center` must be a number"),
        (lambda: Disc(1.0, 1.0), "`center` must be numbers, one for each feature"),
        (lambda: Disc((0, 0, 0), 1.0), r"`position` must be 3 indices.* Got \[0, 1\]"),
        (lambda: Disc((0, 0), 1.0, position=(0, 1.5)), "`position` must be an integer"),
        (lambda: Box((0, 0), (1, 0)), "`low` must be below `high`"),
        (lambda: Box((0, 0), (1, 1, 1)), "`low` must be below `high`"),
        (lambda: SpeedLimit(-1.0), "`limit` must be"),
        (lambda: SpeedLimit(1.0, velocity=()), "`velocity` must name at least one"),
        (lambda: ActionLimit(1.0, -1.0), "`low` must be below `high`"),
        (lambda: ActionLimit((0.0, 0.0), (1.0, 1.0, 1.0)), "`low` must be below `high`"),
        (lambda: ActionLimit(-math.inf, 1.0), "`low` must be a number"),
        (lambda: Constraint(3.0), "`cost` must be a function of a segment. Got 3.0"),
        (lambda: Constraint(Disc), "`cost` must be a function of a segment"),
        (lambda: Constraint(Disc((0, 0), 1.0), scale=math.nan), "`scale` must be"),
    ],
)
def test_bad_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(PgdiffError, match=message):
        make()


def test_a_model_that_does_not_fit_is_refused() -> None:
    model = tiny_model(EPISODES)
    for cost, message in (
        (Disc((0, 0), 1.0, position=(0, 4)), "`position` must be indices of the 4 features"),
        (Box((0, 0), (1, 1), position=(5, 1)), "`position` must be indices of the 4 features"),
        (SpeedLimit(1.0, velocity=(4,)), "`velocity` must be indices of the 4 features"),
        (ActionLimit(-1.0, 1.0), "`fields` of the model must hold 'actions' .*'ActionLimit'"),
    ):
        with pytest.raises(PgdiffError, match=message):
            bind(Constraint(cost), model)
    narrow = ActionLimit((-1.0,) * 3, 1.0)
    with pytest.raises(PgdiffError, match=r"`low` must be one number, or 2, .* Got 3"):
        bind(Constraint(narrow), tiny_model(EPISODES, fields=CHUNKS))
    with pytest.raises(PgdiffError, match="`segment` must have actions for an ActionLimit"):
        narrow(paths())
    with pytest.raises(PgdiffError, match=r"`positions` must have shape \[..., 2\]. Got \[3\]"):
        Disc((0, 0), 1.0).inside([0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (lambda s: s.observations.sum(), r"must return .* \[2\] or \[2, parts\]. Got \[\]"),
        (lambda s: s.observations, r"`cost` of 'constraint' must return .* Got \[2, 6, 4\]"),
        (lambda s: s.observations.sum(dim=(0, 2)), r"`cost` .* Got \[6\]"),
        (lambda s: 1.0, "`cost` of 'constraint' must return .* Got float"),
        (lambda s: s.observations[:, 0] / 0, "The objective of 'constraint' must be finite"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_costs_are_named(cost: Any, message: str) -> None:
    planner = flat_planner(tiny_model(EPISODES), guides=[Constraint(cost)], candidates=2, steps=2)
    with pytest.raises(PgdiffError, match=message):
        planner.plan(np.zeros(4))
