"""The field "action_chunks": the actions from each token up to the next one."""

from typing import ClassVar

from pgdiff.core.registry import register
from pgdiff.data.episodes import Episodes
from pgdiff.data.fields.base import ActionField, Gather, actions_from


@register("token_field", "action_chunks")
class ActionChunks(ActionField):
    """The actions of the `stride` steps from each token on, concatenated.

    Past an episode's end its last action is repeated.

    Example:
        >>> from pgdiff.data import SegmentDataset
        >>> from pgdiff.testing import example_episodes
        >>> dataset = SegmentDataset(example_episodes(), 4, 3, fields=("action_chunks",))
        >>> dataset.batch([0]).action_chunks.shape
        (1, 4, 6)
    """

    name: ClassVar[str] = "action_chunks"
    every_step: ClassVar[bool] = True

    def gather(self, episodes: Episodes, *, stride: int, discount: float) -> Gather:
        """Return a function that gathers the actions from each token on."""
        return lambda windows: actions_from(episodes, windows)
