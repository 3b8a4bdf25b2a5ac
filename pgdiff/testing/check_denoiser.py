"""A check of denoisers."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pgdiff.core.context import Context
from pgdiff.core.pretrained import seeded_torch
from pgdiff.core.validation import PgdiffError, check_positive_int
from pgdiff.denoisers import DenoiserConfig, DenoiserSpec
from pgdiff.testing.assertions import called, check_config, demand, distance, private_random

DOUBLE = torch.float64
BATCH = 3

CLOSE = 1e-9
"""Largest relative difference, in float64, of outputs that must be equal up to rounding."""

SEEN = 1e-7
"""Smallest relative difference, in float64, of outputs that must differ."""

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
    """Raise if a network would train or sample incorrectly.

    Its configuration must be registered and restorable, `build` must be reproducible, and the
    network must

    - return `[batch, tokens, outputs]`, finite at every level in [0, 1], in both precisions, and
      not change its inputs;
    - be a deterministic function of its inputs in evaluation mode;
    - compute the rows of a batch independently, in training too, and broadcast levels of batch 1;
    - depend on every token's level, and on the condition if it is built with one;
    - pass gradients to its input and to every parameter;
    - give equal outputs after its weights are loaded into another network;
    - accept any number of tokens, or raise in `check_tokens` of its configuration.

    Weights are perturbed before the checks, because a network that starts at zero hides errors.

    Args:
        config: configuration of the network, of any size; small networks are faster.
        features: size of a token.
        tokens: number of tokens, at least 3.
        condition: size of the condition; 0 for a network without one.
        causal: whether earlier outputs must be independent of later tokens; checked in any case
            for networks with a true attribute `causal`.

    Returns:
        The number of parameters, and the relative difference of float32 from float64.

    Raises:
        PgdiffError: the first violated requirement, with a figure and the fix.

    Example:
        >>> from pgdiff.denoisers import TransformerConfig
        >>> from pgdiff.testing import check_denoiser
        >>> figures = check_denoiser(TransformerConfig(width=8, depth=1, heads=2), tokens=4)
        >>> sorted(figures)
        ['float32', 'parameters']
    """
    check_positive_int("features", features)
    check_positive_int("tokens", tokens, minimum=3)
    check_positive_int("condition", condition, minimum=0)
    name = called(config, "denoiser")
    demand(
        isinstance(config, DenoiserConfig) and not isinstance(config, type),
        f"{name} must be a configuration with a method build(spec). Got {config!r}.",
    )
    check_config("denoiser", config, name)
    if hasattr(config, "check_tokens"):
        config.check_tokens(tokens)
    figures: dict[str, float] = {}
    for size in (0, condition) if condition else (0,):
        trial = _Trial(config, name, features=features, tokens=tokens, condition=size)
        for check in (
            _check_shapes,
            _check_repeats,
            _check_precision,
            _check_rows,
            _check_levels,
            _check_gradients,
            _check_weights,
            _check_lengths,
        ):
            check(trial)
        if causal or getattr(trial.network, "causal", False):
            _check_causal(trial)
        if size == 0:
            figures["parameters"] = float(sum(p.numel() for p in trial.network.parameters()))
            figures["float32"] = trial.single
    check_config("denoiser", config, name)
    return figures


@dataclass
class _Trial:
    """A network with perturbed weights, in float64 and evaluation mode, and inputs for it."""

    config: Any
    name: str
    features: int
    tokens: int
    condition: int
    single: float = 0.0

    def __post_init__(self) -> None:
        self.outputs = self.features + 2
        self.network = self.build(self.outputs).double()
        self.x, self.level, self.vector = self.inputs(self.tokens)

    def build(self, outputs: int | None, *, seed: int = 0) -> nn.Module:
        """Return a network whose weights are all perturbed, so that none is zero."""
        context = {"condition": (self.condition,)} if self.condition else {}
        spec = DenoiserSpec(features=self.features, outputs=outputs, context=context)
        with seeded_torch(seed=seed):
            try:
                network = self.config.build(spec)
            except TypeError as error:
                raise PgdiffError(f"{self.name} must have build(spec). Got: {error}.") from error
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
        evaluated: nn.Module = network.eval()
        return evaluated

    def inputs(self, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return noisy tokens, their levels, and a condition vector."""
        source = torch.Generator().manual_seed(1)
        x = torch.randn(BATCH, tokens, self.features, generator=source, dtype=DOUBLE)
        level = 0.05 + 0.9 * torch.rand(BATCH, tokens, generator=source, dtype=DOUBLE)
        return x, level, torch.randn(BATCH, self.condition, generator=source, dtype=DOUBLE)

    def call(
        self,
        x: Tensor | None = None,
        level: Tensor | None = None,
        vector: Tensor | None = None,
        *,
        network: nn.Module | None = None,
    ) -> Tensor:
        """Return the output at these inputs; the inputs of the trial if None."""
        x = self.x if x is None else x
        level = self.level if level is None else level
        vector = self.vector if vector is None else vector
        contexts = [Context.from_vector(vector)] if self.condition else []
        output: Tensor = (network or self.network)(x, level, *contexts)
        return output


@torch.no_grad()
def _check_shapes(trial: _Trial) -> None:
    name = trial.name
    for outputs in (None, trial.outputs):
        single = trial.build(outputs)
        vector = trial.vector.float()
        try:
            out = trial.call(trial.x.float(), trial.level.float(), vector, network=single)
            double = trial.call(network=copy.deepcopy(single).double())
        except (RuntimeError, TypeError) as error:
            raise PgdiffError(
                f"{name} must be callable as network(x, level"
                f"{', context' * bool(trial.condition)}) in float32, and in float64 after "
                f"network.double(). Got: {error}. Keep tensors as buffers, "
                "and create new ones with the dtype and device of `x`."
                + " Check a network without a condition with condition=0."
                * bool(trial.condition)
            ) from error
        shape = [BATCH, trial.tokens, trial.features if outputs is None else outputs]
        for got, dtype in ((out, torch.float32), (double, DOUBLE)):
            demand(
                isinstance(got, Tensor) and list(got.shape) == shape and got.dtype == dtype,
                f"{name} must return outputs {shape} of {dtype} for outputs={outputs}. Got "
                f"{list(got.shape)} of {got.dtype}."
                if isinstance(got, Tensor)
                else f"{name} must return a tensor. Got a {type(got).__name__}.",
            )
    for value in (0.0, 1e-6, 1.0):
        finite = bool(torch.isfinite(trial.call(level=torch.full_like(trial.level, value))).all())
        demand(finite, f"{name} must be finite at every level. Got NaN or Inf at level {value}.")


@torch.no_grad()
def _check_repeats(trial: _Trial) -> None:
    x, level, vector = trial.x.clone(), trial.level.clone(), trial.vector.clone()
    with private_random(trial.name):
        first = trial.call(x, level, vector)
        for key, after, before in (
            ("x", x, trial.x),
            ("level", level, trial.level),
            ("condition", vector, trial.vector),
        ):
            demand(
                torch.equal(after, before),
                f"{trial.name} must not change its inputs. Got another `{key}` after a call. "
                "Create a new tensor instead of writing into it.",
            )
        off = distance(trial.call(), first)
    demand(
        off == 0,
        f"{trial.name} must give equal outputs at every call in evaluation mode. Got a relative "
        f"difference of {off:.3g}.",
    )


@torch.no_grad()
def _check_precision(trial: _Trial) -> None:
    network = copy.deepcopy(trial.network).float()
    out = trial.call(trial.x.float(), trial.level.float(), trial.vector.float(), network=network)
    trial.single = distance(out.double(), trial.call())
    demand(
        trial.single < SINGLE,
        f"{trial.name} must give similar outputs in float32 and float64. Got a relative difference "
        f"of {trial.single:.3g}.",
    )


@torch.no_grad()
def _check_rows(trial: _Trial) -> None:
    out, order = trial.call(), [2, 0, 1]
    alone = trial.call(trial.x[1:2], trial.level[1:2], trial.vector[1:2])
    mixed = trial.call(trial.x[order], trial.level[order], trial.vector[order])
    off = max(distance(alone, out[1:2]), distance(mixed, out[order]))
    other = [input.clone() for input in (trial.x, trial.level, trial.vector)]
    for input in other:
        input[0] = 0.5 * input[0] + 0.2
    training = copy.deepcopy(trial.network).train()
    outputs = []
    for inputs in ((None, None, None), other):
        with seeded_torch(seed=0):  # equal dropout masks
            outputs.append(trial.call(*inputs, network=training)[1:])
    off = max(off, distance(*outputs))
    demand(
        off < CLOSE,
        f"{trial.name} must compute the rows of a batch independently. Got outputs of one row that "
        f"change by {off:.3g} with the other rows. Use layer or group norm instead of batch norm, "
        "and check every reshape.",
    )
    for one, key in (
        ((None, trial.level[:1], None), "level"),
        ((None, None, trial.vector[:1]), "condition"),
    ):
        repeated = [None if input is None else input.expand(BATCH, -1) for input in one]
        off = distance(trial.call(*one), trial.call(*repeated))
        demand(
            off < CLOSE,
            f"{trial.name} must apply a {key} of batch 1 to all rows. Got a relative difference of "
            f"{off:.3g} from the outputs with a repeated {key}.",
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
            f"{name} must depend on every token's level. Got an output of token {token} that "
            f"changes by {moved:.3g} with it. Embed the level of every token, `[batch or 1, "
            "tokens]`.",
        )
    level = trial.level.clone()
    level[:, 0], level[:, 1] = trial.level[:, 1], trial.level[:, 0]
    moved = distance(trial.call(level=level), out)
    demand(
        moved > SEEN,
        f"{name} must depend on the order of the levels. Got outputs that change by {moved:.3g} "
        "when the levels of two tokens are swapped. Embed each token's level, not their mean.",
    )
    if trial.condition:
        moved = distance(trial.call(vector=trial.vector + 1), out)
        demand(
            moved > SEEN,
            f"{name} must depend on its condition. Got outputs that change by {moved:.3g} with it.",
        )


def _check_gradients(trial: _Trial) -> None:
    x = trial.x.clone().requires_grad_(True)
    network = copy.deepcopy(trial.network).requires_grad_(True)
    with seeded_torch(seed=0):
        out = trial.call(x, network=network.train())
    demand(
        out.requires_grad,
        f"{trial.name} must be differentiable. Got an output that is detached. Remove "
        "torch.no_grad and .detach() from its forward.",
    )
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    inputs = {"x": x, **dict(network.named_parameters())}
    grads = torch.autograd.grad((out * weight).sum(), list(inputs.values()), allow_unused=True)
    reached = dict(zip(inputs, grads, strict=True))
    lost = [key for key, grad in reached.items() if grad is None or not bool((grad != 0).any())]
    demand(
        not lost,
        f"{trial.name} must pass gradients to its input and to every parameter. Got none at "
        f"{', '.join(f'`{key}`' for key in lost)}. Use it in the output, or remove it.",
    )
    bad = [key for key, g in reached.items() if g is not None and not torch.isfinite(g).all()]
    demand(not bad, f"{trial.name} must have finite gradients. Got NaN or Inf at {bad}.")


@torch.no_grad()
def _check_weights(trial: _Trial) -> None:
    first, second = (trial.build(trial.outputs).state_dict() for _ in range(2))
    same = first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    demand(
        same,
        f"{trial.name} must build equal weights from equal seeds of torch. Got different weights. "
        "Draw first weights by torch's initialisers.",
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
        f"{trial.name} must give equal outputs after its weights are loaded into another build. "
        f"Got a relative difference of {off:.3g}. Keep random and learned values in parameters "
        "and persistent buffers.",
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
            f"{trial.name} must accept any number of tokens, or raise a PgdiffError in a method "
            f"check_tokens(tokens) of its configuration. Got {got} for {tokens} tokens.",
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
            f"{trial.name} must have outputs that do not depend on later tokens or their levels. "
            f"Got a change of {off:.3g} up to token {token} by later tokens.",
        )
