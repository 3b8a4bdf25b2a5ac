"""Plain networks of fully connected layers, shared by values and inverse dynamics."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.core.validation import check_positive_int


def mlp(inputs: int, outputs: int, *, width: int, depth: int) -> nn.Sequential:
    """Return fully connected layers with layer norm and SiLU: `depth` hidden layers of `width`.

    Layer norm prevents values learned by temporal differences from diverging where data are sparse
    (Ball et al. 2023, section 4.2).

    Example:
        >>> import torch
        >>> mlp(3, 2, width=8, depth=1)(torch.zeros(4, 3)).shape
        torch.Size([4, 2])
    """
    check_positive_int("width", width)
    check_positive_int("depth", depth)
    layers: list[nn.Module] = []
    size = inputs
    for _ in range(depth):
        layers += [nn.Linear(size, width), nn.LayerNorm(width), nn.SiLU()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, outputs))


class BatchedMLP(nn.Module):
    """An ensemble of `members` networks of `depth` hidden layers of `width` with ReLU.

    A layer of all members is one batched product (`torch.baddbmm`) of weights `[members, in, out]`,
    since small networks are limited by the number of calls, not by arithmetic. The first weights
    equal those of separate stacks of `torch.nn.Linear` that are created one after the other.

    Args:
        members: number of networks.
        inputs: features of an input.
        outputs: features of an output.
        width: width of the hidden layers.
        depth: number of hidden layers.

    Example:
        >>> import torch
        >>> BatchedMLP(5, 3, 2, width=8, depth=1)(torch.zeros(5, 4, 3)).shape
        torch.Size([5, 4, 2])
    """

    def __init__(self, members: int, inputs: int, outputs: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.members = check_positive_int("members", members)
        check_positive_int("width", width)
        check_positive_int("depth", depth)
        sizes = [inputs, *[width] * depth, outputs]
        stacks = [[nn.Linear(*pair) for pair in pairwise(sizes)] for _ in range(members)]
        layers = list(zip(*stacks, strict=True))
        self.weights = nn.ParameterList(
            torch.stack([linear.weight.detach().T for linear in layer]) for layer in layers
        )
        self.biases = nn.ParameterList(
            torch.stack([linear.bias.detach()[None] for linear in layer]) for layer in layers
        )

    def forward(
        self,
        x: Float[Tensor, "members batch inputs"],
        *,
        members: slice | None = None,
        frozen: bool = False,
    ) -> Float[Tensor, "members batch outputs"]:
        """Apply each network to its batch.

        Args:
            x: inputs, one batch for each network.
            members: networks to apply; all if None.
            frozen: if True, gradients reach the inputs but not the weights.
        """
        layers = list(zip(self.weights, self.biases, strict=True))
        for number, (weight, bias) in enumerate(layers, start=1):
            if frozen:
                weight, bias = weight.detach(), bias.detach()
            if members is not None:
                weight, bias = weight[members], bias[members]
            x = torch.baddbmm(bias, x, weight)
            if number < len(layers):
                x = x.relu_()  # in place, since baddbmm does not save its result
        return x
