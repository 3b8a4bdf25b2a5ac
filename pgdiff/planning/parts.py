"""Whether the parts that a planner samples with are such parts, and fit its model."""

import warnings
from collections.abc import Sequence
from typing import Any

from pgdiff.diffusion import Guidance
from pgdiff.diffusion.level_schedules import LevelSchedule
from pgdiff.diffusion.parts import check_kinds
from pgdiff.model import TrajectoryDiffusion
from pgdiff.validation import PgdiffError, check_part

PARTS = ("solver", "spacing", "classifier_free", "trust_region", "resample", "monte_carlo")
"""Attributes of a planner that are arguments of `TrajectoryDiffusion.sample` by the same name."""


def check_parts(planner: Any, guidance: Sequence[Guidance]) -> None:
    """Raise an error that names the part which is none, or does not fit.

    Args:
        planner: with the attributes of `PARTS`, a `schedule` and a `model`.
        guidance: its guides, bound to the model.
    """
    check_kinds(**{name: getattr(planner, name) for name in PARTS})
    if planner.schedule is not None:
        check_part("schedule", planner.schedule, LevelSchedule)
    if hasattr(planner.solver, "check"):
        planner.solver.check(schedule=planner.model.schedule, distilled=planner.model.distilled)
    blurred = planner.observation_level > 0 or planner.missing_level is not None
    if planner.context and not blurred:
        warnings.warn(
            "`context` has no effect where observations have no noise and none is missing: "
            "set `observation_level` or `missing_level`.",
            stacklevel=4,  # Planner, and the mode it sets
        )
    if planner.monte_carlo is not None and blurred and not planner.context:
        _check_futures(planner.model)
    if planner.resample is not None:
        planner.resample.check(planner.solver, guidance)
        for name, none in (
            ("monte_carlo", None),
            ("observation_level", 0),
            ("missing_level", None),
        ):
            if getattr(planner, name) != none:
                raise PgdiffError(f"`{name}` must be {none} with `resample`. Got both.")


def _check_futures(model: TrajectoryDiffusion) -> None:
    """Refuse futures of a model of whose first token an observation is only a part."""
    part = ~model.pattern("start")[0]
    if part.any():
        raise PgdiffError(
            "`monte_carlo` must be None with `observation_level` or `missing_level` for a model "
            "whose first token holds more than the observation, such as what is done there: its "
            "futures would begin elsewhere. Got both; without them, or with `context`, plans begin "
            "at one place."
        )
