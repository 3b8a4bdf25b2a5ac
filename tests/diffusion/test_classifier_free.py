"""Classifier-free guidance against the score of a tilted Gaussian, and what it costs."""

from typing import Any

import pytest
import torch
from oracles import DOUBLE, Gaussian, generator, shrink
from torch import Tensor
from torch.distributions import MultivariateNormal

from pgdiff.diffusion import CosineSchedule
from pgdiff.diffusion.classifier_free import ClassifierFree, drop_condition
from pgdiff.validation import PgdiffError

TOKENS, FEATURES = 5, 2
ANY = Gaussian.ar1(CosineSchedule(), tokens=TOKENS)
PRESENT = torch.tensor([[0.7, 1.0]], dtype=DOUBLE)


def given(y: float) -> Gaussian:
    """The data given that the sum of all features was measured as y, with an error of 0.5."""
    row = torch.ones(1, ANY.size, dtype=DOUBLE)
    gain = ANY.covariance @ row.T / (row @ ANY.covariance @ row.T + 0.25)
    mean = ANY.mean.reshape(-1) + gain[:, 0] * (y - ANY.mean.sum())
    covariance = ANY.covariance - gain @ row @ ANY.covariance
    return Gaussian(mean.reshape(ANY.mean.shape), (covariance + covariance.T) / 2, ANY.schedule)


class Exact:
    """Both exact denoisers as one network, which counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        self.calls.append((len(x), len(level)))
        conditional = given(0.7).denoise(x, level)
        absent = (condition == 0).all(dim=1).expand(len(x))
        return torch.where(absent[:, None, None], ANY.denoise(x, level), conditional)


def noisy(*, batch: int = 6) -> tuple[Tensor, Tensor]:
    """Noisy tokens and a level for each of them, the same in every row."""
    level = torch.linspace(0.1, 0.9, TOKENS, dtype=DOUBLE)[None]
    x = torch.randn(batch, TOKENS, FEATURES, generator=generator(0), dtype=DOUBLE)
    return x, level


# ------------------------------------------------------------------------------------ the estimate


@pytest.mark.parametrize("weight", [-1.0, 0.0, 0.4, 1.0, 2.5, 7.0])
def test_it_is_the_estimate_of_the_tilted_density(weight: float) -> None:
    """Tweedie's formula on the score of p(x) (p(x | y) / p(x))^weight, by autograd."""
    x, level = noisy()
    x.requires_grad_(True)

    def log_density(law: Gaussian) -> Tensor:
        mean, covariance = law.marginal(level[0])
        return MultivariateNormal(mean, covariance).log_prob(x.reshape(len(x), -1)).sum()

    total = log_density(ANY) + weight * (log_density(given(0.7)) - log_density(ANY))
    (score,) = torch.autograd.grad(total, x)
    alpha, sigma = (factor(level)[..., None] for factor in (ANY.schedule.alpha, ANY.schedule.sigma))
    expected = (x + sigma**2 * score) / alpha
    got = ClassifierFree(weight=weight).estimate(Exact(), x.detach(), level, PRESENT)
    error = float((got - expected.detach()).abs().max())
    print(f"\nweight {weight}: largest error against the tilted density {error:.1e}")
    assert error < 1e-9


def test_weights_0_and_1_are_single_branches_bit_for_bit() -> None:
    x, level = noisy()
    for weight, condition in ((1.0, PRESENT), (0.0, torch.zeros_like(PRESENT))):
        network = Exact()
        got = ClassifierFree(weight=weight, rescale=0.7).estimate(network, x, level, PRESENT)
        assert network.calls == [(6, 1)], "one call, with the batch as it is"
        assert torch.equal(got, Exact()(x, level, condition))


@pytest.mark.parametrize(("levels", "expected"), [(1, 1), (6, 12)])
@pytest.mark.parametrize("conditions", [1, 6])
def test_both_branches_are_one_call(levels: int, expected: int, conditions: int) -> None:
    x, level = noisy()
    network = Exact()
    weighting = ClassifierFree(weight=2.0)
    got = weighting.estimate(network, x, level.expand(levels, -1), PRESENT.expand(conditions, -1))
    assert network.calls == [(12, expected)], "levels of batch 1 stay shared"
    torch.testing.assert_close(got, weighting.estimate(Exact(), x, level, PRESENT))


def test_each_row_has_its_own_condition_and_level() -> None:
    """Any network: rows in a batch are what they are alone."""

    def network(x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        return shrink(x, level) + condition[:, :1, None] * condition[:, 1:, None]

    x, _ = noisy()
    level = torch.rand(6, TOKENS, generator=generator(1), dtype=DOUBLE)
    condition = torch.rand(6, 2, generator=generator(2), dtype=DOUBLE)
    weighting = ClassifierFree(weight=3.0, rescale=0.5)
    together = weighting.estimate(network, x, level, condition)
    for i in range(6):
        row = slice(i, i + 1)
        alone = weighting.estimate(network, x[row], level[row], condition[row])
        torch.testing.assert_close(together[row], alone)


# ------------------------------------------------------------------------------------- rescaling


def test_rescaling_keeps_the_spread_of_the_conditional_estimate() -> None:
    x, level = noisy()
    conditional = Exact()(x, level, PRESENT)
    plain = ClassifierFree(weight=5.0).estimate(Exact(), x, level, PRESENT)
    spread = {
        share: ClassifierFree(weight=5.0, rescale=share)
        .estimate(Exact(), x, level, PRESENT)
        .flatten(1)
        .std(dim=1)
        for share in (0.0, 0.3, 1.0)
    }
    error = float((spread[1.0] - conditional.flatten(1).std(dim=1)).abs().max())
    print(f"\nspread at rescale 1 against the conditional estimate's: {error:.1e}")
    assert error < 1e-12
    torch.testing.assert_close(spread[0.0], plain.flatten(1).std(dim=1))
    torch.testing.assert_close(spread[0.3], 0.3 * spread[1.0] + 0.7 * spread[0.0])
    assert (spread[1.0] - spread[0.0]).abs().min() > 0.01, "there is something to rescale"


def test_clean_tokens_do_not_count_in_the_spread() -> None:
    """What a network says of given tokens means nothing: the sampler overwrites it."""
    x, level = noisy()
    level = level.clone()
    level[:, 0] = 0.0

    def network(x: Tensor, level: Tensor, condition: Tensor, *, nonsense: float) -> Tensor:
        out = shrink(x, level) * (1 + condition[:, 1:, None])
        out[:, 0] = nonsense
        return out

    def rescaled(nonsense: float) -> Tensor:
        return ClassifierFree(weight=4.0, rescale=1.0).estimate(
            lambda x, level, condition: network(x, level, condition, nonsense=nonsense),
            x,
            level,
            PRESENT,
        )

    assert torch.equal(rescaled(0.0)[:, 1:], rescaled(1e6)[:, 1:])


def test_a_flat_estimate_is_left_as_it_is() -> None:
    x, level = noisy()

    def flat(x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        return torch.zeros_like(x)

    for given_level in (level, torch.zeros_like(level)):
        got = ClassifierFree(weight=2.0, rescale=1.0).estimate(flat, x, given_level, PRESENT)
        assert torch.equal(got, torch.zeros_like(x))


# --------------------------------------------------------------------------------------- dropout


def test_dropout_hides_whole_rows_at_its_rate() -> None:
    condition = torch.cat([torch.randn(20_000, 3), torch.ones(20_000, 1)], dim=1)
    kept = drop_condition(condition, dropout=0.1, generator=generator(0))
    hidden = (kept == 0).all(dim=1)
    assert torch.equal(kept[~hidden], condition[~hidden])
    rate = float(hidden.double().mean())
    print(f"\nhidden at dropout 0.1: {rate:.4f}")
    assert abs(rate - 0.1) < 5 * (0.1 * 0.9 / 20_000) ** 0.5
    assert torch.equal(kept, drop_condition(condition, dropout=0.1, generator=generator(0)))
    assert not torch.equal(kept, drop_condition(condition, dropout=0.1, generator=generator(1)))
    assert torch.equal(condition, drop_condition(condition, dropout=0.0, generator=generator(0)))
    assert not drop_condition(condition, dropout=1.0, generator=generator(0)).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": float("nan")}, "`weight` must be a number"),
        ({"weight": "2"}, "`weight` must be a number"),
        ({"rescale": -0.1}, r"`rescale` must be a number in \[0"),
        ({"rescale": 1.1}, r"`rescale` must be a number in \[0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PgdiffError, match=message):
        ClassifierFree(**settings)
