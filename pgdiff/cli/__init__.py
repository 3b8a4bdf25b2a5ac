"""The command line: `pgdiff COMMAND …`."""

from pgdiff.cli.main import main

__all__ = ["main"]
