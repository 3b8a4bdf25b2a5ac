import pytest
import torch

from pgdiff.nn.mlp import mlp


@pytest.mark.parametrize("depth", [1, 3])
def test_depth_is_the_number_of_hidden_layers(depth: int) -> None:
    network = mlp(3, 2, width=8, depth=depth)
    sizes = [(m.in_features, m.out_features) for m in network if isinstance(m, torch.nn.Linear)]
    assert sizes == [(3, 8), *[(8, 8)] * (depth - 1), (8, 2)]
    assert network(torch.zeros(4, 5, 3)).shape == (4, 5, 2)


def test_learns_a_product() -> None:
    torch.manual_seed(0)
    network = mlp(2, 1, width=32, depth=2)
    x = torch.rand(512, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = x.prod(dim=1, keepdim=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(200):
        loss = (network(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.01 * float(y.var())


def test_layer_norm_keeps_far_inputs_from_running_away() -> None:
    torch.manual_seed(0)
    network = mlp(2, 1, width=32, depth=2)
    near, far = torch.randn(64, 2), 1e6 * torch.randn(64, 2)
    assert network(far).abs().max() < 20 * network(near).abs().max()
