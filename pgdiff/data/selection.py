"""The rows that belong to some episodes, where a selection shares the arrays of its recording."""

import numpy as np
from jaxtyping import Shaped

from pgdiff.data.episodes import Episodes
from pgdiff.data.returns import runs
from pgdiff.validation import check_in

FIELDS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")


def selected(episodes: Episodes, name: str) -> Shaped[np.ndarray, "rows ..."]:
    """Return the rows of a field that belong to the episodes, in their order.

    `Episodes.select` and `Episodes.split` share the arrays of the recording, so that
    `episodes.observations` may hold rows of other episodes. Statistics of the data, such as those
    of a normaliser, must be taken over the rows that this function returns. Where the episodes are
    neighbours nothing is copied.

    Args:
        episodes: the episodes, at least one.
        name: a field: "observations", "actions", "rewards", "terminals", "timeouts" or
            "next_observations".

    Raises:
        PgdiffError: an unknown field, or one that the recording lacks.

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
    held = [field for field in FIELDS if getattr(episodes, field) is not None]
    values: np.ndarray = getattr(episodes, check_in("name", name, held))
    blocks = [values[begin:end] for _, _, begin, end in runs(episodes)]
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
