"""A recording that is open for reading, whatever it is stored as."""

from dataclasses import dataclass, field

from pgdiff.data.checks import Source
from pgdiff.data.observation_layout import ObservationLayout


@dataclass(frozen=True)
class Recording:
    """Fields that are yet to be checked, and what else is known of them.

    Attributes:
        fields: where each field's values come from, by D4RL's names.
        layout: of the Dict observations that were flattened, if they were.
        ends_known: whether the format itself says where episodes end, so that a recording without
            any mark is one unfinished episode.
    """

    fields: dict[str, Source] = field(default_factory=dict)
    layout: ObservationLayout | None = None
    ends_known: bool = False
