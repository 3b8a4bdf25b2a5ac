"""Every denoiser of the package passes, and every kind of fault raises a clear error."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pgdiff.denoisers  # noqa: F401, registers them
from pgdiff.core.context import Context
from pgdiff.core.registry import register, registered
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import DenoiserSpec, TransformerConfig
from pgdiff.testing import check_denoiser

pytestmark = pytest.mark.usefixtures("unchecked", "own_registry")

# Small sizes where the default is large; a new denoiser is tested with its own defaults.
SMALL: dict[str, dict[str, Any]] = {
    "transformer": {"width": 16, "depth": 2, "heads": 2},
    "temporal_unet": {"width": 8, "mults": (1, 2, 4), "groups": 4},
    "residual_mlp": {"width": 16, "depth": 2, "embedding": 8},
}
OURS = {
    name: cls
    for name, cls in registered("denoiser").items()
    if cls.__module__.startswith("pgdiff.")
}


@pytest.mark.parametrize("name", OURS)
def test_ours_pass(name: str) -> None:
    figures = check_denoiser(OURS[name](**SMALL.get(name, {})))
    print(f"\n{name}: {figures}")
    assert figures["parameters"] > 0 and 0 < figures["float32"] < 1e-3


@pytest.mark.parametrize("attention", ["causal", "window"])
def test_causal_attention_is_causal(attention: Any) -> None:
    window = 3 if attention == "window" else None
    config = TransformerConfig(**SMALL["transformer"], attention=attention, window=window)
    check_denoiser(config, causal=True)


def test_full_attention_is_not() -> None:
    with pytest.raises(
        PgdiffError, match=r"'transformer' must have outputs that do not depend on later"
    ):
        check_denoiser(TransformerConfig(**SMALL["transformer"]), causal=True)


# ------------------------------------------------------------------------------------------- faults


class Net(nn.Module):
    """A sound network of one hidden layer for every token; faults are made by `spoil`."""

    def __init__(self, features: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features + 1 + condition, 16)
        self.out = nn.Linear(16, outputs)
        nn.init.zeros_(self.out.weight)

    def seen(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        batch, tokens, _ = x.shape
        every = [x, level.expand(batch, tokens)[..., None]]
        if context is not None and context.vector is not None:
            every.append(context.vector[:, None].expand(batch, tokens, -1))
        return torch.cat(every, dim=-1)

    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        return self.out(torch.tanh(self.hidden(self.seen(x, level, context))))


def config_of(net: type[Net], name: str) -> Any:
    @register("denoiser", f"broken_{name}")
    @dataclass(frozen=True)
    class Config:
        def build(self, spec: DenoiserSpec) -> nn.Module:
            return net(spec.features, spec.outputs, spec.vector_size)

    Config.__qualname__ = f"Config_{name}"
    return Config()


def test_a_sound_network_passes() -> None:
    check_denoiser(config_of(Net, "not"))


class BatchNorm(Net):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        hidden = self.hidden(self.seen(x, level, context))
        return self.out(torch.tanh(self.norm(hidden.transpose(1, 2)).transpose(1, 2)))


class FirstLevel(Net):
    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        return super().forward(x, level[:, :1].expand_as(level), context)


class MeanLevel(Net):
    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        mean = level.mean(dim=1, keepdim=True).expand_as(level)
        return super().forward(x, mean, context)


class DeafToLevels(Net):
    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        return super().forward(x, torch.zeros_like(level), context)


class DeafToCondition(Net):
    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        return super().forward(x, level, None if context is None else context.drop())


class InPlace(Net):
    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        out = super().forward(x, level, context)
        with torch.no_grad():
            x.data.mul_(2)
        return out


class Random(Net):
    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        return super().forward(x, level, context) + 0.1 * torch.randn_like(x[..., :1])


class AlwaysDrops(Net):
    source = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        kept = torch.rand(x.shape, generator=self.source) > 0.5
        return super().forward(x * kept, level, context)


class FourierTable(Net):
    """Random frequencies that no state_dict holds."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.register_buffer("rates", torch.randn(()) + 2, persistent=False)

    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        return super().forward(x, torch.sin(self.rates * level), context)


class PlainTensor(Net):
    """A tensor that moves neither with .to nor with .double."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.mix = torch.eye(16)

    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        return self.out(torch.tanh(self.hidden(self.seen(x, level, context)) @ self.mix))


class NumpyWeights(Net):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        start = np.random.default_rng().normal(size=self.hidden.weight.shape)
        self.hidden.weight.data = torch.from_numpy(start).float()


class Unused(Net):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.spare = nn.Linear(2, 2)


class Detached(Net):
    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        return super().forward(x, level, context).detach()


class DetachedInput(Net):
    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        return super().forward(x.detach(), level, context)


class OfOneLength(Net):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.place = nn.Parameter(torch.zeros(8, 1))

    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        return super().forward(x + self.place, level, context)


class RowsOfLevels(Net):
    def seen(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        # A batch of 1 is used as the first row only.
        full = torch.zeros(x.shape[:2], dtype=x.dtype)
        full[: len(level)] = level
        return super().seen(x, full, context)


class LogLevel(Net):
    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        return super().forward(x, level, context) + level.log()[..., None]


class AsFeatures(Net):
    def __init__(self, features: int, outputs: int, condition: int) -> None:
        super().__init__(features, features, condition)


class MixesRows(Net):
    """Reshapes where it should have transposed."""

    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        batch, tokens, features = x.shape
        return super().forward(x.reshape(tokens, batch, features).transpose(0, 1), level, context)


class SaysCausal(Net):
    causal = True

    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        return super().forward(x, level, context) + x.mean(dim=(1, 2), keepdim=True)


class Double(Net):
    def forward(self, x: Tensor, level: Tensor, context: Context | None = None) -> Tensor:
        return super().forward(x, level, context).float()


FAULTS: list[tuple[type[Net], str]] = [
    (BatchNorm, "must compute the rows of a batch independently.*instead of batch norm"),
    (MixesRows, "must compute the rows of a batch independently"),
    (FirstLevel, "must depend on every token's level. Got an output of token 1"),
    (DeafToLevels, "must depend on every token's level. Got an output of token 0"),
    (MeanLevel, "must depend on the order of the levels"),
    (DeafToCondition, "must depend on its condition"),
    (InPlace, "must not change its inputs. Got another `x`"),
    (Random, "must not change torch's global random state"),
    (AlwaysDrops, "must give equal outputs at every call"),
    (FourierTable, "after its weights are loaded into another build"),
    (PlainTensor, "in float64 after network.double"),
    (NumpyWeights, "must build equal weights from equal seeds"),
    (Unused, "gradients to its input and to every parameter. Got none at `spare.weight`, `spare.b"),
    (Detached, "must be differentiable"),
    (DetachedInput, "must pass gradients to its input.* Got none at `x`"),
    (OfOneLength, "must accept any number of tokens.* Got .* for 1 tokens"),
    (RowsOfLevels, "must apply a level of batch 1 to all rows"),
    (LogLevel, "must be finite at every level. Got NaN or Inf at level 0.0"),
    (AsFeatures, r"must return outputs \[3, 8, 5\] of torch.float32 .* Got \[3, 8, 3\]"),
    (SaysCausal, "must have outputs that do not depend on later tokens"),
    (Double, "must return outputs .* of torch.float64"),
]


def test_a_broken_network_is_caught() -> None:
    for net, message in FAULTS:
        with pytest.raises(PgdiffError, match=message) as caught:
            check_denoiser(config_of(net, net.__name__))
        print(f"\n{caught.value}")


def test_a_length_may_be_refused() -> None:
    @register("denoiser", "broken_not_8")
    @dataclass(frozen=True)
    class OnlyEight:
        def build(self, spec: DenoiserSpec) -> nn.Module:
            return OfOneLength(spec.features, spec.outputs, spec.vector_size)

        def check_tokens(self, tokens: int) -> None:
            if tokens not in (1, 8):
                raise PgdiffError(f"The number of tokens must be 8. Got {tokens}.")

    # One token is broadcast to eight places, which the check finds.
    with pytest.raises(PgdiffError, match=r"Got \[3, 8, 5\] for 1 tokens"):
        check_denoiser(OnlyEight())
    with pytest.raises(PgdiffError, match=r"tokens must be 8\. Got 12"):
        check_denoiser(OnlyEight(), tokens=12)


@dataclass(frozen=True)
class NoCondition:
    def build(self, spec: DenoiserSpec) -> nn.Module:
        return Net(spec.features, spec.outputs, 0)


def test_a_network_without_a_condition_is_checked_without() -> None:
    register("denoiser", "broken_no_condition")(NoCondition)
    check_denoiser(NoCondition(), condition=0)
    with pytest.raises(PgdiffError, match="without a condition with condition=0"):
        check_denoiser(NoCondition())


class NotRegistered(NoCondition):
    pass


@dataclass(frozen=True)
class NoModule:
    def build(self, spec: DenoiserSpec) -> Any:
        return lambda x, level: x


@dataclass(frozen=True)
class OldBuild:
    def build(self, *, features: int, outputs: int | None = None) -> nn.Module:
        return Net(features, features if outputs is None else outputs, 0)


@dataclass
class WithList:
    callback: Callable[[], None] = print

    def build(self, spec: DenoiserSpec) -> Any:
        return Net(spec.features, spec.features, spec.vector_size)


def test_a_broken_description_is_caught() -> None:
    for config, message in [
        (NotRegistered(), "NotRegistered is not registered"),
        (NoModule(), "must build a torch.nn.Module. Got a function"),
        (OldBuild(), r"must have build\(spec\). Got: .*positional"),
        (WithList(), "`broken_list.callback` must be a JSON value"),
        (TransformerConfig, "must be a configuration with a method build"),
        (nn.Linear(1, 1), "must be a configuration with a method build"),
    ]:
        register("denoiser", "broken_no_module")(NoModule)
        register("denoiser", "broken_list")(WithList)
        register("denoiser", "broken_old_build")(OldBuild)
        with pytest.raises(PgdiffError, match=message):
            check_denoiser(config)


def test_bad_sizes_are_named() -> None:
    for name, value in (("features", 0), ("tokens", 2), ("condition", -1)):
        with pytest.raises(PgdiffError, match=f"`{name}` must be an integer of at least"):
            check_denoiser(TransformerConfig(**SMALL["transformer"]), **{name: value})
