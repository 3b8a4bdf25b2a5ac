"""The package's guide passes, and every kind of fault is caught with a clear error."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import stir, tiny_model, walk

from pgdiff import Layout, Segment, SegmentValue, TrajectoryDiffusion, TransitionValue
from pgdiff.denoisers import TransformerConfig
from pgdiff.guides import Value
from pgdiff.testing import check_guide
from pgdiff.validation import PgdiffError

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
@pytest.mark.parametrize("at", ["x0", "x"])
@pytest.mark.parametrize("kind", ["transition", "segment"])
def test_ours_passes(model: TrajectoryDiffusion, kind: str, at: Any, transform: Any) -> None:
    figures = check_guide(Value(values()[kind], at=at, transform=transform), model)
    print(f"\n{kind} at {at}, {transform}: {figures}")
    assert figures["gradient"] > 0 and figures["error"] < 1e-5


class Reach:
    """A sound guide; faults are made by what inherits from it."""

    name: Any = "reach"
    at: Any = "x0"
    scale: Any = 1.0

    def energy(self, segment: Segment, level: Tensor) -> Any:
        return -segment.observations[:, -1, :2].square().sum(dim=-1)


class OfNetwork(Reach, nn.Module):
    """A guide that is itself a network."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def energy(self, segment: Segment, level: Tensor) -> Any:
        return self.network(segment.observations).mean(dim=(1, 2))


class Margin(Reach):
    """Flat wherever a segment is within bounds."""

    def energy(self, segment: Segment, level: Tensor) -> Any:
        return -torch.relu(segment.observations.abs() - 100).sum(dim=(1, 2))


class Chooses(Reach):
    scale = 0.0

    def energy(self, segment: Segment, level: Tensor) -> Any:
        return (segment.observations[:, -1, 0] > 0).float()


class Single(Reach):
    """Its constants are of single precision, so that the gradient is tested in that."""

    def __init__(self) -> None:
        self.weight = torch.linspace(-1, 1, 8).reshape(4, 2)

    def energy(self, segment: Segment, level: Tensor) -> Any:
        return (segment.observations @ self.weight).tanh().sum(dim=(1, 2))


@pytest.mark.parametrize(
    "guide",
    [Reach(), OfNetwork(), Margin(), Chooses(), Single()],
    ids=lambda guide: type(guide).__name__,
)
def test_sound_guides_pass(model: TrajectoryDiffusion, guide: Any) -> None:
    for world in (model, LAYOUT):
        figures = check_guide(guide, world)
        print(f"\n{type(guide).__name__}: {figures}")
        assert bool(figures) == (guide.scale > 0)


# ------------------------------------------------------------------------------------------- faults


class Scalar(Reach):
    def energy(self, segment: Segment, level: Tensor) -> Any:
        return super().energy(segment, level).sum()


class NotFinite(Reach):
    def energy(self, segment: Segment, level: Tensor) -> Any:
        return super().energy(segment, level).log()


class NumpyEnergy(Reach):
    def energy(self, segment: Segment, level: Tensor) -> Any:
        return super().energy(segment, level).detach().numpy()


class PartlyDetached(Reach):
    def energy(self, segment: Segment, level: Tensor) -> Any:
        way = segment.observations[:, :, 0].detach() * segment.observations[:, :, 1]
        return way.sum(dim=1)


class WhollyDetached(Reach):
    def energy(self, segment: Segment, level: Tensor) -> Any:
        return super().energy(segment, level).detach()


class OwnNoGrad(Reach):
    def energy(self, segment: Segment, level: Tensor) -> Any:
        with torch.no_grad():
            return super().energy(segment, level)


class Steps(Reach):
    def energy(self, segment: Segment, level: Tensor) -> Any:
        return (10 * segment.observations[:, -1, :2]).round().sum(dim=-1)


class StraightThrough(Reach):
    def energy(self, segment: Segment, level: Tensor) -> Any:
        place = segment.observations[:, -1, :2]
        rounded = place + (place.round() - place).detach()
        return rounded.square().sum(dim=-1)


class AgainstTheBatch(Reach):
    def energy(self, segment: Segment, level: Tensor) -> Any:
        energy = super().energy(segment, level)
        return energy - energy.mean()


class Random(Reach):
    def energy(self, segment: Segment, level: Tensor) -> Any:
        return super().energy(segment, level) + torch.randn(len(segment.observations))


class UsesGlobalRandom(Reach):
    def energy(self, segment: Segment, level: Tensor) -> Any:
        torch.rand(1)
        return super().energy(segment, level)


class InPlace(Reach):
    def energy(self, segment: Segment, level: Tensor) -> Any:
        segment.observations[:, 0] = 0.0
        return super().energy(segment, level)


class RowsOfLevels(Reach):
    def energy(self, segment: Segment, level: Tensor) -> Any:
        weight = torch.zeros(len(segment.observations), level.shape[1], dtype=level.dtype)
        weight[: len(level)] = 1 - level
        return (weight * segment.observations[..., 0]).sum(dim=1)


class RootAtZero(Reach):
    def energy(self, segment: Segment, level: Tensor) -> Any:
        return (0 * segment.observations).square().sum(dim=(1, 2)).sqrt()


class InTraining(OfNetwork):
    """Batch norm in training mode: learns from what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, momentum=0.5)

    def energy(self, segment: Segment, level: Tensor) -> Any:
        self.norm(segment.observations.flatten(0, 1))
        return super().energy(segment, level)


class Backward(OfNetwork):
    """Leaves gradients on its weights."""

    def energy(self, segment: Segment, level: Tensor) -> Any:
        with torch.enable_grad():
            self.network(segment.observations.detach()).sum().backward()
        return super().energy(segment, level)


class OtherUnderNoGrad(Reach):
    def energy(self, segment: Segment, level: Tensor) -> Any:
        return super().energy(segment, level) * (2.0 if torch.is_grad_enabled() else 1.0)


class NoName(Reach):
    name = ""


class Crooked(Reach):
    at = "x1"


class Negative(Reach):
    scale = -1.0


class Halfway:
    name, at, scale = "halfway", "x0", 1.0


FAULTS: list[tuple[Any, str]] = [
    (Scalar(), r"'reach' must be a tensor of shape \[4\]"),
    (NumpyEnergy(), "must be a tensor of shape"),
    (NotFinite(), "The energy of 'reach' must be finite. Got nan"),
    (PartlyDetached(), "'reach' must have the gradient of its energy. Got .* off by .* torch.flo"),
    (WhollyDetached(), "must have an energy that is differentiable"),
    (OwnNoGrad(), "must have an energy that is differentiable"),
    (Steps(), "must have a gradient where its energies differ"),
    (StraightThrough(), "must have the gradient of its energy"),
    (AgainstTheBatch(), "must treat trajectories apart"),
    (Random(), "must give the same energy at every call"),
    (UsesGlobalRandom(), "must leave torch's global random state alone"),
    (InPlace(), "must not change the segment. Got other observations"),
    (RowsOfLevels(), "must take levels of batch 1 for all trajectories alike"),
    (RootAtZero(), "must have a finite gradient"),
    (InTraining(), r"must leave its own weights, .*Got others at norm\.running_mean"),
    (Backward(), r"must leave its own weights, .*Got others at network\.0\.weight\.grad"),
    (OtherUnderNoGrad(), r"the same energy with torch\.no_grad\(\) and without"),
    (NoName(), "`name` of a guide must be some text"),
    (Crooked(), "`at` must be one of"),
    (Negative(), "`scale` must be a number"),
    (Halfway(), "must have the attributes name, at and scale, and a method energy"),
    (Reach, "must have the attributes name"),
]


@pytest.mark.parametrize(
    ("guide", "message"), FAULTS, ids=[type(guide).__name__ for guide, _ in FAULTS]
)
def test_a_broken_guide_is_caught(guide: Any, message: str) -> None:
    with pytest.raises(PgdiffError, match=message) as caught:
        check_guide(guide, LAYOUT)
    print(f"\n{caught.value}")


def test_what_does_not_fit_the_model_is_refused(model: TrajectoryDiffusion) -> None:
    other = SegmentValue.from_episodes(EPISODES, horizon=9, stride=3, denoiser=SMALL)
    with pytest.raises(PgdiffError, match="horizon"):
        check_guide(Value(other), model)
