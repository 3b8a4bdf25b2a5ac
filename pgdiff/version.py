"""The version of pgdiff; its metadata take it from here."""

__version__ = "0.1.0"
