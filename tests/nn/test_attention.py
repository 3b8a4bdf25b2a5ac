"""The reach of causal, sliding-window and full attention, and hidden noise."""

import itertools
import math
from itertools import product

import pytest
import torch
from torch import Tensor
from toys import generator, spec, stir

from pgdiff.core.pretrained import seeded_torch
from pgdiff.denoisers import Transformer, TransformerConfig
from pgdiff.nn.attention import sight

SIZE = {"width": 32, "depth": 3, "heads": 4}
SETTINGS = {
    "full": {"attention": "full"},
    "causal": {"attention": "causal"},
    "window": {"attention": "window", "window": 3},
}
every_attention = pytest.mark.parametrize("attention", SETTINGS)
each_batch_of_levels = pytest.mark.parametrize("rows", [1, 3], ids=["one level row", "row by row"])


def network(attention: str, **options: object) -> Transformer:
    config = TransformerConfig(**(SIZE | SETTINGS[attention] | options))
    with seeded_torch(seed=0):
        return stir(config.build(spec(5))).requires_grad_(False)


def inputs(tokens: int = 12, *, rows: int = 3) -> tuple[Tensor, Tensor]:
    x = torch.randn(3, tokens, 5, generator=generator(1))
    return x, 0.99 * torch.rand(rows, tokens, generator=generator(2))


def change(module: Transformer, x: Tensor, other: Tensor, level: Tensor) -> Tensor:
    """Return the largest change of every token's output, `[batch, tokens]`."""
    return (module(other, level) - module(x, level)).abs().amax(dim=2)


# ------------------------------------------------------------------------------------- the masks


def test_attention_is_that_of_its_definition() -> None:
    """It equals sums over the visible keys of a token, one token at a time."""
    for attention, hide in product(SETTINGS, [False, True]):
        window, largest = SETTINGS[attention].get("window"), 0.0
        for tokens, past, rows in itertools.product((1, 2, 5), (0, 1, 2, 7), (1, 2)):
            keys, source = past + tokens, generator(tokens + 10 * past)
            q = torch.randn(2, 3, tokens, 4, generator=source, dtype=torch.float64)
            k, v = torch.randn(2, 2, 3, keys, 4, generator=source, dtype=torch.float64)
            shown = torch.rand(rows, keys, generator=source) < 0.5 if hide else None
            seen = sight(attention, tokens=tokens, past=past, window=window, shown=shown)
            got = seen.attend(q, k, v)
            for row, head, token in itertools.product(range(2), range(3), range(tokens)):
                place = past + token
                visible = [
                    key
                    for key in range(keys)
                    if (attention == "full" or key <= place)
                    and (window is None or place - key < window)
                    and (shown is None or key == place or shown[row % rows, key])
                ]
                weight = [
                    math.exp(float(q[row, head, token] @ k[row, head, key]) / math.sqrt(4))
                    for key in visible
                ]
                total = sum(
                    (w * v[row, head, key] for w, key in zip(weight, visible, strict=True)),
                    start=torch.zeros(4, dtype=torch.float64),
                )
                error = (got[row, head, token] - total / sum(weight)).abs().max()
                largest = max(largest, float(error))
        print(f"\n{attention}, hidden keys {hide}: largest error {largest:.1e}")
        assert largest < 1e-12


def test_no_mask_where_none_is_needed() -> None:
    assert sight("full", tokens=8).allowed is None and not sight("full", tokens=8).causal
    assert sight("causal", tokens=8).allowed is None and sight("causal", tokens=8).causal
    assert sight("window", tokens=8, window=8).allowed is None
    assert sight("causal", tokens=1, past=7).allowed is None
    assert sight("window", tokens=1, past=7, window=8).allowed is None


# ----------------------------------------------------------------------------------- the network


def test_no_token_depends_on_later_ones() -> None:
    for attention, hide_noise, tokens in product(["causal", "window"], [False, True], [12, 40]):
        module, (x, level) = network(attention, hide_noise=hide_noise), inputs(tokens)
        earlier = []
        for token in range(0, tokens, tokens // 6):
            other, louder = x.clone(), level.clone()
            other[:, token] += 3.0
            louder[:, token] = 1 - level[:, token]
            difference = change(module, x, other, level)
            relevelled = (module(x, louder) - module(x, level)).abs().amax(dim=2)
            earlier += [difference[:, :token], relevelled[:, :token]]
            assert difference[:, token : token + 2].min() > 1e-3
        largest = torch.cat(earlier, dim=1).max()
        print(f"\n{attention}, {tokens} tokens: earlier outputs change by {float(largest):.1e}")
        assert largest < 1e-6


def test_a_window_reaches_as_far_as_its_depth() -> None:
    for window, depth in product([1, 2, 4], [1, 3]):
        module = network("window", window=window, depth=depth).double()
        (x, level), reach = inputs(20), (window - 1) * depth
        x, level, beyond, token = x.double(), level.double(), 0.0, 5
        other = x.clone()
        other[:, token] += 1.0
        difference = change(module, x, other, level)
        within = difference[:, token : token + reach + 1].min()
        beyond = torch.cat([difference[:, :token], difference[:, token + reach + 1 :]], dim=1).max()
        print(
            f"\nwindow {window}, depth {depth}: within {float(within):.1e}, "
            f"beyond {float(beyond):.1e}"
        )
        assert within > 1e-12
        assert beyond == 0


def test_a_long_window_is_causal_attention() -> None:
    x, level = inputs()
    causal, window = network("causal"), network("window", window=12)
    assert torch.equal(causal(x, level), window(x, level))
    assert (network("window", window=11)(x, level) - causal(x, level)).abs().max() > 1e-4


@every_attention
def test_every_weight_gets_a_gradient(attention: str) -> None:
    module, (x, level) = network(attention, hide_noise=True).requires_grad_(True), inputs()
    level[:, 4:8] = 1.0
    module(x, level).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in module.parameters())


# ---------------------------------------------------------------------------------- hidden noise


def test_the_past_does_not_depend_on_pure_noise() -> None:
    for attention, rows, tokens in product(SETTINGS, [1, 3], [12, 600]):
        module, (x, level) = network(attention, hide_noise=True), inputs(tokens, rows=rows)
        noise = torch.zeros(level.shape, dtype=torch.bool)
        for row in range(rows):
            noise[row, tokens // 2 + row :] = True  # every row has its own past
            noise[row, 2] = True
        level = torch.where(noise, 1.0, level)
        hidden = noise.expand(3, -1)
        before = module(x, level)
        for held in (
            torch.zeros(()),
            torch.randn(x.shape, generator=generator(5)),
            torch.tensor(1e6),
        ):
            after = module(torch.where(hidden[..., None], held, x), level)
            assert torch.equal(after[~hidden], before[~hidden])
            assert (after - before)[hidden].abs().amax(dim=-1).min() > 1e-3  # a token sees itself


@each_batch_of_levels
def test_without_hiding_the_past_depends_on_pure_noise(rows: int) -> None:
    module, (x, level) = network("full"), inputs(rows=rows)
    level[:, 6:] = 1.0
    other = x.clone()
    other[:, 6:] = torch.randn(3, 6, 5, generator=generator(5))
    difference = change(module, x, other, level)[:, :6]
    print(f"\nnot hidden: the past's output changes by {float(difference.max()):.2f}")
    assert difference.min() > 1e-3
    assert torch.equal(module(x, level), network("full")(x, level))


@every_attention
def test_only_level_one_is_hidden(attention: str) -> None:
    """Below it the option changes no more than rounding."""
    hiding, plain = network(attention, hide_noise=True), network(attention)
    x, level = inputs()
    level[:, 5] = 1 - 1e-6
    difference = (hiding(x, level) - plain(x, level)).abs().max()
    print(f"\n{attention}: hiding where nothing is hidden changes {float(difference):.1e}")
    assert difference < 1e-5
    level[:, 5] = 1.0
    assert (hiding(x, level) - plain(x, level)).abs().max() > 1e-3


def test_hidden_tokens_depend_on_the_past_but_not_on_one_another() -> None:
    module, (x, level) = network("full", hide_noise=True), inputs()
    level[:, 6:] = 1.0
    for token, reached in ((2, range(12)), (8, [8])):
        other = x.clone()
        other[:, token] += 1.0
        difference = change(module, x, other, level)
        unreached = [t for t in range(12) if t not in reached]
        assert difference[:, list(reached)].min() > 1e-4
        assert not difference[:, unreached].any()


def test_gradients_pass_hidden_tokens_by() -> None:
    module, (x, level) = network("full", hide_noise=True), inputs()
    level[:, 6:] = 1.0
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(module(x, level)[:, :6].square().sum(), x)
    assert gradient[:, :6].abs().amax(dim=2).min() > 1e-4
    assert not gradient[:, 6:].any()
    (gradient,) = torch.autograd.grad(module(x, torch.ones(1, 12)).square().sum(), x)
    assert torch.isfinite(gradient).all() and gradient.abs().amax(dim=2).min() > 1e-4


def test_rows_with_levels_of_their_own_are_apart() -> None:
    module, (x, level) = network("full", hide_noise=True), inputs()
    for row in range(3):
        level[row, 3 * row :] = 1.0
    together = module(x, level)
    alone = torch.cat([module(x[r : r + 1], level[r : r + 1]) for r in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
