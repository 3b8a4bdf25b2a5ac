"""Fidelity of generated experience."""
