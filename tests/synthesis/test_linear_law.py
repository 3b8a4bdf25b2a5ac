"""Linear dynamics, Gaussian policies: what guided trajectories follow, against the closed form.

States are `s' = A s + B a + w`, the recorder acts by `N(K s, .)`, the target policy by another such
law. Recorded trajectories are then one Gaussian, and times the target's density to the power of the
scale they are another: Jackson et al. (2024), "Policy-guided diffusion", equation of the
behaviour-regularised target distribution.
"""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "diffusion"))
from oracles import DOUBLE, SCHEDULES, Gaussian, generator
from tilted import RULES, Quadratic, errors, exact, law, propagated

from pgdiff.diffusion import DDIM, Guidance, Heun, Score, full_sequence, sample
from pgdiff.guides import Policy
from pgdiff.trajectory import Segment

TOKENS = 4
A, B, DRIFT, FIRST = 0.9, 0.5, 0.2, 0.8
RECORDER, RECORDER_NOISE = -0.3, 0.6
TARGET, TARGET_OFFSET, TARGET_NOISE = 0.4, 0.3, 0.5


def trajectories(schedule: Any) -> Gaussian:
    """The law of recorded tokens (s, a), one after the other."""
    size = 2 * TOKENS
    # x = L e: every token is linear in the independent draws (first state, actions, drifts).
    rows = torch.zeros(size, size + TOKENS, dtype=DOUBLE)
    state = torch.zeros(size + TOKENS, dtype=DOUBLE)
    state[0] = FIRST
    for token in range(TOKENS):
        action = RECORDER * state
        action[1 + token] += RECORDER_NOISE
        rows[2 * token], rows[2 * token + 1] = state, action
        state = A * state + B * action
        state[1 + TOKENS + token] += DRIFT
    return Gaussian(torch.zeros(TOKENS, 2, dtype=DOUBLE), rows @ rows.T, schedule)


class Linear(nn.Module):
    """The target policy."""

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        off = (action - TARGET * observation - TARGET_OFFSET) / TARGET_NOISE
        return (-0.5 * off.square() - math.log(TARGET_NOISE * math.sqrt(2 * math.pi))).sum(dim=-1)


def likelihood() -> Quadratic:
    """The target's log-density of a trajectory, but for a constant, as a quadratic energy."""
    back = torch.zeros(TOKENS, 2 * TOKENS, dtype=DOUBLE)
    for token in range(TOKENS):
        back[token, 2 * token], back[token, 2 * token + 1] = -TARGET, 1.0
    goal = torch.zeros(2 * TOKENS, dtype=DOUBLE)
    goal[1::2] = TARGET_OFFSET  # where every state is 0, every action is the offset
    return Quadratic(goal, back.T @ back / TARGET_NOISE**2)


def even(steps: int) -> Tensor:
    return full_sequence(steps=steps, tokens=TOKENS).to(DOUBLE)


def test_the_energy_is_that_of_the_policy_guide() -> None:
    x = torch.randn(20, TOKENS, 2, generator=generator(0), dtype=DOUBLE)
    found = Policy(Linear(), limit=None).energy(
        Segment(observations=x[..., :1], actions=x[..., 1:]), torch.zeros(1, TOKENS)
    )
    wanted = likelihood()(x, torch.zeros(1, TOKENS))
    assert float((found - wanted).std()) < 1e-12


@pytest.mark.parametrize("schedule", ["cosine", "exploding"])
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_the_exact_energy_gives_the_data_times_the_policy(schedule: str, scale: float) -> None:
    data, energy = trajectories(SCHEDULES[schedule]), likelihood()
    wanted = energy.tilt(data.mean.reshape(-1), data.covariance, scale)
    guide = Guidance(
        energy=exact(data, energy, scale), at="x", rule=Score(floor=1e-12), scale=scale
    )
    counts = (40, 80, 160)
    # Samples start from noise around the recorder's mean, of which the exploding schedule leaves
    # one part in the greatest sigma.
    left = 1 / data.factors(torch.ones(1, TOKENS))[1].max() if schedule == "exploding" else 0.0
    found = [errors(law(data, even(n), [guide], Heun()), wanted, data) for n in counts]
    print(f"\n{schedule}, scale {scale}: {dict(zip(counts, found, strict=True))}")
    for part in (0, 1):
        assert found[2][part] < found[1][part] < found[0][part]
        assert found[2][part] < 0.01 + float(left)
    # States are moved as well, by what the actions do to them.
    mean, _ = law(data, even(160), [guide], Heun())
    states = wanted[0][0::2]
    print(f"means of the states {mean[0::2].tolist()}, predicted {states.tolist()}")
    assert states.abs().max() > 0.1
    torch.testing.assert_close(mean[0::2], states, rtol=0, atol=0.02 * float(states.abs().max()))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scale", [0.05, 0.5])
def test_each_rule_has_its_own_law(rule: str, scale: float) -> None:
    data, energy = trajectories(SCHEDULES["cosine"]), likelihood()
    guide = Guidance(energy=energy, scale=scale, **RULES[rule])
    found = law(data, even(20), [guide])
    wanted = propagated(data, even(20), energy, scale, rule)
    for one, other in zip(found, wanted, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-9


@pytest.mark.parametrize("rule", ["score at x0", "score through the denoiser", "exact"])
def test_samples_have_these_moments(rule: str) -> None:
    """What is propagated is what is drawn, within the error of so many draws."""
    data, energy = trajectories(SCHEDULES["cosine"]), likelihood()
    scale, count = 1.0, 40_000
    settings: dict[str, Any] = RULES.get(rule, {"at": "x", "rule": Score(floor=1e-12)})
    own = exact(data, energy, scale) if rule == "exact" else energy
    guide = Guidance(energy=own, scale=scale, **settings)
    mean, covariance = law(data, even(40), [guide], DDIM())
    x = sample(
        data.denoise,
        schedule=data.schedule,
        levels=even(40),
        shape=(count, TOKENS, 2),
        generators=[generator(0)],
        solver=DDIM(),
        guidance=[guide],
        dtype=DOUBLE,
    ).reshape(count, -1)
    error = (covariance.diag() / count).sqrt()
    z = (x.mean(dim=0) - mean) / error
    spread = (x.var(dim=0) / covariance.diag() - 1) / math.sqrt(2 / count)
    tilted, _ = energy.tilt(data.mean.reshape(-1), data.covariance, scale)
    off = float((x.mean(dim=0) - tilted).norm() / tilted.norm())
    noise = float(error.norm() / tilted.norm())
    print(
        f"\n{rule}: largest z of means {z.abs().max():.1f}, of variances {spread.abs().max():.1f}"
    )
    print(f"mean against data times policy: off by {off:.4f} +- {noise:.4f} of the move")
    assert z.abs().max() < 4.5
    assert spread.abs().max() < 4.5
