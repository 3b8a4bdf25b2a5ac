"""Workflows: what joins several parts of the package."""
