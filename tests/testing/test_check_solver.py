"""Every solver of the package passes, and every kind of fault is caught with a clear error."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.diffusion.solvers import DDIM, Churn, Step
from pgdiff.diffusion.solvers.ddim import ddim
from pgdiff.registry import register, registered
from pgdiff.testing import check_solver
from pgdiff.validation import PgdiffError

# Settings that are biased on purpose are set straight: networks remove a little too much noise, an
# exact denoiser does not.
STRAIGHT = {"churn": {"churn": 10.0, "noise_scale": 1.0}}
OURS = {
    name: cls for name, cls in registered("solver").items() if cls.__module__.startswith("pgdiff.")
}


pytestmark = pytest.mark.usefixtures("unchecked", "own_registry")


@cache
def figures(name: str) -> dict[str, float]:
    return check_solver(OURS[name](**STRAIGHT.get(name, {})))


@pytest.mark.parametrize("name", OURS)
def test_ours_pass(name: str) -> None:
    worst = max(error for key, error in figures(name).items() if "80 steps" in key)
    print(f"\n{name}: largest error at 80 steps {worst:.3g}")
    assert worst < 0.2


@pytest.mark.parametrize(
    ("name", "settings"), [("ddim", {"eta": 1.0}), ("ddpm", {"variance": "large"}), ("churn", {})]
)
def test_ours_pass_with_other_settings(name: str, settings: dict[str, Any]) -> None:
    assert bool(check_solver(OURS[name](**settings), law=name != "churn")) == (name != "churn")


def test_the_figures_are_those_of_the_order() -> None:
    first, second = (
        [figures(name)[f"CosineSchedule, all alike, {steps} steps"] for steps in (20, 40, 80)]
        for name in ("ddim", "dpm_solver")
    )
    orders = [math.log2(errors[0] / errors[2]) / 2 for errors in (first, second)]
    print(f"\norders: DDIM {orders[0]:.2f}, DPM-Solver++ {orders[1]:.2f}")
    assert orders[0] == pytest.approx(1, abs=0.15)
    assert 1.5 < orders[1] < 2.3  # in equal steps of the level


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    check_solver(DDIM(), law=False)
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------------------- faults

Rule = Callable[[Step], Tensor]


def stateless(step: Rule, name: str) -> Any:
    """A registered solver whose step is this function."""

    @register("solver", f"broken_{name}")
    @dataclass(frozen=True)
    class Broken:
        def begin(self, levels: Tensor) -> None:
            pass

        def step(self, at: Step, state: None) -> tuple[Tensor, None]:
            return step(at), None

    Broken.__qualname__ = f"Broken_{name}"
    return Broken()


def of_the_first_token(at: Step) -> Tensor:
    alpha, sigma = at.alpha_to[:, :1], at.sigma_to[:, :1]
    return alpha * at.x0_hat + sigma * at.epsilon


def in_place(at: Step) -> Tensor:
    at.x.mul_(at.alpha_to)
    return at.x


def levels_in_place(at: Step) -> Tensor:
    stepped = ddim(at)
    at.level.mul_(0.5)
    return stepped


def random_of_its_own(at: Step) -> Tensor:
    return at.alpha_to * at.x0_hat + at.sigma_to * torch.randn_like(at.x)


def reseeding(at: Step) -> Tensor:
    torch.manual_seed(0)
    return random_of_its_own(at)


def private_seed(at: Step) -> Tensor:
    noise = torch.randn(at.x.shape, generator=torch.Generator().manual_seed(0), dtype=at.x.dtype)
    size = (0.5 * at.sigma_to).clamp(max=1.0)
    return ddim(at) + (at.sigma_to > 0) * size * noise[:1]


def over_alpha(at: Step) -> Tensor:
    slope = (at.x / at.alpha - at.x0_hat) / torch.where(at.sigma > 0, at.sigma / at.alpha, 1.0)
    return at.alpha_to * (at.x0_hat + slope * at.sigma_to / at.alpha_to)


def too_little_noise(at: Step) -> Tensor:
    """Half of DDPM's noise, with the mean as if it were all."""
    mean = at.kept * at.ratio * at.x + at.alpha_to * at.fresh * at.x0_hat
    return mean + 0.5 * at.sigma_to * at.fresh.sqrt() * at.noise()


def variance_as_deviation(at: Step) -> Tensor:
    mean = at.kept * at.ratio * at.x + at.alpha_to * at.fresh * at.x0_hat
    return mean + at.sigma_to * at.fresh * at.noise()


def estimates_as_samples(at: Step) -> Tensor:
    """The consistency solver's step with a denoiser's mean."""
    return at.alpha_to * at.x0_hat + at.sigma_to * at.noise()


def without_alpha(at: Step) -> Tensor:
    return at.x0_hat + at.sigma_to * at.epsilon


def noise_at_the_end(at: Step) -> Tensor:
    return ddim(at) + 0.01 * at.noise()


def limits(at: Step) -> Tensor:
    return ddim(at).clamp(-2.0, 2.0) if bool((at.sigma_to > 0).any()) else at.x0_hat


def limited_estimates(at: Step) -> Tensor:
    return at.alpha_to * at.x0_hat.clamp(-0.3, 0.3) + at.sigma_to * at.epsilon


class Drawn:
    """A generator that outlives a run."""

    source = torch.Generator().manual_seed(0)


def generator_of_its_own(at: Step) -> Tensor:
    noise = torch.randn(at.x.shape, generator=Drawn.source, dtype=at.x.dtype)
    return at.alpha_to * at.x0_hat + at.sigma_to * noise


def half_precision(at: Step) -> Tensor:
    return ddim(at).half()


def one_row(at: Step) -> Tensor:
    return ddim(at)[:1]


def one_level(at: Step) -> Tensor:
    x0_hat = at.estimate(at.x, at.level[0])
    return at.alpha_to * x0_hat + at.sigma_to * at.epsilon


def beyond_noise(at: Step) -> Tensor:
    return ddim(replace(at, x=1.0 * at.x, level=at.level + 0.1))


FAULTS: list[tuple[Rule, str]] = [
    (of_the_first_token, "must take every token where it would go alone. Got token"),
    (in_place, "must not change what it is given. Got another `x`"),
    (levels_in_place, "must not change what it is given. Got another `level`"),
    (random_of_its_own, "must leave torch's global random state alone"),
    (reseeding, "must leave torch's global random state alone"),
    (private_seed, "must (come to the law of the data|take every token)"),
    (over_alpha, r"must .* finite samples.*"),
    (too_little_noise, "must come to the law of the data as the steps grow.* at 20, .* at 80 st"),
    (variance_as_deviation, "must come to the law of the data"),
    (estimates_as_samples, "must come to the law of the data"),
    (without_alpha, "must come to the law of the data"),
    (noise_at_the_end, "must return a clean estimate, x0_hat, in the step into level 0"),
    (limits, "must be linear in the sample"),
    (limited_estimates, "must return a clean estimate"),
    (generator_of_its_own, "must give the same samples for the same noise"),
    (half_precision, r"must return a sample of shape .* and torch.float32. Got .* torch.float16"),
    (one_row, "must return a sample of shape"),
    (one_level, r"must ask for estimates of samples .* at levels \[1 or batch, tokens\]"),
    (beyond_noise, r"at levels in \[0, 1\]"),
]


@pytest.mark.parametrize(("rule", "message"), FAULTS, ids=[rule.__name__ for rule, _ in FAULTS])
def test_a_broken_step_is_caught(rule: Rule, message: str) -> None:
    with pytest.raises(PgdiffError, match=message) as caught:
        check_solver(stateless(rule, rule.__name__))
    print(f"\n{caught.value}")
    assert f"Solver 'broken_{rule.__name__}'" in str(caught.value)


def two_step(at: Step, last: Tensor | None, here: Tensor) -> Tensor:
    """A step of second order in the level, whose last estimate is given."""
    slope = torch.zeros_like(here) if last is None else 0.5 * (here - last)
    return torch.where(
        at.sigma_to > 0, at.alpha_to * (here + slope) + at.sigma_to * at.epsilon, here
    )


@dataclass(frozen=True)
class OneHistory:
    """What is remembered of a token is overwritten while it stays."""

    def begin(self, levels: Tensor) -> None:
        pass

    def step(self, at: Step, state: Tensor | None) -> tuple[Tensor, Tensor]:
        return two_step(at, state, at.x0_hat), at.estimate(at.x, at.level_to)


@dataclass(frozen=True)
class CountsRows:
    """Counts rows in place of every token's own steps."""

    def begin(self, levels: Tensor) -> int:
        return 0

    def step(self, at: Step, state: int) -> tuple[Tensor, int]:
        blend = 1 / (1 + state)
        stepped = at.alpha_to * at.x0_hat + at.sigma_to * (at.epsilon + 0.1 * blend)
        return stepped, state + 1


@dataclass(frozen=True)
class Remembers:
    """Keeps its history in itself, beyond the end of a run."""

    seen: dict[str, Any] = field(default_factory=dict, init=False, compare=False)

    def begin(self, levels: Tensor) -> None:
        pass

    def step(self, at: Step, state: None) -> tuple[Tensor, None]:
        last = self.seen.get("last")
        fits = last is not None and last.shape == at.x.shape and last.dtype == at.x.dtype
        self.seen["last"] = at.x0_hat
        if not fits or not bool((at.sigma_to > 0).any()):
            return ddim(at), None
        return at.alpha_to * (at.x0_hat + last) / 2 + at.sigma_to * at.epsilon, None


@dataclass(frozen=True)
class Forgetful(DDIM):
    """Its setting does not come back."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "eta", self.eta / 2)


class NotRegistered:
    def begin(self, levels: Tensor) -> None:
        pass

    def step(self, at: Step, state: None) -> tuple[Tensor, None]:
        return ddim(at), None


@dataclass(frozen=True)
class ChangesLevels(DDIM):
    def begin(self, levels: Tensor) -> None:
        levels.mul_(0.5)


@dataclass(frozen=True)
class RefusesAll(DDIM):
    def check(self, *, schedule: NoiseSchedule, distilled: bool) -> None:
        raise PgdiffError("never")


BROKEN: list[tuple[Any, str]] = [
    (OneHistory(), "must take every token where it would go alone"),
    (CountsRows(), "must take every token where it would go alone"),
    (Remembers(), "must give the same samples for the same noise"),
    (Forgetful(eta=0.8), "must equal what from_config makes of its to_config"),
    (ChangesLevels(), "must not change what it is given. Got another `levels`"),
    (RefusesAll(), "must accept some schedule"),
]


@pytest.mark.parametrize(
    ("solver", "message"), BROKEN, ids=[type(solver).__name__ for solver, _ in BROKEN]
)
def test_a_broken_solver_is_caught(solver: Any, message: str) -> None:
    register("solver", "broken")(type(solver))
    with pytest.raises(PgdiffError, match=message) as caught:
        check_solver(solver)
    print(f"\n{caught.value}")


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (NotRegistered(), "NotRegistered is not registered"),
        (DDIM, "must be an object with the methods"),
        ("ddim", "must be an object with the methods"),
        (Churn(), "settings that are biased on purpose are checked with law=False"),
    ],
    ids=["not registered", "class", "name", "biased"],
)
def test_what_is_no_solver_is_refused(solver: Any, message: str) -> None:
    with pytest.raises(PgdiffError, match=message):
        check_solver(solver)


def test_a_solver_of_one_schedule_is_checked_with_that() -> None:
    @register("solver", "broken_not")
    @dataclass(frozen=True)
    class ForFlow(DDIM):
        def check(self, *, schedule: NoiseSchedule, distilled: bool) -> None:
            if type(schedule).__name__ != "FlowSchedule":
                raise PgdiffError("`schedule` must be that of rectified flow.")

    assert {key.split(",")[0] for key in check_solver(ForFlow())} == {"FlowSchedule"}
