"""Gaussian data and a quadratic objective: the laws that guided samples have and should have.

`python tests/diffusion/tilted.py` prints a table of `notebooks/docs/results.md`.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from oracles import DOUBLE, SCHEDULES, Gaussian, affine, generator
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import (
    DDIM,
    DiffuserRule,
    DiffusionForcingRule,
    Guidance,
    PolicyGuidedRule,
    Score,
    SineBump,
    full_sequence,
    sample,
)

TOKENS, FEATURES = 3, 2


@dataclass(frozen=True)
class Quadratic:
    """The objective `-(x - goal)^T pull (x - goal) / 2` of all features of all tokens."""

    goal: Tensor  # [size]
    pull: Tensor  # [size, size], positive semidefinite

    def __call__(self, x: Tensor, level: Tensor) -> Tensor:
        off = x.reshape(len(x), -1) - self.goal
        return -(off @ self.pull * off).sum(dim=1) / 2

    def tilt(self, mean: Tensor, covariance: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Return mean and covariance of a Gaussian times `exp(scale * objective)`."""
        tilted = torch.linalg.inv(torch.linalg.inv(covariance) + scale * self.pull)
        return mean + tilted @ (scale * self.pull) @ (self.goal - mean), tilted


def problem(noise_schedule: Any = SCHEDULES["cosine"]) -> tuple[Gaussian, Quadratic]:
    """Return correlated tokens of unit variance, and an objective that pulls the last one most."""
    data = Gaussian(
        torch.linspace(-0.6, 0.4, TOKENS * FEATURES, dtype=DOUBLE).reshape(TOKENS, FEATURES),
        torch.kron(
            0.7 ** (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).abs().to(DOUBLE),
            torch.tensor([[1.0, 0.4], [0.4, 1.0]], dtype=DOUBLE),
        ),
        noise_schedule,
    )
    pull = torch.diag(torch.tensor([0.1, 0.2, 0.3, 0.0, 1.0, 0.8], dtype=DOUBLE))
    return data, Quadratic(torch.full((data.size,), 1.5, dtype=DOUBLE), pull)


def exact(data: Gaussian, objective: Quadratic, scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return `log E[exp(scale * objective(x0)) | x] / scale`, up to a constant."""

    def noised(x: Tensor, level: Tensor) -> Tensor:
        alpha, _ = data.factors(level)
        _, covariance = data.marginal(level)
        alpha, covariance = alpha[0], covariance[0]
        gain = torch.linalg.solve(covariance, alpha[:, None] * data.covariance)
        left = data.covariance - data.covariance * alpha @ gain  # of x0 given x
        off = data.denoise(x, level).reshape(len(x), -1) - objective.goal
        size = len(left)
        stiff = objective.pull @ torch.linalg.inv(
            torch.eye(size, dtype=DOUBLE) + scale * left @ objective.pull
        )
        return -(off @ stiff * off).sum(dim=1) / 2

    return noised


def law(
    data: Gaussian, levels: Tensor, guidance: Sequence[Guidance], solver: Any = None
) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of the sampler's output, from the true law of the first row."""

    def run(start: Tensor) -> Tensor:
        return sample(
            data.denoise,
            noise_schedule=data.noise_schedule,
            levels=levels,
            shape=(len(start), *data.mean.shape),
            generators=[generator(0)],
            solver=solver or DDIM(),
            guidance=guidance,
            start=start,
            dtype=DOUBLE,
        )

    matrix, offset = affine(run, (data.mean.shape[0], data.mean.shape[1]))
    mean, covariance = data.marginal(levels[0])
    return matrix @ mean + offset, matrix @ covariance @ matrix.T


RULES: dict[str, dict[str, Any]] = {
    "score at x0": {"gradient_at": "x0", "rule": Score()},
    "score through the denoiser": {"gradient_at": "denoiser", "rule": Score()},
    "diffuser at x": {"gradient_at": "x", "rule": DiffuserRule()},
    "diffusion forcing": {"gradient_at": "denoiser", "rule": DiffusionForcingRule()},
    "policy-guided at x": {
        "gradient_at": "x",
        "rule": PolicyGuidedRule(),
        "scale_schedule": SineBump(),
    },
    "policy-guided at x0": {
        "gradient_at": "x0",
        "rule": PolicyGuidedRule(),
        "scale_schedule": SineBump(),
    },
}


def propagated(
    data: Gaussian, levels: Tensor, objective: Quadratic, scale: float, rule: str
) -> tuple[Tensor, Tensor]:
    """Return the law that the rule's formula makes of the first row's law, matrix by matrix.

    All tokens have one level. Computed from the rules' definitions, without the sampler.
    """
    unit = torch.eye(data.size, dtype=DOUBLE)
    centre = data.mean.reshape(-1)
    mean, covariance = data.marginal(levels[0])
    matrix, offset = unit, torch.zeros_like(centre)
    rows = len(levels) - 1
    for row, (level, level_to) in enumerate(itertools.pairwise(levels[:, 0].tolist())):
        a, s = (
            float(f(torch.tensor(level, dtype=DOUBLE))) for f in (alpha_of(data), sigma_of(data))
        )
        b, t = (
            float(f(torch.tensor(level_to, dtype=DOUBLE))) for f in (alpha_of(data), sigma_of(data))
        )
        gain = a * data.covariance @ torch.linalg.inv(a * a * data.covariance + s * s * unit)
        rest = centre - a * gain @ centre  # x0_hat = gain x + rest
        pull, goal = objective.pull, objective.pull @ objective.goal
        floor = max(a, 1e-3)
        if rule.startswith("policy-guided"):
            bump = 1 - row / rows + 0.3 * math.sin(math.pi * (row + 1) / rows)
            weight = scale * (0.0 if row == rows - 1 else bump)
            if rule.endswith("x0"):
                turn, shift = unit - weight * pull @ gain, weight * (goal - pull @ rest)
            else:
                turn, shift = unit - weight * pull, weight * goal
            matrix, offset = turn @ matrix, turn @ offset + shift
            of_x, constant = gain, rest
        elif rule == "score at x0":
            weight = scale * s * s / (a * a + s * s)
            of_x, constant = (
                (unit - weight * pull) @ gain,
                (unit - weight * pull) @ rest + weight * goal,
            )
        elif rule == "diffuser at x":
            weight = scale * t * t / b
            of_x, constant = gain - weight * pull, rest + weight * goal
        else:
            weight = scale * (s * s if rule == "score through the denoiser" else s * t) / floor
            back = weight * gain.T
            of_x, constant = gain - back @ pull @ gain, rest + back @ (goal - pull @ rest)
        noise_of_x, noise_constant = (unit - a * of_x) / s, -a * constant / s
        step = b * of_x + t * noise_of_x
        matrix, offset = step @ matrix, step @ offset + b * constant + t * noise_constant
    return matrix @ mean + offset, matrix @ covariance @ matrix.T


def alpha_of(data: Gaussian) -> Callable[[Tensor], Tensor]:
    return data.noise_schedule.alpha


def sigma_of(data: Gaussian) -> Callable[[Tensor], Tensor]:
    return data.noise_schedule.sigma


def errors(
    found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], data: Gaussian
) -> tuple[float, float]:
    """Return the error of the mean relative to its due move, and that of the covariance."""
    moved = (wanted[0] - data.mean.reshape(-1)).norm()
    mean = float((found[0] - wanted[0]).norm() / moved)
    return mean, float((found[1] - wanted[1]).norm() / wanted[1].norm())


def table(
    scales: Sequence[float] = (0.01, 0.1, 1.0, 10.0), steps: Sequence[int] = (10, 50, 250)
) -> str:
    """Return each rule's bias against the posterior, as Markdown."""
    data, objective = problem()
    heads = [f"scale {scale:g}, {count} steps" for scale in scales for count in steps]
    lines = [f"| rule | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    rows: dict[str, Callable[[float], Guidance]] = {
        "exact noised objective": lambda scale: Guidance(
            objective=exact(data, objective, scale),
            gradient_at="x",
            rule=Score(floor=1e-12),
            scale=scale,
        )
    }
    rows |= {
        name: lambda scale, settings=settings: Guidance(
            objective=objective, scale=scale, **settings
        )
        for name, settings in RULES.items()
    }
    for name, make in rows.items():
        cells = []
        for scale in scales:
            wanted = objective.tilt(data.mean.reshape(-1), data.covariance, scale)
            for count in steps:
                levels = full_sequence(steps=count, tokens=TOKENS).to(DOUBLE)
                try:
                    found = law(data, levels, [make(scale)])
                except PgdiffError:  # an objective that has become infinite or NaN
                    cells.append("diverges")
                else:
                    cells.append(_cell(*errors(found, wanted, data)))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(mean: float, covariance: float) -> str:
    return "diverges" if max(mean, covariance) > 1e3 else f"{mean:.2g}, {covariance:.2g}"


if __name__ == "__main__":
    print(table())
