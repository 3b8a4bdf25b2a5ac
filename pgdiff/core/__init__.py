"""Validation, registry, file formats and process settings, used by all other packages."""
