"""Guidance: objectives whose gradients move samples."""
