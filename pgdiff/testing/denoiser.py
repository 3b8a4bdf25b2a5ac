"""What a denoiser must satisfy."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pgdiff.denoisers import DenoiserConfig
from pgdiff.pretrained import seeded_torch
from pgdiff.testing.laws import called, check_config, demand, distance, private_random
from pgdiff.validation import PgdiffError, check_positive_int

DOUBLE = torch.float64
BATCH = 3

CLOSE = 1e-9
"""Largest relative difference, in float64, of what must be equal up to rounding."""

SEEN = 1e-7
"""Least relative difference, in float64, of what must differ."""

SINGLE = 1e-3
"""Largest relative difference of float32 from float64."""


def check_denoiser(
    config: DenoiserConfig,
    *,
    features: int = 3,
    tokens: int = 8,
    condition: int = 2,
    causal: bool = False,
) -> dict[str, float]:
    """Refuse a network that would train or sample wrongly.

    Its description must be registered and come back from its configuration; `build` must be
    reproducible, and the network must

    - give `[batch, tokens, outputs]`, finite at every level in [0, 1], in both precisions, and
      leave its inputs as they are;
    - in evaluation mode, be the same function of its inputs at every call;
    - treat the rows of a batch apart, in training too, and levels of batch 1 as if repeated;
    - hear every token's own level, and the condition if it is built with one;
    - pass gradients to its input and to every parameter;
    - be the same after its weights are loaded into another;
    - take any number of tokens, or refuse it in `check_tokens` of its description.

    Weights are moved before the tests, because a network that starts as zero hides its faults.

    Args:
        config: description of the network, of any size; a small one is quick.
        features: size of a token.
        tokens: number of tokens, at least 3.
        condition: size of the condition; 0 for a network that knows none.
        causal: whether later tokens must leave earlier outputs alone.

    Returns:
        The number of parameters, and how far float32 is from float64.

    Raises:
        PgdiffError: the first law that does not hold, with its figure and the mend.
    """
    check_positive_int("features", features)
    check_positive_int("tokens", tokens, minimum=3)
    check_positive_int("condition", condition, minimum=0)
    name = called(config, "denoiser")
    demand(
        isinstance(config, DenoiserConfig) and not isinstance(config, type),
        f"{name} must be a description with a method build(features=, outputs=, condition=). "
        f"Got {config!r}.",
    )
    check_config("denoiser", config, name)
    if hasattr(config, "check_tokens"):
        config.check_tokens(tokens)
    figures: dict[str, float] = {}
    for size in (0, condition) if condition else (0,):
        trial = _Trial(config, name, features=features, tokens=tokens, condition=size)
        for law in (
            _check_shapes,
            _check_repeats,
            _check_precision,
            _check_rows,
            _check_levels,
            _check_gradients,
            _check_weights,
            _check_lengths,
        ):
            law(trial)
        if causal:
            _check_causal(trial)
        if size == 0:
            figures["parameters"] = float(sum(p.numel() for p in trial.network.parameters()))
            figures["float32"] = trial.single
    check_config("denoiser", config, name)
    return figures


@dataclass
class _Trial:
    """A network with moved weights, in float64 and evaluation mode, and inputs for it."""

    config: Any
    name: str
    features: int
    tokens: int
    condition: int
    single: float = 0.0

    def __post_init__(self) -> None:
        self.outputs = self.features + 2
        self.network = self.build(self.outputs).double()
        self.x, self.level, self.told = self.inputs(self.tokens)

    def build(self, outputs: int | None, *, seed: int = 0) -> nn.Module:
        """A network whose weights are moved: all of them, so that none is zero."""
        sizes: dict[str, Any] = {"features": self.features, "outputs": outputs}
        if self.condition:
            sizes["condition"] = self.condition
        with seeded_torch(seed=seed):
            try:
                network = self.config.build(**sizes)
            except TypeError as error:
                raise PgdiffError(
                    f"{self.name} must have build(features=, outputs=, condition=). Got: {error}. "
                    "Check a network that knows no condition with condition=0."
                ) from error
        demand(
            isinstance(network, nn.Module),
            f"{self.name} must build a torch.nn.Module. Got a {type(network).__name__}.",
        )
        source = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
                noise = torch.randn(parameter.shape, generator=source)
                parameter.add_(0.5 / fan_in**0.5 * noise.to(parameter))
        made: nn.Module = network.eval()
        return made

    def inputs(self, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy tokens, their levels, and a condition."""
        source = torch.Generator().manual_seed(1)
        x = torch.randn(BATCH, tokens, self.features, generator=source, dtype=DOUBLE)
        level = 0.05 + 0.9 * torch.rand(BATCH, tokens, generator=source, dtype=DOUBLE)
        return x, level, torch.randn(BATCH, self.condition, generator=source, dtype=DOUBLE)

    def call(
        self,
        x: Tensor | None = None,
        level: Tensor | None = None,
        told: Tensor | None = None,
        *,
        network: nn.Module | None = None,
    ) -> Tensor:
        """Output at these inputs, or at the trial's own."""
        x = self.x if x is None else x
        level = self.level if level is None else level
        told = self.told if told is None else told
        made: Tensor = (network or self.network)(x, level, *([told] if self.condition else []))
        return made


@torch.no_grad()
def _check_shapes(trial: _Trial) -> None:
    name = trial.name
    for outputs in (None, trial.outputs):
        single = trial.build(outputs)
        told = trial.told.float()
        try:
            out = trial.call(trial.x.float(), trial.level.float(), told, network=single)
            double = trial.call(network=copy.deepcopy(single).double())
        except (RuntimeError, TypeError) as error:
            raise PgdiffError(
                f"{name} must be callable as network(x, level{', condition' * bool(told.numel())})"
                f" in float32, and in float64 after network.double(). Got: {error}. Keep tensors "
                "as buffers, and make new ones with the dtype and device of `x`."
            ) from error
        shape = [BATCH, trial.tokens, trial.features if outputs is None else outputs]
        for got, dtype in ((out, torch.float32), (double, DOUBLE)):
            demand(
                isinstance(got, Tensor) and list(got.shape) == shape and got.dtype == dtype,
                f"{name} must give outputs {shape} of {dtype} for outputs={outputs}. Got "
                f"{list(got.shape)} of {got.dtype}."
                if isinstance(got, Tensor)
                else f"{name} must give a tensor. Got a {type(got).__name__}.",
            )
    for value in (0.0, 1e-6, 1.0):
        finite = bool(torch.isfinite(trial.call(level=torch.full_like(trial.level, value))).all())
        demand(finite, f"{name} must be finite at every level. Got NaN or Inf at level {value}.")


@torch.no_grad()
def _check_repeats(trial: _Trial) -> None:
    x, level, told = trial.x.clone(), trial.level.clone(), trial.told.clone()
    with private_random(trial.name):
        first = trial.call(x, level, told)
        for what, after, before in (
            ("x", x, trial.x),
            ("level", level, trial.level),
            ("condition", told, trial.told),
        ):
            demand(
                torch.equal(after, before),
                f"{trial.name} must not change its inputs. Got another `{what}` after a call: "
                "make a new tensor in place of writing into it.",
            )
        off = distance(trial.call(), first)
    demand(
        off == 0,
        f"{trial.name} must give the same at every call in evaluation mode. Got outputs that are "
        f"{off:.3g} apart.",
    )


@torch.no_grad()
def _check_precision(trial: _Trial) -> None:
    network = copy.deepcopy(trial.network).float()
    out = trial.call(trial.x.float(), trial.level.float(), trial.told.float(), network=network)
    trial.single = distance(out.double(), trial.call())
    demand(
        trial.single < SINGLE,
        f"{trial.name} must give about the same in float32 and float64. Got a relative difference "
        f"of {trial.single:.3g}.",
    )


@torch.no_grad()
def _check_rows(trial: _Trial) -> None:
    out, order = trial.call(), [2, 0, 1]
    alone = trial.call(trial.x[1:2], trial.level[1:2], trial.told[1:2])
    mixed = trial.call(trial.x[order], trial.level[order], trial.told[order])
    off = max(distance(alone, out[1:2]), distance(mixed, out[order]))
    other = [input.clone() for input in (trial.x, trial.level, trial.told)]
    for input in other:
        input[0] = 0.5 * input[0] + 0.2
    training = copy.deepcopy(trial.network).train()
    seen = []
    for inputs in ((None, None, None), other):
        with seeded_torch(seed=0):  # the same units are dropped out
            seen.append(trial.call(*inputs, network=training)[1:])
    off = max(off, distance(*seen))
    demand(
        off < CLOSE,
        f"{trial.name} must treat the rows of a batch apart. Got outputs of one row that change by "
        f"{off:.3g} with what is beside it: use layer or group norm in place of batch norm, and "
        "reshape with care.",
    )
    for one, what in (((None, trial.level[:1], None), "level"), ((None, None, trial.told[:1]), "")):
        given = [None if input is None else input.expand(BATCH, -1) for input in one]
        off = distance(trial.call(*one), trial.call(*given))
        demand(
            off < CLOSE,
            f"{trial.name} must take a {what or 'condition'} of batch 1 for all rows alike. Got "
            f"outputs that are {off:.3g} from those where it is repeated.",
        )


@torch.no_grad()
def _check_levels(trial: _Trial) -> None:
    name, out = trial.name, trial.call()
    for token in range(trial.tokens):
        level = trial.level.clone()
        level[:, token] = 1 - level[:, token] / 2
        moved = distance(trial.call(level=level)[:, token], out[:, token])
        demand(
            moved > SEEN,
            f"{name} must hear every token's own level. Got an output of token {token} that moves "
            f"by {moved:.3g} with it: embed the level of every token, `[batch or 1, tokens]`.",
        )
    level = trial.level.clone()
    level[:, 0], level[:, 1] = trial.level[:, 1], trial.level[:, 0]
    moved = distance(trial.call(level=level), out)
    demand(
        moved > SEEN,
        f"{name} must know which token has which level. Got outputs that move by {moved:.3g} when "
        "two tokens' levels are swapped: embed the level of every token, not their mean.",
    )
    if trial.condition:
        moved = distance(trial.call(told=trial.told + 1), out)
        demand(
            moved > SEEN,
            f"{name} must hear its condition. Got outputs that move by {moved:.3g} with it.",
        )


def _check_gradients(trial: _Trial) -> None:
    x = trial.x.clone().requires_grad_(True)
    network = copy.deepcopy(trial.network).requires_grad_(True)
    with seeded_torch(seed=0):
        out = trial.call(x, network=network.train())
    demand(
        out.requires_grad,
        f"{trial.name} must be differentiable. Got an output that is detached: leave torch.no_grad "
        "and .detach() out of its forward.",
    )
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    inputs = {"x": x, **dict(network.named_parameters())}
    grads = torch.autograd.grad((out * weight).sum(), list(inputs.values()), allow_unused=True)
    reached = dict(zip(inputs, grads, strict=True))
    lost = [key for key, grad in reached.items() if grad is None or not bool((grad != 0).any())]
    demand(
        not lost,
        f"{trial.name} must pass gradients to its input and to every parameter. Got none at "
        f"{', '.join(f'`{key}`' for key in lost)}: use it in the output, or leave it out.",
    )
    bad = [key for key, g in reached.items() if g is not None and not torch.isfinite(g).all()]
    demand(not bad, f"{trial.name} must have finite gradients. Got NaN or Inf at {bad}.")


@torch.no_grad()
def _check_weights(trial: _Trial) -> None:
    first, second = (trial.build(trial.outputs).state_dict() for _ in range(2))
    same = first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    demand(
        same,
        f"{trial.name} must build the same weights from the same seed of torch. Got others: draw "
        "first weights by torch's own initialisers.",
    )
    other = trial.build(trial.outputs, seed=1).double()
    try:
        other.load_state_dict(trial.network.state_dict())
    except RuntimeError as error:
        raise PgdiffError(
            f"{trial.name} must load the weights of another build. Got: {error}."
        ) from error
    off = distance(trial.call(network=other), trial.call())
    demand(
        off == 0,
        f"{trial.name} must be the same function after its weights are loaded into another build. "
        f"Got outputs that are {off:.3g} apart: keep what is random or learned in parameters and "
        "persistent buffers.",
    )


@torch.no_grad()
def _check_lengths(trial: _Trial) -> None:
    for tokens in (1, 2, trial.tokens + 1, 2 * trial.tokens):
        if hasattr(trial.config, "check_tokens"):
            try:
                trial.config.check_tokens(tokens)
            except PgdiffError:
                continue
        got: Any
        try:
            got = list(trial.call(*trial.inputs(tokens)).shape)
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            got = f"{type(error).__name__}: {error}"
        demand(
            got == [BATCH, tokens, trial.outputs],
            f"{trial.name} must take any number of tokens, or refuse it by a PgdiffError from a "
            f"method check_tokens(tokens) of its description. Got for {tokens} tokens {got}.",
        )


@torch.no_grad()
def _check_causal(trial: _Trial) -> None:
    out = trial.call()
    for token in range(trial.tokens - 1):
        x, level = trial.x.clone(), trial.level.clone()
        x[:, token + 1 :] += 1.0
        level[:, token + 1 :] *= 0.5
        off = distance(trial.call(x, level)[:, : token + 1], out[:, : token + 1])
        demand(
            off < CLOSE,
            f"{trial.name} must not let later tokens or their levels change earlier outputs. Got a "
            f"change of {off:.3g} up to token {token} from those after it.",
        )
