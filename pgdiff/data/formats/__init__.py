"""Readers and writers of recorded experience, one module per format."""
