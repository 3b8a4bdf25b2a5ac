"""Batched networks against separate networks of PyTorch."""

import pytest
import torch
from torch import nn

from pgdiff.agents.offline import slice_member, stack_members
from pgdiff.core.pretrained import seeded_torch
from pgdiff.core.validation import PgdiffError
from pgdiff.nn.mlp import BatchedMLP


def plain(seed: int) -> nn.Sequential:
    with seeded_torch(seed=seed):
        layers = [nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)]
    return nn.Sequential(*layers)


def batched(members: int, *, seed: int) -> BatchedMLP:
    with seeded_torch(seed=seed):
        return BatchedMLP(members, 3, 2, width=8, depth=2)


def four() -> BatchedMLP:
    """Return four members with the seeds 5 to 8."""
    network = batched(4, seed=0)
    network.load_state_dict(stack_members([batched(1, seed=5 + i).state_dict() for i in range(4)]))
    return network


def inputs(members: int, *, batch: int = 7) -> torch.Tensor:
    return torch.randn(members, batch, 3, generator=torch.Generator().manual_seed(1))


def test_a_member_is_the_plain_network_of_its_seed() -> None:
    x = inputs(4)
    out = four()(x)
    assert out.shape == (4, 7, 2)
    for i in range(4):
        torch.testing.assert_close(out[i], plain(5 + i)(x[i]), rtol=1e-6, atol=1e-6)


def test_members_of_one_network_are_made_one_after_the_other() -> None:
    with seeded_torch(seed=3):
        stacks = [[nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)] for _ in range(2)]
    network = batched(2, seed=3)
    for i, stack in enumerate(stacks):
        for linear, weight, bias in zip(stack, network.weights, network.biases, strict=True):
            assert torch.equal(weight[i], linear.weight.T)
            assert torch.equal(bias[i, 0], linear.bias)
    assert not torch.equal(network.weights[0][0], network.weights[0][1])


def test_gradients_are_those_of_the_plain_networks() -> None:
    x, network = inputs(4), four()
    given = x.clone().requires_grad_(True)
    network(given).square().sum().backward()
    for i in range(4):
        single, alone = x[i].clone().requires_grad_(True), plain(5 + i)
        alone(single).square().sum().backward()
        torch.testing.assert_close(given.grad[i], single.grad)
        for number, linear in enumerate([alone[0], alone[2], alone[4]]):
            torch.testing.assert_close(network.weights[number].grad[i], linear.weight.grad.T)
            torch.testing.assert_close(network.biases[number].grad[i, 0], linear.bias.grad)


def test_some_of_the_members_alone() -> None:
    x, network = inputs(4), four()
    out = network(x)
    for chosen in (slice(1), slice(None, None, 2), slice(2, 4)):
        torch.testing.assert_close(network(x[chosen], members=chosen), out[chosen])


def test_frozen_weights_get_no_gradient_and_inputs_do() -> None:
    x, network = inputs(4), four()
    reference = x.clone().requires_grad_(True)
    network(reference).sum().backward()
    network.zero_grad()
    given = x.clone().requires_grad_(True)
    network(given, frozen=True).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())
    torch.testing.assert_close(given.grad, reference.grad)


def test_taking_a_member_undoes_joining() -> None:
    states = [{**batched(2, seed=i).state_dict(), "count": torch.tensor(i)} for i in range(3)]
    together = stack_members(states)
    for i in range(3):
        back = slice_member(together, i, members=3)
        for name, value in states[i].items():
            expected = torch.tensor(0) if name == "count" else value
            assert torch.equal(back[name], expected), name
    back["count"] += 1  # a copy
    assert together["count"] == 0


@pytest.mark.parametrize("name", ["members", "width", "depth"])
def test_bad_sizes_are_named(name: str) -> None:
    sizes = {"members": 1, "width": 8, "depth": 2} | {name: 0}
    with pytest.raises(PgdiffError, match=rf"`{name}` must be an integer of at least 1"):
        BatchedMLP(sizes["members"], 3, 2, width=sizes["width"], depth=sizes["depth"])
