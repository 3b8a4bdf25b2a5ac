"""Workflows that combine several parts of the package."""
