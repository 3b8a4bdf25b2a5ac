import json
import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DOUBLE, generator
from torch import Tensor

from pgdiff.core.registry import from_config, registered, to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import (
    CosineSchedule,
    EDMSchedule,
    FlowSchedule,
    ForcingLevels,
    IndependentLevels,
    LinearSchedule,
    LogNormalLevels,
    MixtureLevels,
    SequenceLevels,
    SigmoidSchedule,
    TabulatedSchedule,
)
from pgdiff.diffusion.level_distributions import LevelDistribution

SCHEDULES = [
    CosineSchedule(),
    LinearSchedule(),
    SigmoidSchedule(),
    FlowSchedule(),
    EDMSchedule(),
    TabulatedSchedule(alphas_cumprod=(0.9, 0.3, 0.0)),
]
NESTED = MixtureLevels(
    parts=(
        SequenceLevels(),
        MixtureLevels(parts=(IndependentLevels(), LogNormalLevels(per_token=True))),
    ),
    weights=(1.0, 3.0),
)
PARTS = [
    SequenceLevels(),
    IndependentLevels(),
    LogNormalLevels(),
    LogNormalLevels(mean=0.5, std=2.0, per_token=True),
    MixtureLevels(parts=(SequenceLevels(),)),
    MixtureLevels(parts=(SequenceLevels(), IndependentLevels()), weights=(1.0, 2.0)),
    NESTED,
    ForcingLevels(),
    ForcingLevels(start=0.0, cut=0.5),
]
each = pytest.mark.parametrize("levels", PARTS, ids=repr)


def draw(
    levels: Any, batch: int, tokens: int, source: torch.Generator, noise_schedule: Any = None
) -> Tensor:
    noise_schedule = noise_schedule or CosineSchedule()
    return levels.draw(batch, tokens, noise_schedule=noise_schedule, generator=source)


def one_of_each_batch(levels: Any, batches: int = 4000, batch: int = 6, tokens: int = 4) -> Tensor:
    """Return one sequence of each of many batches `[batches, tokens]`: independent draws."""
    source = generator(0)
    return torch.stack([draw(levels, batch, tokens, source)[2] for _ in range(batches)]).double()


def distance(sample: Tensor) -> float:
    """Return the Kolmogorov-Smirnov distance from the uniform law times the root of the size."""
    values = sample.sort().values
    count = len(values)
    above = torch.arange(1, count + 1, dtype=DOUBLE) / count - values
    return math.sqrt(count) * float(torch.maximum(above, 1 / count - above).max())


def test_every_registered_part_is_tested() -> None:
    assert {type(part) for part in PARTS} == set(registered("level_distribution").values())
    assert all(isinstance(part, LevelDistribution) for part in PARTS)


def test_levels_lie_in_the_interval_and_depend_on_the_generator_alone() -> None:
    for levels, noise_schedule in product(PARTS, SCHEDULES):
        for batch, tokens in ((1, 1), (2, 5), (33, 4), (0, 3)):
            level = draw(levels, batch, tokens, generator(1), noise_schedule)
            assert level.shape == (batch, tokens) and level.dtype == torch.float32
            assert (level >= 0).all() and (level <= 1).all()
            assert torch.equal(level, draw(levels, batch, tokens, generator(1), noise_schedule))
        assert not torch.equal(
            level_of(levels, 1, noise_schedule), level_of(levels, 2, noise_schedule)
        )


def level_of(levels: Any, seed: int, noise_schedule: Any) -> Tensor:
    return draw(levels, 8, 3, generator(seed), noise_schedule)


def test_per_token_is_reported_correctly() -> None:
    for levels in PARTS:
        level = draw(levels, 64, 5, generator(0))
        assert levels.per_token == bool((level != level[:, :1]).any())


def test_no_draw_touches_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    for levels in PARTS:
        draw(levels, 8, 3, generator(0))
    assert torch.equal(torch.random.get_rng_state(), before)


# ---------------------------------------------------------------------------- sequence, independent


@settings(max_examples=40, deadline=None, derandomize=True)
@given(batch=st.integers(1, 300), tokens=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_they_cover_the_interval_evenly(batch: int, tokens: int, seed: int) -> None:
    whole = draw(SequenceLevels(), batch, tokens, generator(seed))
    assert (whole == whole[:, :1]).all()
    for level in (whole, draw(IndependentLevels(), batch, tokens, generator(seed))):
        assert (level >= 0).all() and (level < 1).all()
        gaps = level.sort(dim=0).values.diff(dim=0)
        torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / batch), rtol=0, atol=1e-6)


def test_every_token_is_uniform() -> None:
    for levels in [*PARTS[:2], PARTS[5]]:
        sample = one_of_each_batch(levels)
        largest = max(distance(column) for column in sample.T)
        print(f"\n{levels}: Kolmogorov-Smirnov {largest:.2f}")
        assert largest < 1.95  # exceeded once in 1,000 samples of a uniform law


@pytest.mark.parametrize("within", [False, True], ids=["across batches", "within one batch"])
def test_tokens_of_a_sequence_are_independent(within: bool) -> None:
    """Pearson's statistic of a 5 x 5 grid of counts shows independence for each pair of tokens.

    Offsets alone would make tokens independent across batches, but all sequences of a batch would
    have equal differences between their tokens.
    """
    levels = IndependentLevels()
    one_batch = draw(levels, 4000, 4, generator(0)).double()
    sample = one_batch if within else one_of_each_batch(levels)
    place = (5 * sample).long()
    statistics = []
    for i in range(4):
        for j in range(i):
            counts = torch.bincount(5 * place[:, i] + place[:, j], minlength=25).double()
            expected = len(sample) / 25
            statistics.append(float(((counts - expected) ** 2 / expected).sum()))
    correlation = torch.corrcoef(sample.T) - torch.eye(4, dtype=DOUBLE)
    print(
        f"\npairs of tokens: largest Pearson statistic {max(statistics):.1f} (24 degrees), "
        f"correlation {float(correlation.abs().max()):.3f}"
    )
    assert max(statistics) < 59  # exceeded once in 10,000 by chi-square with 24 degrees
    assert correlation.abs().max() < 4.5 / math.sqrt(len(sample))


def test_an_even_batch_lowers_the_variance_of_a_loss() -> None:
    """The spacing lowers the variance of a batch's mean of a smooth function of the level."""
    source = generator(3)
    even = torch.stack(
        [draw(IndependentLevels(), 32, 2, source).square().mean() for _ in range(400)]
    )
    plain = torch.rand(400, 32, 2, generator=source).square().mean(dim=(1, 2))
    print(f"\nstandard deviation of a batch's mean: {even.std():.4f}, unspaced {plain.std():.4f}")
    assert abs(float(even.mean()) - 1 / 3) < 0.003
    assert even.std() < plain.std() / 4


# ------------------------------------------------------------------------------------ mixture


def test_a_mixtures_shares_are_its_weights() -> None:
    for weights in [None, (1.0, 3.0), (0.2, 0.1)]:
        levels = MixtureLevels(parts=(SequenceLevels(), IndependentLevels()), weights=weights)
        first, second = weights or (1.0, 1.0)
        share = first / (first + second)
        source, counts = generator(5), []
        for _ in range(600):
            level = draw(levels, 10, 6, source)
            whole = (level == level[:, :1]).all(dim=1)
            counts.append(whole.double())
        kinds = torch.stack(counts)
        # Each place in the batch has its probability, and each batch its share.
        each_place = kinds.mean(dim=0)
        error = (each_place - share).abs().max() / math.sqrt(share * (1 - share) / 600)
        print(
            f"\nshare of the first part {kinds.mean():.4f} of {share:.4f}; {error:.1f} std. errors"
        )
        assert error < 4.5
        assert ((kinds.sum(dim=1) - 10 * share).abs() < 1).all()


def test_each_part_of_a_mixture_is_spread_over_the_interval() -> None:
    levels = MixtureLevels(parts=(SequenceLevels(), SequenceLevels()))
    level = draw(levels, 40, 1, generator(0))[:, 0]
    for half in (level[:20], level[20:]):  # the parts are neighbours, wherever the first begins
        assert half.sort().values.diff().max() < 0.2
    nested = draw(NESTED, 400, 3, generator(0))
    whole = (nested == nested[:, :1]).all(dim=1)
    assert int(whole.sum()) in (99, 100, 101)


# ------------------------------------------------------------------------------------ log-normal


def test_the_log_of_the_ratio_is_normal() -> None:
    for per_token, noise_schedule in product(
        [False, True], [EDMSchedule(), CosineSchedule(), FlowSchedule()]
    ):
        levels = LogNormalLevels(mean=-1.2, std=1.2, per_token=per_token)
        source = generator(7)
        level = torch.cat([draw(levels, 500, 3, source, noise_schedule) for _ in range(8)])
        log_ratio = -noise_schedule.log_snr(level.double()) / 2
        z = (log_ratio - -1.2) / 1.2
        moments = [float(z.mean()), float(z.var()), float((z**3).mean()), float((z**4).mean())]
        print(
            f"\n{noise_schedule}, per token {per_token}: "
            f"moments of z {[round(m, 4) for m in moments]}"
        )
        # Standard errors without spacing, of 4,000 draws: 0.016, 0.022, 0.061, 0.155.
        for got, expected, error in zip(
            moments, (0.0, 1.0, 0.0, 3.0), (0.016, 0.022, 0.061, 0.155), strict=True
        ):
            assert abs(got - expected) < 3 * error
        uniform = torch.special.ndtr(z[::50, 0])
        assert distance(uniform) < 1.95
        if per_token:
            assert torch.corrcoef(z.T)[0, 1].abs() < 4.5 / math.sqrt(len(z))
        else:
            assert (level == level[:, :1]).all()


def test_beyond_the_noisiest_level_is_the_noisiest() -> None:
    level = draw(LogNormalLevels(mean=50.0), 100, 1, generator(0), LinearSchedule())
    torch.testing.assert_close(level, torch.ones_like(level), rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------- settings


def test_config_round_trip() -> None:
    for levels in PARTS:
        config = json.loads(json.dumps(to_config(levels)))
        back = from_config("level_distribution", config)
        assert back == levels
        assert torch.equal(
            level_of(back, 3, CosineSchedule()), level_of(levels, 3, CosineSchedule())
        )


def test_a_nested_mixture_is_written_with_its_kinds() -> None:
    inner = to_config(NESTED)["parts"][1]
    assert inner["kind"] == "level_distribution" and inner["name"] == "mixture"
    assert [part["name"] for part in inner["parts"]] == ["independent", "log_normal"]


def test_bad_settings_are_named(unchecked: None) -> None:
    one, two = (SequenceLevels(),), (SequenceLevels(), IndependentLevels())
    for parts in ((), ("sequence",)):
        with pytest.raises(PgdiffError, match="`parts` must be one level distribution or more"):
            MixtureLevels(parts=parts)
    with pytest.raises(PgdiffError, match="`weights` must hold one number for each of `parts`, 2"):
        MixtureLevels(parts=two, weights=(1.0,))
    for weight in (0.0, -1.0, math.nan):
        with pytest.raises(PgdiffError, match=r"`weights\[0\]`"):
            MixtureLevels(parts=one, weights=(weight,))
    with pytest.raises(PgdiffError, match="`mean`"):
        LogNormalLevels(mean=math.inf)
    with pytest.raises(PgdiffError, match="`std`"):
        LogNormalLevels(std=0.0)


@pytest.mark.usefixtures("unchecked")
def test_a_mixture_as_yaml_has_it() -> None:
    parts = [{"name": "sequence"}, {"name": "independent"}]
    described = from_config(
        "level_distribution", {"name": "mixture", "parts": parts, "weights": [1.0, 2.0]}
    )
    made = MixtureLevels(parts=(SequenceLevels(), IndependentLevels()), weights=(1.0, 2.0))
    assert described == made
    assert from_config("level_distribution", to_config(described)) == made


def test_forcing_levels_are_the_mixtures_that_they_name() -> None:
    """Shares of near starts and of cuts, and the place of cuts, are right; the rest is uniform."""
    batch, tokens = 20_000, 8
    levels = draw(ForcingLevels(start=0.4, start_below=0.2, cut=0.3), batch, tokens, generator(0))
    below = (levels[:, 0] < 0.2).double().mean()
    assert float(below) == pytest.approx(0.4 + 0.6 * 0.2, abs=0.01)
    noise = levels == 1
    assert not noise[:, :2].any(), "two tokens are always there"
    assert float(noise[:, -1].double().mean()) == pytest.approx(0.3, abs=0.01)
    assert (noise[:, 1:] | ~noise[:, :-1]).all(), "what is cut stays cut"
    lengths = tokens - noise[noise[:, -1]].sum(dim=1)
    shares = torch.bincount(lengths, minlength=tokens).double() / len(lengths)
    assert shares.tolist() == [0, 0, *[pytest.approx(1 / 6, abs=0.02)] * 6]
    rest = levels[~noise[:, -1]][:, 1:].flatten()
    assert float(rest.mean()) == pytest.approx(0.5, abs=0.01)
    plain = draw(ForcingLevels(start=0.0), batch, tokens, generator(0))
    assert float(plain[:, 0].mean()) == pytest.approx(0.5, abs=0.01) and (plain < 1).all()
    one = draw(ForcingLevels(cut=1.0), 50, 1, generator(0))
    assert one.shape == (50, 1) and (one < 1).all()


@pytest.mark.usefixtures("unchecked")
def test_bad_forcing_levels_are_named() -> None:
    wrong: dict[str, Any]
    for wrong in [{"start": 1.5}, {"start_below": 0.0}, {"cut": -0.1}, {"start": "often"}]:
        (name,) = wrong
        with pytest.raises(PgdiffError, match=f"`{name}` must be"):
            ForcingLevels(**wrong)


@pytest.mark.usefixtures("unchecked")
def test_bad_mixtures_and_flags_are_named() -> None:
    one = IndependentLevels()
    parts: Any
    for parts in (one, "forcing", (IndependentLevels,), (one, 3), 3, ()):
        with pytest.raises(PgdiffError, match="`parts` must be one level distribution or more"):
            MixtureLevels(parts=parts)
    weights: Any
    for weights in (3, (1.0, 2.0), "ab"):
        with pytest.raises(
            PgdiffError, match="`weights` must hold one number for each of `parts`, 1"
        ):
            MixtureLevels(parts=(one,), weights=weights)
    flag: Any = "no"
    with pytest.raises(PgdiffError, match=r"`per_token` must be true or false\. Got 'no'"):
        LogNormalLevels(per_token=flag)
