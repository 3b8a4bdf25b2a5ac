"""Linear dynamics and Gaussian policies: guided trajectories against their closed-form law.

States are `s' = A s + B a + w`, the recorder acts by `N(K s, .)`, the target policy by another such
law. Recorded trajectories then follow a Gaussian, and so does the product with the target's density
to the power of the scale: Jackson et al. (2024), "Policy-guided diffusion", equation of the
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


def trajectories(noise_schedule: Any) -> Gaussian:
    """Return the Gaussian law of the recorded tokens (s, a)."""
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
    return Gaussian(torch.zeros(TOKENS, 2, dtype=DOUBLE), rows @ rows.T, noise_schedule)


class Linear(nn.Module):
    """The target policy."""

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        off = (action - TARGET * observation - TARGET_OFFSET) / TARGET_NOISE
        return (-0.5 * off.square() - math.log(TARGET_NOISE * math.sqrt(2 * math.pi))).sum(dim=-1)


def likelihood() -> Quadratic:
    """Return the target's log-density of a trajectory as a quadratic, up to a constant."""
    back = torch.zeros(TOKENS, 2 * TOKENS, dtype=DOUBLE)
    for token in range(TOKENS):
        back[token, 2 * token], back[token, 2 * token + 1] = -TARGET, 1.0
    goal = torch.zeros(2 * TOKENS, dtype=DOUBLE)
    goal[1::2] = TARGET_OFFSET  # if every state is 0, every action is the offset
    return Quadratic(goal, back.T @ back / TARGET_NOISE**2)


def even(steps: int) -> Tensor:
    return full_sequence(steps=steps, tokens=TOKENS).to(DOUBLE)


def test_the_energy_is_that_of_the_policy_guide() -> None:
    x = torch.randn(20, TOKENS, 2, generator=generator(0), dtype=DOUBLE)
    objective = Policy(Linear(), limit=None).objective(
        Segment(observations=x[..., :1], actions=x[..., 1:]), torch.zeros(1, TOKENS)
    )
    wanted = likelihood()(x, torch.zeros(1, TOKENS))
    assert float((objective - wanted).std()) < 1e-12


@pytest.mark.parametrize("noise_schedule", ["cosine", "exploding"])
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_the_exact_energy_gives_the_data_times_the_policy(
    noise_schedule: str, scale: float
) -> None:
    data, objective = trajectories(SCHEDULES[noise_schedule]), likelihood()
    wanted = objective.tilt(data.mean.reshape(-1), data.covariance, scale)
    guide = Guidance(
        objective=exact(data, objective, scale),
        gradient_at="x",
        rule=Score(floor=1e-12),
        scale=scale,
    )
    counts = (40, 80, 160)
    # Samples start from noise around the recorder's mean, of which the exploding schedule leaves
    # one part in the greatest sigma.
    left = (
        1 / data.factors(torch.ones(1, TOKENS))[1].max() if noise_schedule == "exploding" else 0.0
    )
    results = [errors(law(data, even(n), [guide], Heun()), wanted, data) for n in counts]
    print(f"\n{noise_schedule}, scale {scale}: {dict(zip(counts, results, strict=True))}")
    for part in (0, 1):
        assert results[2][part] < results[1][part] < results[0][part]
        assert results[2][part] < 0.01 + float(left)
    # States move too, by the effect of the actions.
    mean, _ = law(data, even(160), [guide], Heun())
    states = wanted[0][0::2]
    print(f"means of the states {mean[0::2].tolist()}, predicted {states.tolist()}")
    assert states.abs().max() > 0.1
    torch.testing.assert_close(mean[0::2], states, rtol=0, atol=0.02 * float(states.abs().max()))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scale", [0.05, 0.5])
def test_each_rule_has_its_own_law(rule: str, scale: float) -> None:
    data, objective = trajectories(SCHEDULES["cosine"]), likelihood()
    guide = Guidance(objective=objective, scale=scale, **RULES[rule])
    moments = law(data, even(20), [guide])
    wanted = propagated(data, even(20), objective, scale, rule)
    for one, other in zip(moments, wanted, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-9


@pytest.mark.parametrize("rule", ["score at x0", "score through the denoiser", "exact"])
def test_samples_have_these_moments(rule: str) -> None:
    """The propagated moments equal those of draws within their standard error."""
    data, objective = trajectories(SCHEDULES["cosine"]), likelihood()
    scale, count = 1.0, 40_000
    settings: dict[str, Any] = RULES.get(rule, {"gradient_at": "x", "rule": Score(floor=1e-12)})
    chosen = exact(data, objective, scale) if rule == "exact" else objective
    guide = Guidance(objective=chosen, scale=scale, **settings)
    mean, covariance = law(data, even(40), [guide], DDIM())
    x = sample(
        data.denoise,
        noise_schedule=data.noise_schedule,
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
    tilted, _ = objective.tilt(data.mean.reshape(-1), data.covariance, scale)
    off = float((x.mean(dim=0) - tilted).norm() / tilted.norm())
    noise = float(error.norm() / tilted.norm())
    print(
        f"\n{rule}: largest z of means {z.abs().max():.1f}, of variances {spread.abs().max():.1f}"
    )
    print(f"mean against data times policy: off by {off:.4f} +- {noise:.4f} of the move")
    assert z.abs().max() < 4.5
    assert spread.abs().max() < 4.5
