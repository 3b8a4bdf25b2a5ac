"""User-defined guides: ten lines, and clear errors for faults."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import flat_planner, tiny_model, walk

from pgdiff import Planner
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import UniformSpacing
from pgdiff.guides import Guide, bind
from pgdiff.model.guidance import score
from pgdiff.trajectory import Segment

EPISODES = walk()


class Reach:
    """A guide to an end point."""

    name, gradient_at = "reach", "x0"

    def __init__(self, place: tuple[float, float], scale: float = 0.02) -> None:
        self.place, self.scale = torch.tensor(place), scale

    def objective(self, segment: Segment, level: Tensor) -> Tensor:
        return -(segment.observations[:, -1, :2] - self.place).square().sum(dim=-1)


class Faulty(Reach):
    """A guide with a faulty objective."""

    def __init__(self, spoil: Any, **options: Any) -> None:
        super().__init__((0.0, 0.0), **options)
        self.spoil = spoil

    def objective(self, segment: Segment, level: Tensor) -> Any:
        return self.spoil(super().objective(segment, level))


def planner(*guides: Any, **options: Any) -> Planner:
    return flat_planner(
        tiny_model(EPISODES), guides=guides, **({"candidates": 4, "steps": 4} | options)
    )


def test_ten_lines_steer() -> None:
    place = (0.4, -0.3)
    assert isinstance(Reach(place), Guide)
    ends = {
        scale: planner(Reach(place, scale)).plan(np.zeros(4)).candidates[:, -1, :2]
        for scale in (0.0, 0.02, 0.1)
    }
    misses = [float(np.linalg.norm(end - place, axis=-1).mean()) for end in ends.values()]
    print(f"\nmean distance of the ends to the place, scale 0, 0.02, 0.1: {misses}")
    assert misses[0] > misses[1] > misses[2]


def test_scores_are_raw_energies_and_guides_add_up() -> None:
    there, here = Reach((0.4, -0.3), scale=1.0), Reach((-1.0, 0.0), scale=0.0)
    both = planner(there, here).plan(np.zeros(4))
    segment = Segment(observations=torch.from_numpy(both.candidates), stride=3)
    level = torch.zeros(1, 6)
    expected = there.objective(segment, level) + here.objective(segment, level)
    np.testing.assert_allclose(both.scores, expected.numpy(), rtol=1e-5)
    assert both.best == int(expected.argmax())


def test_without_a_guide_there_is_no_score() -> None:
    model = tiny_model(EPISODES)
    x = torch.zeros(3, 6, 4)
    assert torch.isnan(score([], x)).all() and score([], x).shape == (3,)
    objective = score([bind(Reach((0.0, 0.0)), model)], x)
    assert torch.isfinite(objective).all() and not objective.requires_grad


def test_an_objective_gets_its_levels() -> None:
    seen: list[Tensor] = []

    class Listening(Reach):
        def objective(self, segment: Segment, level: Tensor) -> Tensor:
            seen.append(level)
            return super().objective(segment, level)

    planner(Listening((0.0, 0.0)), spacing=UniformSpacing()).plan(np.zeros(4))
    assert [level[0, 1].item() for level in seen] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert all((level[:, 0] == 0).all() for level in seen), "the observation is clean"


# -------------------------------------------------------------------------------------- bad guides


@pytest.mark.parametrize("scale", [1.0, 0.0])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda e: e * torch.nan,
            "The objective of 'reach' must be finite.* Got nan for trajectory 0",
        ),
        (lambda e: torch.where(torch.arange(4) == 2, torch.inf, e), "Got inf for trajectory 2"),
        (lambda e: e[:, None], r"'reach' must be a tensor of shape \[4\].* Got \[4, 1\]"),
        (lambda e: e.sum(), r"must be a tensor of shape \[4\].* Got \[\]"),
        (lambda e: e.detach().numpy(), "must be a tensor of shape .* Got ndarray"),
        (lambda e: None, "Got NoneType"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_bad_energy_is_named(spoil: Any, message: str, scale: float) -> None:
    """This holds for guiding and for choosing."""
    with pytest.raises(PgdiffError, match=message):
        planner(Faulty(spoil, scale=scale)).plan(np.zeros(4))


def test_a_detached_energy_is_named_where_it_is_to_steer() -> None:
    weight = torch.nn.Parameter(torch.ones(()))
    for spoil in (lambda e: e.detach(), lambda e: weight * e.detach()):
        with pytest.raises(PgdiffError, match=r"'reach' must be differentiable .*scale=0"):
            planner(Faulty(spoil)).plan(np.zeros(4))
        assert np.isfinite(planner(Faulty(spoil, scale=0.0)).plan(np.zeros(4)).scores).all()


def test_a_gradient_that_is_not_finite_is_named() -> None:
    with pytest.raises(PgdiffError, match="The gradient of 'reach' must be finite"):
        planner(Faulty(lambda e: (e - e).abs().sqrt())).plan(np.zeros(4))


class Halfway:
    name, gradient_at, scale = "halfway", "x0", 1.0


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_guide_is_refused_at_once() -> None:
    for wrong in (Halfway(), "value", torch.nn.Linear(1, 1)):
        with pytest.raises(
            PgdiffError, match="`guides` must have the attributes name, gradient_at and"
        ):
            planner(wrong)
    crooked = Reach((0.0, 0.0))
    crooked.gradient_at = "x1"
    with pytest.raises(PgdiffError, match="`gradient_at` must be one of"):
        planner(crooked)
    with pytest.raises(PgdiffError, match="`scale` must be"):
        planner(Reach((0.0, 0.0), scale=-1.0))
