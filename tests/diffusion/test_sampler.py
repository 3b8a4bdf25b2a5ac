"""Sampling with a level for every token."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import (
    DOUBLE,
    SCHEDULES,
    generator,
    monotone_matrices,
    scalar_loop,
    shrink,
)
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import DDIM, DDPM, Inpainting, SamplerStep, full_sequence, sample
from pgdiff.diffusion.solvers import Churn, DPMSolver, Heun

SOLVERS = [DDIM(), DDIM(eta=0.5), DDIM(eta=1.0), DDPM()]
ALL_SOLVERS = [*SOLVERS, DPMSolver(), Heun(), Churn()]
fast = settings(max_examples=20, deadline=None, derandomize=True)


def draw(levels: Tensor, *, batch: int = 4, seeds: Sequence[int] = (0,), **options: Any) -> Tensor:
    options = {"noise_schedule": SCHEDULES["cosine"], "solver": DDIM(), "denoise": shrink} | options
    return sample(
        options.pop("denoise"),
        levels=levels,
        shape=(batch, levels.shape[-1], 3),
        generators=[generator(seed) for seed in seeds],
        **options,
    )


class Rows:
    """Callback that keeps every step."""

    def __init__(self) -> None:
        self.steps: list[SamplerStep] = []

    def __call__(self, step: SamplerStep) -> None:
        self.steps.append(step)


# -------------------------------------------------------------------------------- equal columns


def test_equal_columns_are_the_scalar_loop_bit_for_bit() -> None:
    for solver, name, batched in product(SOLVERS, ["cosine", "linear"], [False, True]):
        noise_schedule, column = SCHEDULES[name], [1.0, 0.9, 0.55, 0.3, 0.05, 0.0]
        levels = torch.tensor(column)[:, None].expand(-1, 6)
        if batched:
            levels = levels[:, None].expand(-1, 4, -1)
        got = draw(levels, seeds=[7], noise_schedule=noise_schedule, solver=solver)
        expected = scalar_loop(
            shrink, column, (4, 6, 3), generator(7), noise_schedule=noise_schedule, solver=solver
        )
        assert torch.equal(got, expected)


# ------------------------------------------------------------------------------------- any matrix


@fast
@given(levels=monotone_matrices(), name=st.sampled_from(sorted(SCHEDULES)))
def test_a_token_whose_level_stays_is_unchanged(levels: Tensor, name: str) -> None:
    for solver in ALL_SOLVERS:
        rows = Rows()
        draw(levels, noise_schedule=SCHEDULES[name], solver=solver, callback=rows)
        assert [step.row for step in rows.steps] == list(range(1, len(levels)))
        for before, after in zip(rows.steps, rows.steps[1:], strict=False):
            stays = levels[before.row] == levels[before.row + 1]
            assert torch.equal(after.x[:, stays], before.x[:, stays])
        for step in rows.steps:
            assert torch.isfinite(step.x).all()
            assert torch.equal(step.level, levels[step.row - 1][None])
            assert torch.equal(step.level_to, levels[step.row][None])
            if torch.equal(step.level, step.level_to):
                assert step.x0_hat is None
            else:
                assert step.x0_hat is not None and torch.isfinite(step.x0_hat).all()


@fast
@given(levels=monotone_matrices(batch=3))
def test_each_trajectory_may_have_levels_of_its_own(levels: Tensor) -> None:
    for solver in ALL_SOLVERS:
        together = draw(levels, batch=3, seeds=[0, 1, 2], solver=solver)
        one_for_all = draw(levels[:, :1], batch=3, solver=solver)
        assert torch.equal(one_for_all, draw(levels[:, 0], batch=3, solver=solver))
        for index in range(3):
            alone = draw(levels[:, index], batch=1, seeds=[index], solver=solver)
            assert torch.equal(together[index : index + 1], alone)


def test_a_finished_token_is_the_solvers_last_clean_estimate() -> None:
    rows = Rows()
    levels = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.5], [0.0, 0.0]])
    x = draw(levels, callback=rows)
    assert torch.equal(x[:, 0], rows.steps[0].x0_hat[:, 0])
    assert torch.equal(x[:, 1], rows.steps[2].x0_hat[:, 1])


def test_start_is_the_first_row_and_is_not_written_to() -> None:
    levels = torch.tensor([[0.5, 0.0], [0.0, 0.0]])
    start = torch.full((4, 2, 3), 0.25)
    kept = start.clone()
    x = draw(levels, start=start)
    assert torch.equal(start, kept)
    assert torch.equal(x[:, 1], start[:, 1])
    clean = shrink(start, levels[:1])
    torch.testing.assert_close(x[:, 0], clean[:, 0])


def test_first_noise_has_the_levels_sigma() -> None:
    seen: list[Tensor] = []

    def spy(x: Tensor, level: Tensor) -> Tensor:
        seen.append(x)
        return x

    noise_schedule = SCHEDULES["exploding"]
    mask = torch.zeros(1, 3, 3, dtype=torch.bool)
    mask[:, 2] = True
    known = Inpainting(mask, torch.full((1, 3, 3), 7.0))
    draw(
        full_sequence(steps=2, tokens=3),
        batch=20_000,
        denoise=spy,
        noise_schedule=noise_schedule,
        inpainting=known,
    )
    spread = seen[0].std(dim=(0, 2))
    torch.testing.assert_close(spread, torch.tensor([80.0, 80.0, 0.0]), rtol=0.02, atol=0)


def test_only_level_1_is_noise_alone() -> None:
    """A first row below 1 needs a sample of that level, except for known tokens."""
    levels = torch.tensor([[1.0, 0.5], [0.5, 0.5], [0.0, 0.0]])
    mask = torch.zeros(1, 2, 3, dtype=torch.bool)
    refused = r"`levels` must be 1 in the first row, pure noise\. Got 0\.5 at row 0, column 1\."
    with pytest.raises(PgdiffError, match=refused):
        draw(levels)
    with pytest.raises(PgdiffError, match=refused):
        draw(levels, inpainting=Inpainting(mask, torch.zeros(1, 2, 3)))
    mask[:, 1, :2] = True  # known in part
    with pytest.raises(PgdiffError, match=refused):
        draw(levels, inpainting=Inpainting(mask, torch.zeros(1, 2, 3)))
    mask[:, 1] = True
    draw(levels, inpainting=Inpainting(mask, torch.zeros(1, 2, 3)))
    draw(levels, start=torch.zeros(4, 2, 3))


def test_a_row_in_which_nothing_moves_calls_nothing() -> None:
    calls: list[Tensor] = []

    def spy(x: Tensor, level: Tensor) -> Tensor:
        calls.append(level)
        return shrink(x, level)

    levels = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.5, 1.0], [0.5, 1.0], [0.0, 0.0], [0.0, 0.0]])
    moving = levels[[0, 2, 4]]
    for solver in ALL_SOLVERS:
        calls.clear()
        stalled = draw(levels, solver=solver, denoise=spy)
        assert calls[0].tolist() == [[1.0, 1.0]] and len(calls) <= 4
        if solver in SOLVERS:
            assert [level.tolist() for level in calls] == [[[1.0, 1.0]], [[0.5, 1.0]]]
        assert torch.equal(stalled, draw(moving, solver=solver))


def test_clip_limits_the_clean_estimate_but_not_what_is_known() -> None:
    mask = torch.zeros(1, 4, 3, dtype=torch.bool)
    mask[0, 0, 0] = True
    known = Inpainting(mask, torch.full((1, 4, 3), 5.0))
    rows = Rows()
    x = draw(
        full_sequence(steps=4, tokens=4),
        inpainting=known,
        clip=0.2,
        callback=rows,
        denoise=lambda x, level: 10 * x,
    )
    for step in rows.steps:
        assert step.x0_hat[~mask.expand(4, -1, -1)].abs().max() <= 0.2
    assert (x[:, 0, 0] == 5.0).all()
    assert x[:, 1:].abs().max() <= 0.2


# ---------------------------------------------------------------------------------------- known


def check_known_features_are_held_exactly(
    solver: Any, levels: Tensor, seed: int, share: float, per_row: bool
) -> None:
    source, tokens = generator(seed), levels.shape[1]
    batch = 4 if per_row else 1
    mask = torch.rand(batch, tokens, 3, generator=source) < share
    mask[:, 0] = True
    values = torch.randn(batch, tokens, 3, generator=source)
    values[~mask] = float("nan")  # values outside the mask are never read
    known, rows, seen = Inpainting(mask, values), Rows(), []

    def spy(x: Tensor, level: Tensor) -> Tensor:
        seen.append((x, level))
        return shrink(x, level)

    draw(levels, solver=solver, inpainting=known, callback=rows, denoise=spy)
    wide, whole = mask.expand(4, -1, -1), mask.all(dim=-1)
    held_ones = [x for x, _ in seen] + [step.x for step in rows.steps]
    held_ones += [step.x0_hat for step in rows.steps if step.x0_hat is not None]
    for held in held_ones:
        assert torch.equal(held[wide], values.expand(4, -1, -1)[wide])
    called = [step.level for step in rows.steps if step.x0_hat is not None]
    if solver in SOLVERS:  # the other solvers make further calls
        for level, (_, passed) in zip(called, seen, strict=True):
            assert torch.equal(passed, level)
    assert all((passed[whole.expand_as(passed)] == 0).all() for _, passed in seen)
    for row, step in enumerate(rows.steps):
        assert torch.equal(step.level, torch.where(whole, 0.0, levels[row]))


@fast
@given(
    levels=monotone_matrices(),
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.2, 0.5, 0.9]),
    per_row=st.booleans(),
)
def test_known_features_are_held_exactly(
    levels: Tensor, seed: int, share: float, per_row: bool
) -> None:
    for solver in ALL_SOLVERS:
        check_known_features_are_held_exactly(solver, levels, seed, share, per_row)


def test_known_of_another_dtype_does_not_change_the_samples_dtype() -> None:
    mask = torch.zeros(1, 2, 3, dtype=torch.bool)
    known = Inpainting(mask, torch.zeros(1, 2, 3, dtype=DOUBLE))
    start = torch.zeros(4, 2, 3, dtype=DOUBLE)
    levels = full_sequence(steps=2, tokens=2)
    assert draw(levels, inpainting=known).dtype == torch.float32
    assert draw(levels, start=start).dtype == torch.float32
    assert draw(levels, start=start, dtype=DOUBLE).dtype == DOUBLE


# ---------------------------------------------------------------------------------------- noise


def test_same_seed_same_samples_another_seed_another() -> None:
    for solver in ALL_SOLVERS:
        levels = full_sequence(steps=5, tokens=6)
        before = torch.random.get_rng_state()
        one, same, another = (draw(levels, seeds=[s], solver=solver) for s in (3, 3, 4))
        assert torch.equal(one, same)
        assert (one - another).abs().amax(dim=(1, 2)).min() > 1e-3
        assert torch.equal(torch.random.get_rng_state(), before)  # nothing global is drawn


def test_each_generators_share_of_the_batch_is_as_if_alone() -> None:
    for solver in ALL_SOLVERS:
        levels = full_sequence(steps=5, tokens=6)
        together = draw(levels, batch=8, seeds=[3, 4], solver=solver)
        for half, seed in ((together[:4], 3), (together[4:], 4)):
            assert torch.equal(half, draw(levels, batch=4, seeds=[seed], solver=solver))


def test_generators_must_divide_the_batch() -> None:
    levels = full_sequence(steps=2, tokens=2)
    for seeds in ([], [1, 2, 3]):
        with pytest.raises(PgdiffError, match=rf"divide the batch of 4. Got {len(seeds)}"):
            draw(levels, seeds=seeds)
        with pytest.raises(PgdiffError, match="divide the batch"):
            draw(levels, seeds=seeds, start=torch.zeros(4, 2, 3))


# --------------------------------------------------------------------------------------- errors


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named() -> None:
    levels = full_sequence(steps=2, tokens=2)
    mask = torch.ones(3, 2, 3, dtype=torch.bool)
    with pytest.raises(
        PgdiffError, match=r"`inpainting` must have shape \[4, 2, 3\]. Got \[3, 2, 3\]"
    ):
        draw(levels, inpainting=Inpainting(mask, torch.zeros(3, 2, 3)))
    with pytest.raises(PgdiffError, match=r"`start` must have shape \[4, 2, 3\]. Got \[4, 1, 3\]"):
        draw(levels, start=torch.zeros(4, 1, 3))
    for clip in (0.0, -1.0, float("nan")):
        with pytest.raises(PgdiffError, match="`clip`"):
            draw(levels, clip=clip)
    with pytest.raises(PgdiffError, match="`levels` must be 0 in the last row"):
        draw(levels.clamp(min=0.1))
    with pytest.raises(PgdiffError, match="Sampling gave NaN or Inf"):
        draw(levels, denoise=lambda x, level: x / 0)
    for eta in (-0.1, 1.1):
        with pytest.raises(PgdiffError, match="`eta`"):
            DDIM(eta=eta)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_half_precision_levels_and_samples_stay_float32(dtype: torch.dtype) -> None:
    """Only `denoise` is rounded: in bfloat16 a quarter of these rows would not move."""
    calls: list[tuple[torch.dtype, Tensor]] = []

    def half(x: Tensor, level: Tensor) -> Tensor:
        calls.append((x.dtype, level))
        return shrink(x, level)

    levels = full_sequence(steps=512, tokens=2)
    got = draw(levels, batch=2, denoise=half, dtype=dtype)
    assert all(kind == dtype for kind, _ in calls)
    assert torch.equal(torch.cat([level for _, level in calls]), levels[:-1])
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, draw(levels, batch=2), atol=0.05, rtol=0.05)
