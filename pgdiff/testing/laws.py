"""What the checks share: how a broken law is said, and that no global random state is used."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pgdiff.registry import from_config, to_config
from pgdiff.validation import PgdiffError


def demand(holds: bool, law: str) -> None:
    """Raise an error that says which law does not hold, with its figure and the mend."""
    if not holds:
        raise PgdiffError(law)


def distance(one: Tensor, other: Tensor) -> float:
    """Largest difference, in units of the largest value but of 1 at least; NaN is infinite."""
    if one.shape != other.shape:
        return float("inf")
    size = max(1.0, float(other.abs().max())) if other.numel() else 1.0
    largest = float((one - other).abs().max()) / size if other.numel() else 0.0
    return largest if largest == largest else float("inf")


@contextmanager
def private_random(name: str) -> Iterator[None]:
    """Refuse what changes torch's global generator; it is put back."""
    before = torch.get_rng_state()
    try:
        yield
        used = not torch.equal(torch.get_rng_state(), before)
    finally:
        torch.set_rng_state(before)
    demand(
        not used,
        f"{name} must leave torch's global random state alone. Got another state after it than "
        "before: draw from what it is given, or from a torch.Generator of its own.",
    )


def check_config(kind: str, part: Any, name: str) -> None:
    """Refuse a part that its configuration does not bring back."""
    config = to_config(part)
    again = from_config(kind, json.loads(json.dumps(config)))
    demand(
        again == part and to_config(again) == config,
        f"{name} must equal what from_config makes of its to_config. Got {again!r} for {part!r}: "
        "make it a frozen dataclass whose fields are its settings.",
    )


def called(part: object, kind: str) -> str:
    """How errors call a part: by its registered name, or by its class."""
    try:
        return f"{kind.capitalize()} '{to_config(part)['name']}'"
    except PgdiffError:
        return f"{kind.capitalize()} {type(part).__name__}"
