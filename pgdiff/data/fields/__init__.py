"""Fields of tokens, one class each: observations, actions, rewards, and own ones."""

from pgdiff.core.registry import registered
from pgdiff.core.validation import PgdiffError, nearest
from pgdiff.data.fields.action_chunks import ActionChunks
from pgdiff.data.fields.actions import Actions
from pgdiff.data.fields.base import ActionField, Gather, TokenField, Windows
from pgdiff.data.fields.next_observations import NextObservations
from pgdiff.data.fields.observations import Observations
from pgdiff.data.fields.previous_actions import PreviousActions
from pgdiff.data.fields.rewards import Rewards
from pgdiff.data.fields.terminals import Terminals

__all__ = [
    "ActionChunks",
    "ActionField",
    "Actions",
    "Gather",
    "NextObservations",
    "Observations",
    "PreviousActions",
    "Rewards",
    "Terminals",
    "TokenField",
    "Windows",
    "token_field",
]


def token_field(name: str) -> TokenField:
    """Return the registered field of this name.

    Raises:
        PgdiffError: the name is not registered.

    Example:
        >>> from pgdiff.data.fields import token_field
        >>> token_field("previous_actions").given_at_start
        True
    """
    classes = registered("token_field")
    if name not in classes:
        raise PgdiffError(
            f"`fields` must be {nearest(name, classes)} Got '{name}'. Import the module of an own "
            "field first."
        )
    field: TokenField = classes[name]()
    return field
