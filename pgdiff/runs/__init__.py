"""Run folders with their stages, guides and planner."""

from pgdiff.runs.load import load_planner
from pgdiff.runs.run import RunInfo, read_run

__all__ = ["RunInfo", "load_planner", "read_run"]
