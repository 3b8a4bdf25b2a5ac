"""Layers and blocks of the networks."""
