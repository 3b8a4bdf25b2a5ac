"""A plain network of fully connected layers, shared by values and inverse dynamics."""

from torch import nn

from pgdiff.validation import check_positive_int


def mlp(inputs: int, outputs: int, *, width: int, depth: int) -> nn.Sequential:
    """Fully connected layers with layer norm and SiLU: `depth` hidden layers of `width`.

    Layer norm keeps values learned by temporal differences from running away where data are thin
    (Ball et al. 2023, section 4.2).
    """
    check_positive_int("width", width)
    check_positive_int("depth", depth)
    layers: list[nn.Module] = []
    size = inputs
    for _ in range(depth):
        layers += [nn.Linear(size, width), nn.LayerNorm(width), nn.SiLU()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, outputs))
