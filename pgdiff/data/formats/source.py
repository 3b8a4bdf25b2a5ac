"""Recording that is open for reading, in any format."""

from dataclasses import dataclass, field

from pgdiff.data.checks import Source
from pgdiff.data.dict_observations import ObservationLayout


@dataclass(frozen=True)
class Recording:
    """Unchecked fields of a recording, and properties of its format.

    Attributes:
        fields: source of each field's values, under D4RL's names.
        layout: layout of the Dict observations that were flattened, or None.
        ends_known: if True, the format itself defines where episodes end, and a recording without
            any mark is one unfinished episode.
    """

    fields: dict[str, Source] = field(default_factory=dict)
    layout: ObservationLayout | None = None
    ends_known: bool = False
