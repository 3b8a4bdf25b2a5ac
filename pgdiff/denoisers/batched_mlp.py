"""Several fully connected networks of one shape, evaluated as one."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.validation import check_positive_int


class BatchedMLP(nn.Module):
    """`members` networks of `depth` hidden layers of `width` with ReLU, side by side.

    A layer of all members is one batched product (`torch.baddbmm`) of weights
    `[members, in, out]`: small networks are limited by calls, and not by arithmetic. The first
    weights are those that as many stacks of `torch.nn.Linear`, made one after the other, get.

    Args:
        members: number of networks.
        inputs: features of an input.
        outputs: features of an output.
        width: of the hidden layers.
        depth: number of hidden layers.
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
        """Apply each network to its own batch.

        Args:
            x: inputs.
            members: which of the networks; all if None.
            frozen: let no gradient reach the weights; the inputs get theirs.
        """
        layers = list(zip(self.weights, self.biases, strict=True))
        for number, (weight, bias) in enumerate(layers, start=1):
            if frozen:
                weight, bias = weight.detach(), bias.detach()
            if members is not None:
                weight, bias = weight[members], bias[members]
            x = torch.baddbmm(bias, x, weight)
            if number < len(layers):
                x = x.relu_()  # in place: baddbmm does not need its result again
        return x
