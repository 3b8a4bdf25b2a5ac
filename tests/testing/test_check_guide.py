"""A sound guide passes, and every kind of fault raises a clear error."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import stir, tiny_model, walk

from pgdiff import Layout, Segment, SegmentValue, TrajectoryDiffusion, TransitionValue
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.guides import Value
from pgdiff.testing import check_guide

pytestmark = pytest.mark.usefixtures("unchecked", "own_registry")

EPISODES = walk()
LAYOUT = Layout(fields=(("observations", 4), ("actions", 2)), horizon=6, stride=3)
SMALL = TransformerConfig(width=16, depth=1, heads=2)


@pytest.fixture(scope="module")
def model() -> TrajectoryDiffusion:
    return tiny_model(EPISODES)


def values() -> dict[str, Any]:
    transition = stir(TransitionValue.from_episodes(EPISODES, stride=3, discount=0.99))
    segment = stir(SegmentValue.from_episodes(EPISODES, horizon=6, stride=3, denoiser=SMALL))
    return {"transition": transition, "segment": segment}


@pytest.mark.parametrize("transform", ["none", "log"])
@pytest.mark.parametrize("gradient_at", ["x0", "x"])
@pytest.mark.parametrize("kind", ["transition", "segment"])
def test_ours_passes(
    model: TrajectoryDiffusion, kind: str, gradient_at: Any, transform: Any
) -> None:
    figures = check_guide(
        Value(values()[kind], gradient_at=gradient_at, transform=transform), model
    )
    print(f"\n{kind} at {gradient_at}, {transform}: {figures}")
    assert figures["gradient"] > 0 and figures["error"] < 1e-5


class Reach:
    """A sound guide; its subclasses have faults."""

    name: Any = "reach"
    gradient_at: Any = "x0"
    scale: Any = 1.0

    def objective(self, segment: Segment, level: Tensor) -> Any:
        return -segment.observations[:, -1, :2].square().sum(dim=-1)


class OfNetwork(Reach, nn.Module):
    """A guide that is a network."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def objective(self, segment: Segment, level: Tensor) -> Any:
        return self.network(segment.observations).mean(dim=(1, 2))


class Margin(Reach):
    """A guide whose objective is constant within bounds."""

    def objective(self, segment: Segment, level: Tensor) -> Any:
        return -torch.relu(segment.observations.abs() - 100).sum(dim=(1, 2))


class Chooses(Reach):
    scale = 0.0

    def objective(self, segment: Segment, level: Tensor) -> Any:
        return (segment.observations[:, -1, 0] > 0).float()


class Single(Reach):
    """A guide with constants in single precision, so that the gradient is tested in it."""

    def __init__(self) -> None:
        self.weight = torch.linspace(-1, 1, 8).reshape(4, 2)

    def objective(self, segment: Segment, level: Tensor) -> Any:
        return (segment.observations @ self.weight).tanh().sum(dim=(1, 2))


def test_sound_guides_pass(model: TrajectoryDiffusion) -> None:
    for guide in [Reach(), OfNetwork(), Margin(), Chooses(), Single()]:
        for world in (model, LAYOUT):
            figures = check_guide(guide, world)
            print(f"\n{type(guide).__name__}: {figures}")
            assert bool(figures) == (guide.scale > 0)


# ------------------------------------------------------------------------------------------- faults


class Scalar(Reach):
    def objective(self, segment: Segment, level: Tensor) -> Any:
        return super().objective(segment, level).sum()


class NotFinite(Reach):
    def objective(self, segment: Segment, level: Tensor) -> Any:
        return super().objective(segment, level).log()


class NumpyEnergy(Reach):
    def objective(self, segment: Segment, level: Tensor) -> Any:
        return super().objective(segment, level).detach().numpy()


class PartlyDetached(Reach):
    def objective(self, segment: Segment, level: Tensor) -> Any:
        way = segment.observations[:, :, 0].detach() * segment.observations[:, :, 1]
        return way.sum(dim=1)


class WhollyDetached(Reach):
    def objective(self, segment: Segment, level: Tensor) -> Any:
        return super().objective(segment, level).detach()


class OwnNoGrad(Reach):
    def objective(self, segment: Segment, level: Tensor) -> Any:
        with torch.no_grad():
            return super().objective(segment, level)


class Steps(Reach):
    def objective(self, segment: Segment, level: Tensor) -> Any:
        return (10 * segment.observations[:, -1, :2]).round().sum(dim=-1)


class StraightThrough(Reach):
    def objective(self, segment: Segment, level: Tensor) -> Any:
        place = segment.observations[:, -1, :2]
        rounded = place + (place.round() - place).detach()
        return rounded.square().sum(dim=-1)


class AgainstTheBatch(Reach):
    def objective(self, segment: Segment, level: Tensor) -> Any:
        objective = super().objective(segment, level)
        return objective - objective.mean()


class Random(Reach):
    def objective(self, segment: Segment, level: Tensor) -> Any:
        return super().objective(segment, level) + torch.randn(len(segment.observations))


class UsesGlobalRandom(Reach):
    def objective(self, segment: Segment, level: Tensor) -> Any:
        torch.rand(1)
        return super().objective(segment, level)


class InPlace(Reach):
    def objective(self, segment: Segment, level: Tensor) -> Any:
        segment.observations[:, 0] = 0.0
        return super().objective(segment, level)


class RowsOfLevels(Reach):
    def objective(self, segment: Segment, level: Tensor) -> Any:
        weight = torch.zeros(len(segment.observations), level.shape[1], dtype=level.dtype)
        weight[: len(level)] = 1 - level
        return (weight * segment.observations[..., 0]).sum(dim=1)


class RootAtZero(Reach):
    def objective(self, segment: Segment, level: Tensor) -> Any:
        return (0 * segment.observations).square().sum(dim=(1, 2)).sqrt()


class InTraining(OfNetwork):
    """Batch norm in training mode, which changes its statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, momentum=0.5)

    def objective(self, segment: Segment, level: Tensor) -> Any:
        self.norm(segment.observations.flatten(0, 1))
        return super().objective(segment, level)


class Backward(OfNetwork):
    """Leaves gradients on its weights."""

    def objective(self, segment: Segment, level: Tensor) -> Any:
        with torch.enable_grad():
            self.network(segment.observations.detach()).sum().backward()
        return super().objective(segment, level)


class OtherUnderNoGrad(Reach):
    def objective(self, segment: Segment, level: Tensor) -> Any:
        return super().objective(segment, level) * (2.0 if torch.is_grad_enabled() else 1.0)


class NoName(Reach):
    name = ""


class Crooked(Reach):
    gradient_at = "x1"


class Negative(Reach):
    scale = -1.0


class Halfway:
    name, gradient_at, scale = "halfway", "x0", 1.0


FAULTS: list[tuple[Any, str]] = [
    (Scalar(), r"'reach' must be a tensor of shape \[4\]"),
    (NumpyEnergy(), "must be a tensor of shape"),
    (NotFinite(), "The objective of 'reach' must be finite. Got nan"),
    (
        PartlyDetached(),
        "'reach' must have the gradient of its objective. Got .* error of .* torch.flo",
    ),
    (WhollyDetached(), "must have an objective that is differentiable"),
    (OwnNoGrad(), "must have an objective that is differentiable"),
    (Steps(), "must have a gradient if its objectives differ"),
    (StraightThrough(), "must have the gradient of its objective"),
    (AgainstTheBatch(), "must judge trajectories independently"),
    (Random(), "must return equal objectives at every call"),
    (UsesGlobalRandom(), "must not change torch's global random state"),
    (InPlace(), "must not change the segment. Got other observations"),
    (RowsOfLevels(), "must apply levels of batch 1 to all trajectories"),
    (RootAtZero(), "must have a finite gradient"),
    (InTraining(), r"must not change its weights, .*Got changes at norm\.running_mean"),
    (Backward(), r"must not change its weights, .*Got changes at network\.0\.weight\.grad"),
    (OtherUnderNoGrad(), r"equal objectives with torch\.no_grad\(\) and without"),
    (NoName(), "`name` of a guide must be a non-empty string"),
    (Crooked(), "`gradient_at` must be one of"),
    (Negative(), "`scale` must be a number"),
    (Halfway(), "must have the attributes name, gradient_at and scale, and a method objective"),
    (Reach, "must have the attributes name"),
]


def test_a_broken_guide_is_caught() -> None:
    for guide, message in FAULTS:
        with pytest.raises(PgdiffError, match=message) as caught:
            check_guide(guide, LAYOUT)
        print(f"\n{caught.value}")


def test_what_does_not_fit_the_model_is_refused(model: TrajectoryDiffusion) -> None:
    other = SegmentValue.from_episodes(EPISODES, horizon=9, stride=3, denoiser=SMALL)
    with pytest.raises(PgdiffError, match="horizon"):
        check_guide(Value(other), model)
