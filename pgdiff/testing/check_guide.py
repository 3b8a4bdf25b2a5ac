"""A check of guides."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pgdiff.core.validation import check_in, check_range
from pgdiff.diffusion.guidance.guidance import checked_objective
from pgdiff.diffusion.guidance.rules import PLACES
from pgdiff.guides import Guide, bind
from pgdiff.model import TrajectoryDiffusion
from pgdiff.model.guidance import needs_goal
from pgdiff.testing.assertions import demand, private_random
from pgdiff.trajectory import Layout, Segment

DOUBLE = torch.float64
BATCH = 4
DIRECTIONS = 8
HOLDERS = ("guides", "agent", "critic", "value")
"""Attributes of a guide whose attributes are searched for networks."""


def check_guide(
    guide: Guide,
    model: TrajectoryDiffusion | Layout,
    *,
    goal: Sequence[float] | None = None,
) -> dict[str, float]:
    """Raise if a guide would move samples incorrectly.

    It must have the attributes `name`, `gradient_at` and `scale`, and an objective of a segment
    that

    - is one finite number for each trajectory, for any batch and any levels `[1, tokens]` or
      `[batch, tokens]`;
    - is equal at every call, and under `torch.no_grad()`, with which plans are scored;
    - is independent of the other trajectories;
    - does not change the segment, the guide's weights, buffers and their gradients, or the global
      random state;
    - is differentiable if `scale` is above 0, with a gradient that agrees with central differences:
      in float64 with the guide's networks doubled, or in float32 if that fails.

    Args:
        guide: guide to check.
        model: model of the guide, which may be untrained; or a layout, for segments of standard
            normal numbers in raw units.
        goal: goal of every segment, in raw units; for guides that need one.

    Returns:
        The norm of the gradient, and its largest relative error.

    Raises:
        PgdiffError: the first violated requirement, with a figure and the fix.

    Example:
        >>> from pgdiff import Layout
        >>> from pgdiff.guides import Goal
        >>> from pgdiff.testing import check_guide
        >>> layout = Layout(fields=(("observations", 4),), horizon=5)
        >>> check_guide(Goal((1.0, 0.0)), layout)["error"] < 1e-6
        True
    """
    name = f"Guide {type(guide).__name__}"
    demand(
        isinstance(guide, Guide) and not isinstance(guide, type),
        f"{name} must have the attributes name, gradient_at and scale, and a method "
        f"objective(segment, level). Got {guide!r}.",
    )
    demand(
        isinstance(guide.name, str) and bool(guide.name),
        f"`name` of a guide must be a non-empty string. Got {guide.name!r}.",
    )
    name = f"Guide '{guide.name}'"
    check_in("gradient_at", guide.gradient_at, PLACES)
    check_range("scale", guide.scale, low=0.0)
    if isinstance(model, TrajectoryDiffusion):
        bind(guide, model)
    demand(
        goal is not None or not needs_goal(guide),
        f"{name} needs a goal. Got none. Pass one, for example goal=[1.0, 2.0].",
    )
    segments = _Segments(model, goal)
    weights = [(module, _held(module)) for module in _modules(guide)]
    with private_random(name):
        _check_objective(guide, segments, name)
        _check_rows(guide, segments, name)
        figures = _check_gradient(guide, segments, name) if guide.scale > 0 else {}
    for module, before in weights:
        changed = [key for key, held in _held(module).items() if not _same(held, before.get(key))]
        demand(
            not changed,
            f"{name} must not change its weights, buffers and gradients. Got changes at "
            f"{', '.join(changed)}. Use torch.autograd.grad instead of .backward(), and put its "
            "networks into evaluation mode.",
        )
    return figures


class _Segments:
    """Segments in raw units from normalised tokens, in the precision of the tokens."""

    def __init__(self, model: TrajectoryDiffusion | Layout, goal: Sequence[float] | None) -> None:
        whole = model if isinstance(model, TrajectoryDiffusion) else None
        self.layout = model if isinstance(model, Layout) else None
        self.codec = whole.codec if whole else None
        source = torch.Generator().manual_seed(0)
        if isinstance(model, Layout):
            tokens, features = model.horizon, model.features
        else:
            tokens, features = model.codec.tokens, model.codec.features
        x = torch.randn(BATCH, tokens, features, generator=source, dtype=DOUBLE)
        level = torch.rand(BATCH, tokens, generator=source, dtype=DOUBLE)
        # Normalised data lie in or near [-1, 1].
        self.x = (0.5 * x if whole else x).to(whole.device if whole else "cpu")
        self.level = level.to(self.x.device)
        self.goal = None if goal is None else self.x.new_tensor(goal)[None]

    def of(self, x: Tensor) -> Segment:
        """Return normalised tokens as a segment."""
        if self.codec is not None:
            segment = self.codec.decode(x)
        else:
            assert self.layout is not None
            segment = self.layout.segment(x)
        return (
            segment
            if self.goal is None
            else segment.replace(condition={"goal": self.goal.to(x.dtype)})
        )


def _off(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of objectives relative to the largest objective."""
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))


def _objective(guide: Guide, segment: Segment, level: Tensor) -> Tensor:
    batch = len(segment.observations)
    return checked_objective(guide.objective(segment, level), batch=batch, name=guide.name)


def _modules(guide: object) -> Iterator[nn.Module]:
    """Yield the networks of a guide, including those of its agent or of member guides."""
    if isinstance(guide, nn.Module):
        yield guide
    for name, value in list(getattr(guide, "__dict__", {}).items()):
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, nn.Module):
                yield part
            elif name in HOLDERS:
                yield from _modules(part)


def _held(module: nn.Module) -> dict[str, Tensor | None]:
    held: dict[str, Tensor | None] = {
        key: value.detach().clone() for key, value in module.state_dict().items()
    }
    for key, parameter in module.named_parameters():
        held[f"{key}.grad"] = None if parameter.grad is None else parameter.grad.clone()
    return held


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def _check_objective(guide: Guide, segments: _Segments, name: str) -> None:
    x, level = segments.x.float(), segments.level.float()
    segment = segments.of(x)
    before = copy.deepcopy(segment)
    with torch.no_grad():
        objective = _objective(guide, segment, level)
        for part, given in {**before.fields, **before.condition}.items():
            demand(
                torch.equal(given, {**segment.fields, **segment.condition}[part]),
                f"{name} must not change the segment. Got other {part} after a call of its "
                "objective. Create a new tensor instead of writing into it.",
            )
        again = _objective(guide, segment, level)
        for value in (0.0, 1.0):
            _objective(guide, segment, torch.full_like(level[:1], value))
        one = _objective(guide, segment, level[:1])
        spread = _objective(guide, segment, level[:1].expand(BATCH, -1).clone())
    demand(
        torch.equal(again, objective),
        f"{name} must return equal objectives at every call. Got a relative difference of "
        f"{_off(again, objective):.3g}. Put its networks into evaluation mode, and draw no random "
        "numbers.",
    )
    off = _off(one, spread)
    demand(
        off < 1e-4,
        f"{name} must apply levels of batch 1 to all trajectories. Got a relative difference of "
        f"{off:.3g} from the objectives with repeated levels.",
    )
    with torch.enable_grad():
        graph = _objective(guide, segments.of(x.clone().requires_grad_(True)), level)
    off = _off(graph.detach(), objective)
    demand(
        off < 1e-4,
        f"{name} must return equal objectives with torch.no_grad() and without. Got a relative "
        f"difference of {off:.3g}.",
    )


@torch.no_grad()
def _check_rows(guide: Guide, segments: _Segments, name: str) -> None:
    x, level = segments.x.float(), segments.level.float()
    objective, order = _objective(guide, segments.of(x), level), [2, 0, 3, 1]
    mixed = _objective(guide, segments.of(x[order]), level[order])
    alone = _objective(guide, segments.of(x[1:2]), level[1:2])
    off = max(_off(mixed, objective[order]), _off(alone, objective[1:2]))
    demand(
        off < 1e-4,
        f"{name} must judge trajectories independently. Got an objective that changes by {off:.3g} "
        "with the rest of the batch. Take means over tokens and features, not over the batch.",
    )


def _check_gradient(guide: Guide, segments: _Segments, name: str) -> dict[str, float]:
    exact, dtype = _doubled(guide, segments)
    x, level = segments.x.to(dtype), segments.level.to(dtype)

    def objective(x: Tensor) -> Tensor:
        return _objective(exact, segments.of(x), level)

    value, gradient = _gradient(objective, x, name)
    size = gradient.flatten(1).norm(dim=1)
    # A kink between the two points spoils central differences: the steps are as small as rounding
    # allows, and the median over directions is used.
    step, bound = (1e-5, 1e-4) if dtype == DOUBLE else (1e-2, 5e-2)
    rounding = 10 * torch.finfo(dtype).eps * value.abs() / step
    source = torch.Generator().manual_seed(1)
    errors = []
    for _ in range(DIRECTIONS):
        way = torch.randn(x.shape, generator=source, dtype=DOUBLE).to(x)
        with torch.no_grad():
            slope = (objective(x + step * way) - objective(x - step * way)) / (2 * step)
        off = (slope - (gradient * way).sum(dim=(1, 2))).abs()
        errors.append(off / (size + rounding).clamp(min=1e-30))
    error = float(torch.stack(errors).median())
    demand(
        error < bound,
        f"{name} must have the gradient of its objective. Got an autograd gradient with a relative "
        f"error of {error:.3g} from central differences in {dtype}. Do not detach, round or clip "
        "values on the way.",
    )
    return {"gradient": float(size.max()), "error": error}


def _doubled(guide: Guide, segments: _Segments) -> tuple[Guide, torch.dtype]:
    """Return the guide in float64 if possible, otherwise unchanged, and its precision."""
    try:
        double = copy.deepcopy(guide)
        for module in _modules(double):
            module.double()
        with torch.no_grad():
            objective = _objective(double, segments.of(segments.x), segments.level)
    except (RuntimeError, TypeError):
        return guide, torch.float32
    return (double, DOUBLE) if objective.dtype == DOUBLE else (guide, torch.float32)


def _gradient(objective: Callable[[Tensor], Tensor], x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Return the objectives and the gradient of their sum."""
    with torch.enable_grad():
        point = x.clone().requires_grad_(True)
        value = objective(point)
        gradient: Any = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), point, allow_unused=True)
    demand(
        gradient is not None,
        f"{name} must have an objective that is differentiable in the segment's fields. Got one "
        "that is detached from them. Compute it with torch operations, or use scale=0 to only rank "
        "candidates.",
    )
    demand(
        bool(torch.isfinite(gradient).all()),
        f"{name} must have a finite gradient. Got NaN or Inf. Check square roots, logarithms and "
        "norms at 0.",
    )
    value = value.detach()
    demand(
        bool((gradient != 0).any()) or bool((value == value[0]).all()),
        f"{name} must have a gradient if its objectives differ. Got 0 everywhere. Use scale=0 for "
        "a piecewise constant objective.",
    )
    return value, gradient
