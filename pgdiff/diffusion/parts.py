"""What the parts of a sampling must be."""

from torch import Tensor

from pgdiff.diffusion.classifier_free import ClassifierFree
from pgdiff.diffusion.history_guidance import HistoryGuidance
from pgdiff.diffusion.known import Known
from pgdiff.diffusion.monte_carlo import MonteCarlo
from pgdiff.diffusion.observed import Observed
from pgdiff.diffusion.resample import Resample
from pgdiff.diffusion.solvers import Solver
from pgdiff.diffusion.spacing import Spacing
from pgdiff.diffusion.trust_region import TrustRegion
from pgdiff.validation import check_part

KINDS: dict[str, type] = {
    "known": Known,
    "observed": Observed,
    "classifier_free": ClassifierFree,
    "spacing": Spacing,
    "solver": Solver,
    "trust_region": TrustRegion,
    "resample": Resample,
    "history": HistoryGuidance,
    "monte_carlo": MonteCarlo,
    "start": Tensor,
}
"""Of each part, by the name of its argument."""


def check_kinds(**parts: object) -> None:
    """Raise an error that names the part which is none; None is left out.

    Args:
        parts: by the names of `KINDS`.
    """
    for name, part in parts.items():
        if part is not None:
            check_part(name, part, KINDS[name])
