import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pgdiff.training.ema import AveragedLearner
from pgdiff.training.learning_rate import (
    TRAIN,
    VALIDATION,
    learning_rate_at,
    numpy_generator,
    torch_generator,
    torch_seed,
)


def test_learning_rate_by_hand() -> None:
    rates = [learning_rate_at(i, steps=10, peak=2.0, warmup=2) for i in range(11)]
    assert rates[:3] == pytest.approx([1.0, 2.0, 2.0])
    assert rates[6] == pytest.approx(1.0)  # half way down the cosine
    assert rates[4] == pytest.approx(1.0 + math.cos(math.pi / 4))
    assert rates[10] == pytest.approx(0.0)
    assert learning_rate_at(0, steps=1, peak=2.0, warmup=0) == 2.0


@given(st.integers(1, 500), st.integers(0, 50))
def test_learning_rate_rises_then_falls_within_its_bounds(steps: int, warmup: int) -> None:
    warmup = min(warmup, steps // 10)
    rates = [learning_rate_at(i, steps=steps, peak=1.0, warmup=warmup) for i in range(steps)]
    assert all(0.0 < rate <= 1.0 for rate in rates)
    up, down = rates[: warmup + 1], rates[warmup:]
    assert up == sorted(up) and down == sorted(down, reverse=True)


def test_streams_differ_by_seed_step_and_stream() -> None:
    cases = [(s, i, k) for s in (0, 1, 2**40) for i in (0, 1, 2) for k in (TRAIN, VALIDATION)]
    assert len({torch_seed(*case) for case in cases}) == len(cases)
    assert len({int(numpy_generator(*case).integers(2**62)) for case in cases}) == len(cases)
    device = torch.device("cpu")
    first, again = (torch.randn(4, generator=torch_generator(3, 7, 0, device)) for _ in range(2))
    assert torch.equal(first, again)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.target = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.whole = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
        self.register_buffer("count", torch.tensor(0))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_average_equals_the_recursion_by_hand(decay: float) -> None:
    net = Net()
    ema = AveragedLearner(net, decay=decay)
    expected = torch.zeros(2, dtype=torch.float64)
    for n in range(30):
        with torch.no_grad():
            net.weight += torch.tensor([1.0, -0.5])
            net.target += 0.3
            net.whole += 1
            net.count += 1
        ema.update_parameters(net)
        d = 0.0 if n == 0 else min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * net.weight.detach()
        torch.testing.assert_close(ema.module.weight, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(ema.module.target, net.target)
        assert torch.equal(ema.module.whole, net.whole)
        assert ema.module.count == n + 1
    assert not ema.module.training and not any(p.requires_grad for p in ema.parameters())
    assert net.weight.requires_grad
