"""Classifier-free guidance against the score of a tilted Gaussian, and its cost."""

from itertools import product

import pytest
import torch
from oracles import DOUBLE, Gaussian, generator, shrink
from torch import Tensor
from torch.distributions import MultivariateNormal

from pgdiff.core.context import Context, Entry
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import CosineSchedule
from pgdiff.diffusion.guidance.classifier_free import ClassifierFree

TOKENS, FEATURES = 5, 2
ANY = Gaussian.ar1(CosineSchedule(), tokens=TOKENS)
NAMED = ((1, "walls"), (2, "speed"))
PRESENT = Context.from_vector(torch.tensor([[0.7, 1.0]], dtype=DOUBLE))


def given(y: float) -> Gaussian:
    """Return the data given a measurement y, with an error of 0.5, of the sum of all features."""
    row = torch.ones(1, ANY.size, dtype=DOUBLE)
    gain = ANY.covariance @ row.T / (row @ ANY.covariance @ row.T + 0.25)
    mean = ANY.mean.reshape(-1) + gain[:, 0] * (y - ANY.mean.sum())
    covariance = ANY.covariance - gain @ row @ ANY.covariance
    return Gaussian(
        mean.reshape(ANY.mean.shape), (covariance + covariance.T) / 2, ANY.noise_schedule
    )


class Exact:
    """Both exact denoisers as one network, which counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, x: Tensor, level: Tensor, context: Context) -> Tensor:
        self.calls.append((len(x), len(level)))
        conditional = given(0.7).denoise(x, level)
        absent = ~context["condition"].present.expand(len(x))
        return torch.where(absent[:, None, None], ANY.denoise(x, level), conditional)


def noisy(*, batch: int = 6) -> tuple[Tensor, Tensor]:
    """Return noisy tokens and a level for each of them, equal in all rows."""
    level = torch.linspace(0.1, 0.9, TOKENS, dtype=DOUBLE)[None]
    x = torch.randn(batch, TOKENS, FEATURES, generator=generator(0), dtype=DOUBLE)
    return x, level


# ------------------------------------------------------------------------------------ the estimate


def check_it_is_the_estimate_of_the_tilted_density(weight: float) -> None:
    """Compare with Tweedie's formula on the score of p(x) (p(x | y) / p(x))^weight, by autograd."""
    x, level = noisy()
    x.requires_grad_(True)

    def log_density(law: Gaussian) -> Tensor:
        mean, covariance = law.marginal(level[0])
        return MultivariateNormal(mean, covariance).log_prob(x.reshape(len(x), -1)).sum()

    total = log_density(ANY) + weight * (log_density(given(0.7)) - log_density(ANY))
    (score,) = torch.autograd.grad(total, x)
    alpha, sigma = (
        factor(level)[..., None] for factor in (ANY.noise_schedule.alpha, ANY.noise_schedule.sigma)
    )
    expected = (x + sigma**2 * score) / alpha
    got = ClassifierFree(weight=weight).estimate(Exact(), x.detach(), level, PRESENT)
    error = float((got - expected.detach()).abs().max())
    print(f"\nweight {weight}: largest error against the tilted density {error:.1e}")
    assert error < 1e-9


def test_it_is_the_estimate_of_the_tilted_density() -> None:
    for weight in [-1.0, 0.0, 0.4, 1.0, 2.5, 7.0]:
        check_it_is_the_estimate_of_the_tilted_density(weight)


def test_weights_0_and_1_are_single_branches_bit_for_bit() -> None:
    x, level = noisy()
    for weight, context in ((1.0, PRESENT), (0.0, PRESENT.drop())):
        network = Exact()
        got = ClassifierFree(weight=weight, rescale=0.7).estimate(network, x, level, PRESENT)
        assert network.calls == [(6, 1)], "one call, with the batch as it is"
        assert torch.equal(got, Exact()(x, level, context))


def test_both_branches_are_one_call() -> None:
    for (levels, expected), rows in product([(1, 1), (6, 12)], [1, 6]):
        x, level = noisy()
        network = Exact()
        weighting = ClassifierFree(weight=2.0)
        got = weighting.estimate(network, x, level.expand(levels, -1), PRESENT.expand(rows))
        assert network.calls == [(12, expected)], "levels of batch 1 stay shared"
        torch.testing.assert_close(got, weighting.estimate(Exact(), x, level, PRESENT))


def test_each_row_has_its_own_condition_and_level() -> None:
    """For any network, rows of a batch equal those rows alone."""

    def network(x: Tensor, level: Tensor, context: Context) -> Tensor:
        first, second = context.vector[:, :, None].split(1, dim=1)
        return shrink(x, level) + first * second

    x, _ = noisy()
    level = torch.rand(6, TOKENS, generator=generator(1), dtype=DOUBLE)
    context = Context.from_vector(torch.rand(6, 2, generator=generator(2), dtype=DOUBLE))
    weighting = ClassifierFree(weight=3.0, rescale=0.5)
    together = weighting.estimate(network, x, level, context)
    for i in range(6):
        row = slice(i, i + 1)
        alone = weighting.estimate(network, x[row], level[row], context.rows(row))
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
    """The spread ignores the estimates of in-painted tokens: the sampler overwrites them."""
    x, level = noisy()
    level = level.clone()
    level[:, 0] = 0.0

    def network(x: Tensor, level: Tensor, context: Context, *, nonsense: float) -> Tensor:
        out = shrink(x, level) * (1 + context.vector[:, 1:, None])
        out[:, 0] = nonsense
        return out

    def rescaled(nonsense: float) -> Tensor:
        return ClassifierFree(weight=4.0, rescale=1.0).estimate(
            lambda x, level, context: network(x, level, context, nonsense=nonsense),
            x,
            level,
            PRESENT,
        )

    assert torch.equal(rescaled(0.0)[:, 1:], rescaled(1e6)[:, 1:])


def test_a_flat_estimate_is_left_as_it_is() -> None:
    x, level = noisy()

    def flat(x: Tensor, level: Tensor, context: Context) -> Tensor:
        return torch.zeros_like(x)

    for given_level in (level, torch.zeros_like(level)):
        got = ClassifierFree(weight=2.0, rescale=1.0).estimate(flat, x, given_level, PRESENT)
        assert torch.equal(got, torch.zeros_like(x))


# ----------------------------------------------------------------------------------------- names


def test_only_named_entries_are_contrasted() -> None:
    """For a network that is linear in two entries, each has its own weight, given or absent."""
    x, level = noisy()
    value = {name: torch.rand(6, 1, 1, generator=generator(n)).to(DOUBLE) for n, name in NAMED}
    context = Context(
        {name: Entry(v, torch.ones(6, dtype=torch.bool)) for name, v in value.items()}
    )

    def network(x: Tensor, level: Tensor, context: Context) -> Tensor:
        return shrink(x, level) + context["walls"].value + 10 * context["speed"].value

    def expected(walls: float, speed: float) -> Tensor:
        return shrink(x, level) + walls * value["walls"] + 10 * speed * value["speed"]

    for weight in (-1.0, 0.0, 0.4, 1.0, 3.0):
        for names, factors in (
            (["walls"], (weight, 1.0)),
            (("speed",), (1.0, weight)),
            (["speed", "walls"], (weight, weight)),
            (None, (weight, weight)),
        ):
            weighting = ClassifierFree(weight=weight, names=names)
            got = weighting.estimate(network, x, level, context)
            torch.testing.assert_close(got, expected(*factors), rtol=0, atol=1e-12)
    assert ClassifierFree(names=["walls"]) == ClassifierFree(names=("walls",))


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named() -> None:
    for settings, message in [
        ({"weight": float("nan")}, "`weight` must be a number"),
        ({"weight": "2"}, "`weight` must be a number"),
        ({"rescale": -0.1}, r"`rescale` must be a number in \[0"),
        ({"rescale": 1.1}, r"`rescale` must be a number in \[0"),
        ({"names": "walls"}, "`names` must be names of entries, or None for all. Got 'walls'"),
        ({"names": []}, "`names` must be names of entries"),
    ]:
        with pytest.raises(PgdiffError, match=message):
            ClassifierFree(**settings)
