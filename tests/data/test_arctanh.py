"""Actions through arctanh: bounds, inverse, slope; flags at -1 and 1."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from pgdiff import PgdiffError
from pgdiff.core.registry import from_config, to_config
from pgdiff.data import ArctanhNormalizer, fit_tokens

KINDS = ("standard", "limits", "arctanh")


def parts(rows: int = 4000) -> list[Any]:
    source = np.random.default_rng(0)
    observations = source.normal(3, 2, (rows, 2)).astype(np.float32)
    actions = np.tanh(source.normal(0.3, 0.7, (rows, 3))).astype(np.float32) * 2
    actions[0], actions[1] = -2, 2
    return [
        ("observations", observations, 1),
        ("action_chunks", actions, 2),
        ("terminals", source.random((rows, 1)) < 0.01, 1),
    ]


def tokens(given: list[Any]) -> torch.Tensor:
    return torch.cat(
        [torch.as_tensor(values).float().repeat(1, count) for _, values, count in given], dim=1
    )


def test_fitted_tokens_are_standard_and_flags_are_signs() -> None:
    given = parts()
    x = tokens(given)
    z = fit_tokens("arctanh", given).normalize(x)
    assert z[:, :8].mean(dim=0).abs().max() < 1e-4
    assert (z[:, :8].std(dim=0) - 1).abs().max() < 1e-3
    assert torch.equal(z[:, 8], 2 * x[:, 8] - 1)


def test_unnormalize_is_the_inverse() -> None:
    given = parts()
    x = tokens(given).double()
    inside = (x[:, 2:8].abs() < 2 * 0.999).all(dim=1)
    for kind in KINDS:
        normalizer = fit_tokens(kind, given)
        back = normalizer.unnormalize(normalizer.normalize(x))
        assert (back - x)[inside].abs().max() < 1e-5
        # At the bounds, only the clipping to the limit of arctanh is lost.
        assert (back - x).abs().max() < 2 * 1.1e-3


def test_whatever_is_sampled_lies_within_the_bounds() -> None:
    given = parts()
    raw = fit_tokens("arctanh", given).unnormalize(1e3 * torch.randn(500, 9))
    assert raw[:, 2:8].abs().max() <= 2
    assert raw[:, :2].abs().max() > 100


def test_the_slope_is_that_of_finite_differences() -> None:
    given = parts()
    x = tokens(given).double()
    x = x[(x[:, 2:8].abs() < 1.9).all(dim=1)][:50]
    step = 1e-6
    for kind in KINDS:
        normalizer = fit_tokens(kind, given)
        slope = normalizer.log_slope(x).exp()
        expected = (normalizer.normalize(x + step) - normalizer.normalize(x - step)) / (2 * step)
        assert (slope / expected - 1).abs().max() < 1e-6


def test_it_is_read_back_as_it_was_written() -> None:
    normalizer = fit_tokens("arctanh", parts())
    read = from_config("normalizer", json.loads(json.dumps(to_config(normalizer))))
    x = torch.randn(5, 9)
    assert torch.equal(read.unnormalize(x), normalizer.unnormalize(x))


def test_what_is_out_of_range_is_named() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"limit": 1.0}, "`limit` must be"),
        ({"low": torch.zeros(1)}, "`low` must be 2 finite numbers"),
        ({"high": torch.tensor([0.0, float("nan")])}, "`high` must be 2 finite numbers"),
        ({"low": torch.tensor([1.0, 0.0]), "high": torch.zeros(2)}, "`low` must be at most `high`"),
    ]
    for settings, message in cases:
        with pytest.raises(PgdiffError, match=message):
            ArctanhNormalizer(torch.zeros(2), torch.ones(2), **settings)
