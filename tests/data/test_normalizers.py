"""Normalisers: ranges, inverses, constant features."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgdiff.core.registry import from_config, registered, to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.data import LimitsNormalizer, StandardNormalizer, fit_normalizer

KINDS = sorted(registered("normalizer"))


@pytest.fixture
def x() -> np.ndarray:
    generator = np.random.default_rng(0)
    return (generator.normal(size=(500, 4)) * [1e-3, 1, 50, 1e6] + [0, 5, -300, 1e8]).astype("f4")


def test_limits_reach_from_minus_one_to_one(x) -> None:
    y = LimitsNormalizer.fit(x).normalize(torch.from_numpy(x))
    torch.testing.assert_close(y.min(dim=0).values, -torch.ones(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(y.max(dim=0).values, torch.ones(4), rtol=0, atol=1e-4)


def test_standard_has_mean_zero_and_deviation_one(x) -> None:
    y = StandardNormalizer.fit(x).normalize(torch.from_numpy(x))
    torch.testing.assert_close(y.mean(dim=0), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(y.std(dim=0, correction=0), torch.ones(4), rtol=1e-3, atol=0)


def test_inverse_for_any_shape(x) -> None:
    shapes = product(KINDS, [(4,), (3, 4), (2, 3, 5, 4)], [torch.float32, torch.float64])
    for kind, shape, dtype in shapes:
        fitted = registered("normalizer")[kind].fit(x)
        y = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
        raw = fitted.unnormalize(y)
        assert raw.dtype == dtype and raw.shape == shape
        # With an offset of 100 spreads, float32 keeps five digits of the normalised value.
        torch.testing.assert_close(fitted.normalize(raw), y, rtol=0, atol=1e-4)


@settings(max_examples=40)
@given(value=st.floats(-1e9, 1e9, width=32))
def test_constant_feature_maps_to_zero_and_back(value: float) -> None:
    data = np.stack([np.full(7, value), np.arange(7)], axis=1).astype(np.float32)
    for kind in KINDS:
        fitted = registered("normalizer")[kind].fit(data)
        y = fitted.normalize(torch.from_numpy(data))
        assert (y[:, 0] == 0).all()
        assert (fitted.unnormalize(y)[:, 0].numpy() == data[:, 0]).all()


def test_constant_features_do_not_affect_the_others(x) -> None:
    wide = np.concatenate([x, np.full((500, 1), 7, "f4")], axis=1)
    for kind in KINDS:
        alone, together = (registered("normalizer")[kind].fit(data) for data in (x, wide))
        assert torch.equal(alone.center, together.center[:4])
        assert torch.equal(alone.scale, together.scale[:4])


def test_rounding_noise_is_no_spread() -> None:
    data = np.full((100, 1), 1000.0, "f4")
    data[::2] = np.nextafter(np.float32(1000), np.float32(2000))
    for kind in KINDS:
        assert registered("normalizer")[kind].fit(data).scale.item() == 1.0


def test_gradient_flows(x) -> None:
    y = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    for kind in KINDS:
        fitted = registered("normalizer")[kind].fit(x)
        assert torch.autograd.gradcheck(fitted.unnormalize, y)
        assert torch.autograd.gradcheck(fitted.normalize, y)


def test_saved_and_read_back(x) -> None:
    for kind in KINDS:
        fitted = registered("normalizer")[kind].fit(torch.from_numpy(x))
        again = from_config("normalizer", json.loads(json.dumps(to_config(fitted))))
        assert torch.equal(fitted.center, again.center) and torch.equal(fitted.scale, again.scale)
        assert (type(again), again.features) == (type(fitted), 4)


def test_blocks_are_joined_exactly() -> None:
    data = np.random.default_rng(0).normal(3.0, 2.0, size=(300_000, 1))
    data[:262_144] += 100.0  # the first block lies elsewhere
    fitted = StandardNormalizer.fit(data)
    assert fitted.center.item() == pytest.approx(data.mean(), rel=1e-6)
    assert fitted.scale.item() == pytest.approx(data.std(), rel=1e-6)


def test_bad_input(x) -> None:
    x[41, 2] = np.nan
    one = torch.ones(2)
    for kind in KINDS:
        cls = registered("normalizer")[kind]
        with pytest.raises(PgdiffError, match="row 41"):
            cls.fit(x)
        for bad in (x[:0], x[0]):
            with pytest.raises(PgdiffError, match="`x` must have the shape"):
                cls.fit(bad)
        with pytest.raises(PgdiffError, match="`scale`"):
            from_config("normalizer", {"name": kind, "center": [0.0]})
        for arguments, word in (
            ((one, 0 * one), "positive"),
            ((one / 0, one), "finite"),
            ((one, torch.ones(3)), "same shape"),
        ):
            with pytest.raises(PgdiffError, match=word):
                cls(*arguments)
    with pytest.raises(PgdiffError, match="Did you mean 'limits'"):
        fit_normalizer("limit", [x])
