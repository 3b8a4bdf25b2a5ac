"""Every solver of the package passes, and every kind of fault raises a clear error."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdiff.core.registry import register, registered
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.diffusion.solvers import DDIM, Churn, Step
from pgdiff.diffusion.solvers.ddim import ddim
from pgdiff.testing import check_solver

# Unbiased settings instead of biased defaults: networks remove a little too much noise, an exact
# denoiser does not.
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


def global_random(at: Step) -> Tensor:
    return at.alpha_to * at.x0_hat + at.sigma_to * torch.randn_like(at.x)


def reseeding(at: Step) -> Tensor:
    torch.manual_seed(0)
    return global_random(at)


def private_seed(at: Step) -> Tensor:
    noise = torch.randn(at.x.shape, generator=torch.Generator().manual_seed(0), dtype=at.x.dtype)
    size = (0.5 * at.sigma_to).clamp(max=1.0)
    return ddim(at) + (at.sigma_to > 0) * size * noise[:1]


def over_alpha(at: Step) -> Tensor:
    slope = (at.x / at.alpha - at.x0_hat) / torch.where(at.sigma > 0, at.sigma / at.alpha, 1.0)
    return at.alpha_to * (at.x0_hat + slope * at.sigma_to / at.alpha_to)


def too_little_noise(at: Step) -> Tensor:
    """Take a DDPM step with half of its noise and an unchanged mean."""
    mean = at.kept * at.ratio * at.x + at.alpha_to * at.fresh * at.x0_hat
    return mean + 0.5 * at.sigma_to * at.fresh.sqrt() * at.noise()


def variance_as_deviation(at: Step) -> Tensor:
    mean = at.kept * at.ratio * at.x + at.alpha_to * at.fresh * at.x0_hat
    return mean + at.sigma_to * at.fresh * at.noise()


def estimates_as_samples(at: Step) -> Tensor:
    """Take the consistency solver's step with a denoiser's mean."""
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


def private_generator(at: Step) -> Tensor:
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
    (of_the_first_token, "must compute every token independently"),
    (in_place, "must not change its inputs. Got another `x`"),
    (levels_in_place, "must not change its inputs. Got another `level`"),
    (global_random, "must not change torch's global random state"),
    (reseeding, "must not change torch's global random state"),
    (private_seed, "must (converge to the distribution|compute every token)"),
    (over_alpha, r"must .* finite samples.*"),
    (too_little_noise, "must converge to the distribution of the data.* at 20, .* at 80 st"),
    (variance_as_deviation, "must converge to the distribution of the data"),
    (estimates_as_samples, "must converge to the distribution of the data"),
    (without_alpha, "must converge to the distribution of the data"),
    (noise_at_the_end, "must return a clean estimate, x0_hat, in the step into level 0"),
    (limits, "must be linear in the sample"),
    (limited_estimates, "must return a clean estimate"),
    (private_generator, "must return equal samples for equal noise"),
    (half_precision, r"must return a sample of shape .* and torch.float32. Got .* torch.float16"),
    (one_row, "must return a sample of shape"),
    (one_level, r"must request estimates of samples .* at levels \[1 or batch, tokens\]"),
    (beyond_noise, r"at levels in \[0, 1\]"),
]


def test_a_broken_step_is_caught() -> None:
    for rule, message in FAULTS:
        with pytest.raises(PgdiffError, match=message) as caught:
            check_solver(stateless(rule, rule.__name__))
        print(f"\n{caught.value}")
        assert f"Solver 'broken_{rule.__name__}'" in str(caught.value)


def two_step(at: Step, last: Tensor | None, here: Tensor) -> Tensor:
    """Take a step of second order in the level with a given last estimate."""
    slope = torch.zeros_like(here) if last is None else 0.5 * (here - last)
    return torch.where(
        at.sigma_to > 0, at.alpha_to * (here + slope) + at.sigma_to * at.epsilon, here
    )


@dataclass(frozen=True)
class OneHistory:
    """A solver that overwrites the history of a waiting token."""

    def begin(self, levels: Tensor) -> None:
        pass

    def step(self, at: Step, state: Tensor | None) -> tuple[Tensor, Tensor]:
        return two_step(at, state, at.x0_hat), at.estimate(at.x, at.level_to)


@dataclass(frozen=True)
class CountsRows:
    """A solver that counts rows instead of the steps of each token."""

    def begin(self, levels: Tensor) -> int:
        return 0

    def step(self, at: Step, state: int) -> tuple[Tensor, int]:
        blend = 1 / (1 + state)
        stepped = at.alpha_to * at.x0_hat + at.sigma_to * (at.epsilon + 0.1 * blend)
        return stepped, state + 1


@dataclass(frozen=True)
class Remembers:
    """A solver that keeps its history beyond the end of a sampling."""

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
    """A solver whose setting is lost in its configuration."""

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
    def check(self, *, noise_schedule: NoiseSchedule, distilled: bool) -> None:
        raise PgdiffError("never")


BROKEN: list[tuple[Any, str]] = [
    (OneHistory(), "must compute every token independently"),
    (CountsRows(), "must compute every token independently"),
    (Remembers(), "must return equal samples for equal noise"),
    (Forgetful(eta=0.8), "must equal from_config"),
    (ChangesLevels(), "must not change its inputs. Got another `levels`"),
    (RefusesAll(), "must accept at least one schedule"),
]


def test_a_broken_solver_is_caught() -> None:
    for number, (solver, message) in enumerate(BROKEN):
        register("solver", f"broken_{number}")(type(solver))
        with pytest.raises(PgdiffError, match=message) as caught:
            check_solver(solver)
        print(f"\n{caught.value}")


def test_what_is_no_solver_is_refused() -> None:
    for solver, message in [
        (NotRegistered(), "NotRegistered is not registered"),
        (DDIM, "must be an object with the methods"),
        ("ddim", "must be an object with the methods"),
        (Churn(), "pass law=False for settings with a deliberate bias"),
    ]:
        with pytest.raises(PgdiffError, match=message):
            check_solver(solver)


def test_a_solver_of_one_schedule_is_checked_with_that() -> None:
    @register("solver", "broken_not")
    @dataclass(frozen=True)
    class ForFlow(DDIM):
        def check(self, *, noise_schedule: NoiseSchedule, distilled: bool) -> None:
            if type(noise_schedule).__name__ != "FlowSchedule":
                raise PgdiffError("`noise_schedule` must be that of rectified flow.")

    assert {key.split(",")[0] for key in check_solver(ForFlow())} == {"FlowSchedule"}
