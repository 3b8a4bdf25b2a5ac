"""The effect of guides on a plan, as numbers and as a table."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

SHOWN = 12
"""Greatest number of rows of the sampling in a table."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The candidates of one sampling, with guides or without them.

    Attributes:
        observations: `[candidates, tokens, observation]`, raw units.
        actions: `[candidates, steps, action]`, raw units; None for a model without actions.
        objective: `[guides, rows + 1, candidates]`, objective of each guide at the point of its
            gradient in each row of the sampling, and of the clean plans in the last row; NaN for a
            row without a gradient.
        log_prob: `[candidates]` for each agent by name: mean over tokens of the log-density of the
            action at the token's row, nats, in the agent's units.
        outside: `[candidates]`, share of the actions that are out of bounds; None without bounds.
        excess: `[candidates]`, greatest distance of a feature of an action from its bounds, raw
            units; None without bounds.
        log_likelihood: log-density of the chosen candidate under the model, nats, in raw units,
            given its in-painted features; None if it was not requested.
        standard_error: standard error of `log_likelihood`.
    """

    observations: Float[np.ndarray, "candidates tokens observation"]
    actions: Float[np.ndarray, "candidates steps action"] | None
    objective: Float[np.ndarray, "guides levels candidates"]
    log_prob: Mapping[str, Float[np.ndarray, " candidates"]]
    outside: Float[np.ndarray, " candidates"] | None = None
    excess: Float[np.ndarray, " candidates"] | None = None
    log_likelihood: float | None = None
    standard_error: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """The effect of each guide on the sampling of one plan, compared with equal noise unguided.

    The size of a push is the root mean square of the guide's move of the clean estimate divided by
    that of the denoiser's step `x / alpha - x0_hat`, before any trust region (see
    `pgdiff.diffusion.TrustRegion`); NaN where no token moves.

    Attributes:
        guides: names of the guides.
        scales: scales of the guides.
        best: index of the chosen candidate.
        level: `[rows + 1, tokens]`, noise levels of the chosen candidate; row i of the sampling
            goes from `level[i]` to `level[i + 1]`.
        push: `[guides, rows, candidates]`, size of each guide's push over all tokens.
        push_tokens: `[guides, rows, tokens]`, size of the push on each token of the chosen
            candidate.
        total: `[rows, candidates]`, size of the sum of all pushes.
        kept: `[rows, candidates]`, share of the push that the trust region kept, mean over tokens;
            None without a trust region.
        kept_tokens: `[rows, tokens]`, share that was kept on each token of the chosen candidate;
            None without a trust region.
        moved: `[candidates]`, root mean square difference of the normalised clean plan with guides
            and without.
        low: `[action]`, least value of each feature of an action, raw units; None without bounds.
        high: `[action]`, greatest value of each feature; None without bounds.
        guided: candidates of the plan.
        unguided: candidates from equal noise without guides.

    Example:
        >>> import pgdiff
        >>> from pgdiff.testing import example_episodes
        >>> episodes = example_episodes()
        >>> model = pgdiff.TrajectoryDiffusion.from_episodes(episodes, pgdiff.Tokens(horizon=8))
        >>> planner = pgdiff.Planner(model, pgdiff.guides.Goal((0.0, 0.0)), candidates=2)
        >>> explanation = pgdiff.explain(planner, episodes.observations[0])
        >>> explanation.guides, explanation.push.shape
        (('goal',), (1, 5, 2))
    """

    guides: tuple[str, ...]
    scales: tuple[float, ...]
    best: int
    level: Float[np.ndarray, "levels tokens"]
    push: Float[np.ndarray, "guides rows candidates"]
    push_tokens: Float[np.ndarray, "guides rows tokens"]
    total: Float[np.ndarray, "rows candidates"]
    kept: Float[np.ndarray, "rows candidates"] | None
    kept_tokens: Float[np.ndarray, "rows tokens"] | None
    moved: Float[np.ndarray, " candidates"]
    low: Float[np.ndarray, " action"] | None
    high: Float[np.ndarray, " action"] | None
    guided: Outcome
    unguided: Outcome

    @property
    def noise(self) -> Float[np.ndarray, " levels"]:
        """Mean noise level of the denoised tokens, before each row and after the last."""
        mean: np.ndarray = self.level[:, self.level.max(axis=0) > 0].mean(axis=1)
        return mean

    def as_dict(self) -> dict[str, Any]:
        """Return all attributes as JSON values, with None for NaN."""
        content: dict[str, Any] = _plain(dataclasses.asdict(self))
        return content

    def table(self) -> str:
        """Return a table of the pushes in each row, and of the plan with and without guides.

        Each cell shows the value of the chosen candidate, and the mean over candidates in brackets.
        """
        named = ", ".join(f"{n} x {s:g}" for n, s in zip(self.guides, self.scales, strict=True))
        columns = [*self.push] + ([] if self.kept is None else [self.kept])
        names = [*self.guides] + ([] if self.kept is None else ["kept"])
        count = len(self.total)
        rows = sorted({round(row) for row in np.linspace(0, count - 1, min(count, SHOWN))})
        pushes = [
            [str(row + 1), f"{self.noise[row]:.3f}", *(_cell(c[row], self.best) for c in columns)]
            for row in rows
        ]
        return "\n".join(
            [
                f"guides {named}: pushes in units of the denoiser's own step; chosen candidate "
                f"(mean of {len(self.moved)})",
                *_align([["step", "level", *names], *pushes]),
                "",
                *_align([["", "guided", "unguided, same noise"], *self._comparison()]),
            ]
        )

    def _comparison(self) -> list[list[str]]:
        """Return the label and both values of every figure of the plan."""
        one, other = self.guided, self.unguided
        figures: list[tuple[str, np.ndarray | None, np.ndarray | None]] = [
            (f"objective, {name}", one.objective[number, -1], other.objective[number, -1])
            for number, name in enumerate(self.guides)
        ]
        figures += [
            (f"log-density of an action, {name}", one.log_prob[name], other.log_prob[name])
            for name in one.log_prob
        ]
        figures += [
            ("share of actions out of bounds", one.outside, other.outside),
            ("largest excess of an action", one.excess, other.excess),
        ]
        rows = [
            [label, *(_cell(each, self.best) for each in (guided, unguided))]
            for label, guided, unguided in figures
            if guided is not None and unguided is not None
        ]
        if one.log_likelihood is not None:
            both = [f"{o.log_likelihood:.4g} +- {o.standard_error:.2g}" for o in (one, other)]
            rows.append(["log-density of the plan, model", *both])
        return [*rows, ["moved by the guides", _cell(self.moved, self.best), ""]]


def _cell(values: np.ndarray, best: int) -> str:
    """Return the value of the chosen candidate, and the mean in brackets."""
    return "-" if np.isnan(values).all() else f"{values[best]:.3g} ({np.nanmean(values):.3g})"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
