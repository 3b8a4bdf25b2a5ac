"""Helpers of the checks: assertions, distances, and a guard of the global random state."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pgdiff.core.registry import from_config, to_config
from pgdiff.core.validation import PgdiffError


def demand(holds: bool, law: str) -> None:
    """Raise a `PgdiffError` with the message `law` unless `holds`."""
    if not holds:
        raise PgdiffError(law)


def distance(one: Tensor, other: Tensor) -> float:
    """Return the largest difference relative to the largest value or 1; infinity for NaN."""
    if one.shape != other.shape:
        return float("inf")
    size = max(1.0, float(other.abs().max())) if other.numel() else 1.0
    largest = float((one - other).abs().max()) / size if other.numel() else 0.0
    return largest if largest == largest else float("inf")


@contextmanager
def private_random(name: str) -> Iterator[None]:
    """Raise if torch's global generator changes inside the context; its state is restored."""
    before = torch.get_rng_state()
    try:
        yield
        used = not torch.equal(torch.get_rng_state(), before)
    finally:
        torch.set_rng_state(before)
    demand(
        not used,
        f"{name} must not change torch's global random state. Got a changed state. Draw from the "
        "given source of noise, or from a separate torch.Generator.",
    )


def check_config(kind: str, part: Any, name: str) -> None:
    """Raise if a part differs from the part that its configuration describes."""
    config = to_config(part)
    again = from_config(kind, json.loads(json.dumps(config)))
    demand(
        again == part and to_config(again) == config,
        f"{name} must equal from_config(to_config(part)). Got {again!r} for {part!r}. Make it a "
        "frozen dataclass whose fields are its settings.",
    )


def called(part: object, kind: str) -> str:
    """Return the name of a part for messages: its registered name, or its class."""
    try:
        return f"{kind.capitalize()} '{to_config(part)['name']}'"
    except PgdiffError:
        return f"{kind.capitalize()} {type(part).__name__}"
