"""Estimates under several views of a history, against the exact estimates."""

from typing import Any

import pytest
import torch
from oracles import DOUBLE, SCHEDULES, Gaussian, generator
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import DDIM, HistoryGuidance, HistoryView, Inpainting, sample
from pgdiff.diffusion.level_schedules import Pyramid
from pgdiff.diffusion.schedules import factors

pytestmark = pytest.mark.usefixtures("unchecked")

TOKENS, PAST, BATCH = 7, 3, 4
SCHEDULE = SCHEDULES["cosine"]
DATA = Gaussian.ar1(SCHEDULE, tokens=TOKENS)
PRESETS = {
    "conditional": HistoryGuidance.conditional(),
    "vanilla": HistoryGuidance.vanilla(1.7),
    "fractional": HistoryGuidance.fractional(2.5, level=0.4),
    "temporal": HistoryGuidance.temporal({1: 0.6, 3: 0.8}),
}


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(BATCH, TOKENS, 2, generator=generator(0), dtype=DOUBLE)
    level = torch.tensor([[0.0] * PAST + [0.3, 0.6, 0.8, 1.0]], dtype=DOUBLE)
    noise = torch.randn(BATCH, PAST, 2, generator=generator(1), dtype=DOUBLE)
    return x, level, noise


def under(levels: list[float]) -> Tensor:
    """Return the exact estimate where the history has these levels."""
    x, level, noise = inputs()
    shown_level = torch.tensor(levels, dtype=DOUBLE)
    alpha, sigma = factors(SCHEDULE, shown_level)
    shown = torch.cat([alpha * x[:, :PAST] + sigma * noise, x[:, PAST:]], dim=1)
    return DATA.denoise(shown, torch.cat([shown_level[None], level[:, PAST:]], dim=1))[:, PAST:]


def test_presets_are_the_papers_sums() -> None:
    """The presets equal the sums of the paper, written out view by view."""
    x, level, noise = inputs()
    seen, hidden, half = under([0.0] * 3), under([1.0] * 3), under([0.4] * 3)
    latest = under([1.0, 1.0, 0.0])
    expected = {
        "conditional": seen,
        "vanilla": hidden + 1.7 * (seen - hidden),
        "fractional": hidden + (seen - hidden) + 1.5 * (half - hidden),
        "temporal": hidden + 0.6 * (latest - hidden) + 0.8 * (seen - hidden),
    }
    for name, guidance in PRESETS.items():
        got = guidance.estimate(DATA.denoise, x, level, noise_schedule=SCHEDULE, noise=noise)
        torch.testing.assert_close(got[:, PAST:], expected[name], rtol=1e-9, atol=1e-9)
        assert torch.equal(got[:, :PAST], x[:, :PAST])


def test_a_hidden_history_has_no_effect() -> None:
    x, level, noise = inputs()
    hidden = HistoryGuidance(views=(HistoryView(weight=1.0, level=1.0),))
    got = hidden.estimate(DATA.denoise, x, level, noise_schedule=SCHEDULE, noise=noise)
    x[:, :PAST] += 5.0
    again = hidden.estimate(DATA.denoise, x, level, noise_schedule=SCHEDULE, noise=noise)
    assert torch.equal(got[:, PAST:], again[:, PAST:])


def check_views_that_are_the_same_are_one_and_all_are_one_call(
    guidance: HistoryGuidance, views: int
) -> None:
    x, level, noise = inputs()
    calls = []

    def denoise(x: Tensor, level: Tensor) -> Tensor:
        calls.append(len(x))
        return DATA.denoise(x, level) if len(level) == len(x) else x

    guidance.estimate(denoise, x, level, noise_schedule=SCHEDULE, noise=noise)
    assert calls == [views * BATCH]
    assert sum(guidance.weights(PAST).values()) == pytest.approx(1.0)


def test_views_that_are_the_same_are_one_and_all_are_one_call() -> None:
    for guidance, views in [
        (HistoryGuidance.conditional(), 1),
        (HistoryGuidance.vanilla(1.0), 1),
        (HistoryGuidance.vanilla(0.0), 1),
        (HistoryGuidance.vanilla(2.0), 2),
        (HistoryGuidance.fractional(1.0, level=0.5), 1),
        (HistoryGuidance.fractional(2.0, level=0.0), 2),
        (HistoryGuidance.fractional(2.0, level=0.5), 3),
        (HistoryGuidance.temporal({1: 0.5, 2: 0.5}), 2),
        (HistoryGuidance.temporal({5: 0.5, 9: 0.5}), 1),  # both are all three tokens
        (HistoryGuidance.temporal({1: 0.7, 2: 0.3}), 2),  # the rest of 1 is not a view
    ]:
        check_views_that_are_the_same_are_one_and_all_are_one_call(guidance, views)


def run(history: HistoryGuidance | None, *, past: int = PAST, seed: int = 0) -> Tensor:
    x, _, _ = inputs()
    mask = torch.zeros(1, TOKENS, 2, dtype=torch.bool)
    mask[:, :past] = True
    column = torch.linspace(1.0, 0.0, 9, dtype=DOUBLE)
    return sample(
        DATA.denoise,
        noise_schedule=SCHEDULE,
        levels=Pyramid().matrix(column, tokens=TOKENS),
        shape=(BATCH, TOKENS, 2),
        generators=[generator(seed)],
        solver=DDIM(),
        inpainting=Inpainting(mask, x),
        history=history,
        dtype=DOUBLE,
    )


def test_in_the_sampler() -> None:
    """The history is held, the conditional view is plain sampling, equal seeds repeat."""
    plain = run(None)
    torch.testing.assert_close(run(PRESETS["conditional"]), plain, rtol=0, atol=1e-12)
    for guidance in PRESETS.values():
        drawn = run(guidance)
        assert torch.equal(drawn, run(guidance))
        assert torch.equal(drawn[:, :PAST], plain[:, :PAST])
    moved = run(PRESETS["vanilla"])[:, PAST:] - plain[:, PAST:]
    assert moved.abs().max() > 0.1


def test_bad_input_is_named() -> None:
    with pytest.raises(PgdiffError, match="`history` needs leading tokens"):
        run(PRESETS["vanilla"], past=0)
    for settings, message in (
        ({"level": 1.5}, "`level` must be"),
        ({"weight": float("inf")}, "`weight` must be"),
        ({"last": 0}, "`last` must be"),
    ):
        with pytest.raises(PgdiffError, match=message):
            HistoryView(**settings)
    for views in ((), (3,), 3, ({"weight": 2.0},), "abc"):
        with pytest.raises(PgdiffError, match="`views` must be one HistoryView or more"):
            HistoryGuidance(views=views)  # type: ignore[arg-type]
    weight: Any
    for weight in ("2", None, torch.ones(2)):
        with pytest.raises(PgdiffError, match="`weight` must be a number"):
            HistoryGuidance.fractional(weight, level=0.3)
    weights: Any = [2, 5]
    with pytest.raises(PgdiffError, match=r"`weights` must map numbers of tokens .* Got \[2, 5\]"):
        HistoryGuidance.temporal(weights)
