"""Calls that cache leading tokens equal the plain network."""

from itertools import product

import pytest
import torch
from torch import Tensor
from toys import generator, joint, spec, stir

from pgdiff.core.pretrained import seeded_torch
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import CachedCalls, Transformer, TransformerConfig

TOKENS = 12
SETTINGS = {
    "causal": {"attention": "causal"},
    "window 1": {"attention": "window", "window": 1},
    "window 4": {"attention": "window", "window": 4},
}


def network(setting: str, *, condition: int = 0, **options: object) -> Transformer:
    settings = {"width": 32, "depth": 3, "heads": 4} | SETTINGS[setting] | options
    with seeded_torch(seed=0):
        module = TransformerConfig(**settings).build(spec(5, condition=condition))
    return stir(module).requires_grad_(False)


def pyramid(rows: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Return inputs of the calls of a sampling: in call m tokens before m / 2 are final."""
    x = torch.randn(rows, TOKENS, 5, generator=generator(1))
    calls = []
    for call in range(2 * TOKENS + 2):
        level = ((torch.arange(TOKENS) + 4 - call / 2) / 4).clamp(0, 1)[None]
        moved = x + level[..., None] * torch.randn(x.shape, generator=generator(100 + call))
        calls.append((moved, level))
    return calls


def test_cached_calls_equal_the_network() -> None:
    for setting, hide_noise in product(SETTINGS, [False, True]):
        module = network(setting, hide_noise=hide_noise)
        cached, error, expected, same = CachedCalls(module), 0.0, 0, 0
        for call, (x, level) in enumerate(pyramid()):
            error = max(error, float((cached(x, level) - module(x, level)).abs().max()))
            same = max(0, (call - 1) // 2 - 3)  # tokens that were clean in the call before
            expected += TOKENS - same
        print(f"\n{setting}: {cached.computed} tokens computed, error {error:.1e}")
        assert error < 1e-5
        assert same > 6 and cached.computed == expected


def test_what_was_final_may_change_again() -> None:
    """Other trajectories, levels, tokens or rows never give an outdated output."""
    module = network("causal")
    cached = CachedCalls(module)
    (x, level), (other, _) = pyramid()[0], pyramid()[1]
    clean = torch.zeros_like(level)
    calls = [(x, clean), (x, clean), (x, level), (x, clean), (other, clean), (other, clean)]
    calls += [(other[:, :5], clean[:, :5]), (other[:, :8], clean[:, :8]), (other, clean)]
    calls += [(other[:2], clean), (other[:2], clean.expand(2, -1)), (other.flip(1), clean)]
    for number, (sample, levels) in enumerate(calls):
        error = float((cached(sample, levels) - module(sample, levels)).abs().max())
        assert error < 1e-5, f"call {number}"


def test_another_condition_is_another_call() -> None:
    module = network("causal", condition=2)
    cached = CachedCalls(module)
    x, _ = pyramid()[0]
    level = torch.zeros(1, TOKENS)
    for value in (0.0, 0.0, 1.0, 1.0):
        context = joint(torch.full((1, 2), value))
        torch.testing.assert_close(
            cached(x, level, context), module(x, level, context), rtol=0, atol=1e-5
        )


def test_gradients_come_back_to_all_tokens() -> None:
    """This holds whatever is cached: an unchanged token may move in the next step."""
    module = network("causal")
    cached = CachedCalls(module)
    x, _ = pyramid()[0]
    level = torch.full((1, TOKENS), 0.7)
    cached(x, level)
    gradients = []
    for called in (cached, module):
        point = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(called(point, level)[:, 6:].square().sum(), point)
        gradients.append(gradient)
    assert torch.equal(*gradients) and gradients[0][:, :6].any()
    torch.testing.assert_close(cached(x, level), module(x, level), rtol=0, atol=1e-5)


def test_each_number_of_rows_is_remembered() -> None:
    """Futures and their trajectories take turns."""
    module = network("causal")
    cached = CachedCalls(module)
    x, level = pyramid()[0][0], torch.zeros(1, TOKENS)
    for call in range(3):
        for rows in (x, x.repeat(4, 1, 1)):
            torch.testing.assert_close(cached(rows, level), module(rows, level), rtol=0, atol=1e-5)
        assert cached.computed == 2 * TOKENS, call


def test_full_attention_is_refused() -> None:
    with pytest.raises(PgdiffError, match="`attention` 'causal' or 'window'"):
        CachedCalls(network("causal", attention="full"))
