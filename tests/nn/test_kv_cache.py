"""A cached pass equals a pass over the whole sequence."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor
from toys import generator, joint, spec, stir

from pgdiff.core.context import Context
from pgdiff.core.pretrained import seeded_torch
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import Transformer, TransformerConfig

SIZE = {"width": 32, "depth": 3, "heads": 4}
SETTINGS = {
    "causal": {"attention": "causal"},
    "window 1": {"attention": "window", "window": 1},
    "window 4": {"attention": "window", "window": 4},
    "long window": {"attention": "window", "window": 100},
}
CHUNKS = {"one by one": [1] * 24, "by threes": [3] * 8, "mixed": [5, 1, 1, 7, 2, 8]}


def network(setting: str, *, condition: int = 0, **options: object) -> Transformer:
    config = TransformerConfig(**(SIZE | SETTINGS[setting] | options))
    with seeded_torch(seed=0):
        return stir(config.build(spec(5, condition=condition))).requires_grad_(False)


def inputs(*, rows: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.randn(3, 24, 5, generator=generator(seed))
    return x, torch.rand(rows, 24, generator=generator(seed + 10))


def largest_error(
    module: Transformer,
    chunks: Sequence[int],
    final: tuple[Tensor, Tensor],
    noisy: tuple[Tensor, Tensor],
    context: tuple[Context, ...] = (),
) -> float:
    """Return the largest error of outputs at each chunk of noisy tokens, given the final ones."""
    (x, level), (x_new, level_new) = final, noisy
    cache, start, largest = module.new_cache(), 0, 0.0
    for size in chunks:
        now = slice(start, start + size)
        got = module(x_new[:, now], level_new[:, now], *context, cache=cache)
        whole = module(
            torch.cat([x[:, :start], x_new[:, now]], dim=1),
            torch.cat([level[:, :start], level_new[:, now]], dim=1),
            *context,
        )
        largest = max(largest, float((got - whole[:, start:]).abs().max()))
        cache = module.extend(cache, x[:, now], level[:, now], *context)
        start += size
        assert cache.appended == start
    return largest


def test_cached_equals_uncached() -> None:
    for setting, chunks, rows in product(SETTINGS, CHUNKS, [1, 3]):
        module = network(setting)
        error = largest_error(module, CHUNKS[chunks], inputs(rows=rows), inputs(rows=rows, seed=2))
        print(f"\n{setting}, {chunks}, {rows} rows of levels: largest error {error:.1e}")
        assert error < 1e-5


def test_hidden_tokens_stay_hidden_in_the_cache() -> None:
    for setting, rows in product(SETTINGS, [(1, 1), (3, 3), (1, 3), (3, 1)]):
        module = network(setting, hide_noise=True)
        (x, level), (x_new, level_new) = inputs(rows=rows[0]), inputs(rows=rows[1], seed=2)
        level = torch.where(level > 0.6, 1.0, level)
        level_new = torch.where(level_new > 0.6, 1.0, level_new)
        most = max(rows)
        shown = level.expand(most, -1), level_new.expand(most, -1)
        error = largest_error(module, CHUNKS["mixed"], (x, shown[0]), (x_new, shown[1]))
        print(f"\n{setting}, {rows} rows of levels: largest error {error:.1e}")
        assert error < 1e-5
        past, new = slice(0, 20), slice(20, 24)
        cache = module.extend(module.new_cache(), x[:, past], level[:, past])
        got = module(x_new[:, new], level_new[:, new], cache=cache)
        same = module.extend(module.new_cache(), x[:, past], shown[0][:, past])
        expected = module(x_new[:, new], shown[1][:, new], cache=same)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("setting", ["causal", "window 4"])
def test_with_a_condition(setting: str) -> None:
    module = network(setting, condition=2)
    for rows in (1, 3):
        context = joint(torch.randn(rows, 2, generator=generator(9)))
        error = largest_error(module, [3] * 8, inputs(rows=1), inputs(rows=1, seed=2), (context,))
        print(f"\n{setting}, condition of {rows} rows: largest error {error:.1e}")
        assert error < 1e-5


def test_what_is_evicted_is_not_forgotten() -> None:
    """Its effect on later tokens reaches (window - 1) * depth tokens on, as without a cache."""
    module = network("window 4").double()
    x, level = (t.double() for t in inputs())
    cache, forgetful = module.new_cache(), module.new_cache()
    for token in range(23):
        now = slice(token, token + 1)
        cache = module.extend(cache, x[:, now], level[:, now])
        assert cache.kept == min(token + 1, 3)
    last = slice(23, 24)
    got, whole = module(x[:, last], level[:, last], cache=cache), module(x, level)[:, last]
    reach = slice(23 - 3 * 3, 23)  # the whole reach of the last token, through three blocks
    forgetful = replace(forgetful, appended=reach.start)
    forgetful = module.extend(forgetful, x[:, reach], level[:, reach])
    enough = module(x[:, last], level[:, last], cache=forgetful)
    window = slice(20, 23)
    forgetful = replace(module.new_cache(), appended=window.start)
    forgetful = module.extend(forgetful, x[:, window], level[:, window])
    alone = module(x[:, last], level[:, last], cache=forgetful)
    error, missing = (got - whole).abs().max(), (alone - whole).abs().max()
    print(f"\ncache {float(error):.1e} off; the last window alone {float(missing):.2f} off")
    torch.testing.assert_close(got, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(enough, whole, rtol=0, atol=1e-12)
    assert missing > 1e-2


@pytest.mark.parametrize("size", [1, 3, 50])
def test_memory_is_bounded_with_a_window(size: int) -> None:
    module = network("window 4", hide_noise=True)
    cache = module.new_cache()
    for _ in range(10):
        cache = module.extend(cache, torch.ones(2, size, 5), torch.zeros(1, size))
    assert cache.appended == 10 * size and cache.kept == 3
    tensors = [t for layer in cache.layers for t in layer]
    stored = sum(t.untyped_storage().nbytes() for t in tensors)
    assert stored == 2 * 3 * (2 * 3 * 32) * 4  # keys and values, 3 blocks, 2 rows of 3 tokens
    assert cache.shown.untyped_storage().nbytes() <= 2 * 3


def test_a_cache_is_never_changed() -> None:
    """Several futures may therefore branch from one past."""
    for setting in SETTINGS:
        module, (x, level) = network(setting), inputs(rows=1)
        past, new = slice(0, 10), slice(10, 14)
        cache = module.extend(module.new_cache(), x[:, past], level[:, past])
        before = [t.clone() for layer in cache.layers for t in layer]
        first = module(x[:, new], level[:, new], cache=cache)
        one = module.extend(cache, x[:, new], level[:, new])
        two = module.extend(cache, -x[:, new], level[:, new])
        assert torch.equal(module(x[:, new], level[:, new], cache=cache), first)
        after = [t for layer in cache.layers for t in layer]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert cache.appended == 10 and one.appended == two.appended == 14
        ahead = slice(14, 16)
        out = [module(x[:, ahead], level[:, ahead], cache=c) for c in (one, two)]
        assert setting == "window 1" or (out[0] - out[1]).abs().max() > 1e-3


def test_a_past_of_one_row_stands_for_all() -> None:
    for setting, hide_noise in product(SETTINGS, [False, True]):
        module, (x, level) = network(setting, hide_noise=hide_noise), inputs()
        past, new = slice(0, 10), slice(10, 14)
        level[0, 6] = level[1, 12] = 1.0
        one = module.extend(module.new_cache(), x[:1, past], level[:1, past])
        many = module.extend(
            module.new_cache(), x[:1, past].expand(3, -1, -1), level[:1, past].expand(3, -1)
        )
        assert one.batch == 1 and many.batch == 3
        for _ in range(2):
            got = module(x[:, new], level[:, new], cache=one)
            torch.testing.assert_close(
                got, module(x[:, new], level[:, new], cache=many), rtol=0, atol=1e-5
            )
            one, many = (module.extend(c, x[:, new], level[:, new]) for c in (one, many))
            assert one.batch == 3


def test_gradients_pass_through_the_cache() -> None:
    module, (x, level) = network("window 4").double(), inputs()
    x, level = x.double().requires_grad_(True), level.double()
    past, new = slice(0, 20), slice(20, 24)
    cache = module.extend(module.new_cache(), x[:, past], level[:, past])
    cached = module(x[:, new], level[:, new], cache=cache).square().sum()
    whole = module(x, level)[:, new].square().sum()
    got, expected = (torch.autograd.grad(loss, x)[0] for loss in (cached, whole))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    assert expected[:, past].any()


def test_a_cache_that_does_not_fit_is_refused() -> None:
    (x, level), full = inputs(), TransformerConfig(**SIZE).build(spec(5))
    with pytest.raises(PgdiffError, match=r"`attention` 'causal' or 'window'. Got 'full'"):
        full.new_cache()
    module = network("causal")
    cache = module.extend(module.new_cache(), x[:2], level[:2])
    with pytest.raises(PgdiffError, match=r"`cache` must have 1 row, or 3 like `x`. Got 2"):
        module(x, level, cache=cache)
    with pytest.raises(PgdiffError, match=r"`cache` must have 1 row, or 1 like `x`. Got 2"):
        module.extend(cache, x[:1], level[:1])
    for other in (full, network("window 4"), network("causal", depth=2)):
        for use in (
            lambda n: n(x[:2], level[:2], cache=cache),
            lambda n: n.extend(cache, x, level),
        ):
            with pytest.raises(
                PgdiffError, match="`cache` must come from a network with the settings"
            ):
                use(other)
