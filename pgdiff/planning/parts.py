"""Whether the parts that a planner samples with are such parts, and fit its model."""

from collections.abc import Sequence
from typing import Any

from pgdiff.diffusion import Guidance, MonteCarlo, Resample, Solver, TrustRegion
from pgdiff.diffusion.level_schedules import LevelSchedule
from pgdiff.diffusion.spacing import Spacing
from pgdiff.validation import PgdiffError

PARTS: tuple[tuple[str, type, bool], ...] = (
    ("solver", Solver, True),
    ("spacing", Spacing, True),
    ("schedule", LevelSchedule, False),
    ("trust_region", TrustRegion, False),
    ("resample", Resample, False),
    ("monte_carlo", MonteCarlo, False),
)
"""Attribute of a planner, what it must be, and whether it must be given."""


def check_parts(planner: Any, guidance: Sequence[Guidance]) -> None:
    """Raise an error that names the part which is none, or does not fit.

    Args:
        planner: with the attributes of `PARTS` and a `model`.
        guidance: its guides, bound to the model.
    """
    for name, kind, needed in PARTS:
        part = getattr(planner, name)
        if not isinstance(part, kind) and (needed or part is not None):
            raise PgdiffError(f"`{name}` must be a {kind.__name__}. Got {part!r}.")
    if hasattr(planner.solver, "check"):
        planner.solver.check(schedule=planner.model.schedule, distilled=planner.model.distilled)
    if planner.resample is not None:
        planner.resample.check(planner.solver, guidance)
        for name, none in (
            ("monte_carlo", None),
            ("observation_level", 0),
            ("missing_level", None),
        ):
            if getattr(planner, name) != none:
                raise PgdiffError(f"`{name}` must be {none} with `resample`. Got both.")
