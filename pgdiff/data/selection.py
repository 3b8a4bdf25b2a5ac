"""Rows of a selection of episodes, which shares the arrays of its recording."""

import numpy as np
from jaxtyping import Shaped

from pgdiff.core.validation import check_in
from pgdiff.data.episodes import Episodes
from pgdiff.data.returns import runs

FIELDS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")


def selected(episodes: Episodes, name: str) -> Shaped[np.ndarray, "rows ..."]:
    """Return the rows of a field that belong to the episodes, in the order of the episodes.

    `Episodes.select` and `Episodes.split` share the arrays of the recording, so
    `episodes.observations` may contain rows of other episodes. Compute statistics of the data, such
    as those of a normaliser, over the rows that this function returns. Adjacent episodes are not
    copied.

    Args:
        episodes: the episodes, at least one.
        name: a field: "observations", "actions", "rewards", "terminals", "timeouts",
            "next_observations", or an info under its name in a file, such as "infos/goal".

    Raises:
        PgdiffError: if the field is unknown or was not recorded.

    Example:
        >>> import numpy as np, pgdiff
        >>> episodes = pgdiff.Episodes.from_arrays(
        ...     observations=np.arange(4.0)[:, None],
        ...     actions=np.zeros((4, 1)),
        ...     rewards=np.zeros(4),
        ...     terminals=[0, 1, 0, 1],
        ... )
        >>> selected(episodes.select([1]), "observations").ravel().tolist()
        [2.0, 3.0]
    """
    fields = {field: getattr(episodes, field) for field in FIELDS}
    fields |= {f"infos/{info}": values for info, values in episodes.infos.items()}
    recorded = [field for field, values in fields.items() if values is not None]
    values: np.ndarray = fields[check_in("name", name, recorded)]
    blocks = [values[begin:end] for _, _, begin, end in runs(episodes)]
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
