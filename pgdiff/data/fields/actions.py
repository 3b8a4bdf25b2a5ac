"""The field "actions": the action at each token."""

from typing import ClassVar

from pgdiff.core.registry import register
from pgdiff.data.episodes import Episodes
from pgdiff.data.fields.base import ActionField, Gather


@register("token_field", "actions")
class Actions(ActionField):
    """The action that is taken at each token's row.

    Example:
        >>> from pgdiff.data import SegmentDataset
        >>> from pgdiff.testing import example_episodes
        >>> dataset = SegmentDataset(example_episodes(), 4, 2, fields=("actions",))
        >>> dataset.batch([0]).actions.shape
        (1, 4, 2)
    """

    name: ClassVar[str] = "actions"

    def gather(self, episodes: Episodes, *, stride: int, discount: float) -> Gather:
        """Return a function that gathers the action at each token."""
        return lambda windows: episodes.actions.take(windows.rows, axis=0)
