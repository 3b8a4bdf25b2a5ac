"""Guides: what steers a plan, in raw units."""

from pgdiff.guides.base import Guide, bind
from pgdiff.guides.value import Value

__all__ = ["Guide", "Value", "bind"]
