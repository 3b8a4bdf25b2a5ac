"""`pgdiff convert`: a recording in D4RL's HDF5 layout, or in Minari's local store."""

from typing import Any

from pgdiff.cli.values import flag, path
from pgdiff.data import load_episodes, write_hdf5, write_minari
from pgdiff.validation import PgdiffError, check_in


def run(settings: dict[str, Any]) -> int:
    """Read, write, and say where it is."""
    source, out = str(path(settings, "data")), path(settings, "out")
    target = check_in("to", str(settings["to"]), ("hdf5", "minari"))
    overwrite = flag(settings, "overwrite")
    if target == "hdf5" and out.exists() and not overwrite:
        raise PgdiffError(f"'{out}' exists. overwrite=true replaces it, out=PATH names another.")
    episodes = load_episodes(
        source,
        join_continuous=flag(settings, "join_continuous"),
        episode_length=settings["episode_length"],
    )
    if target == "hdf5":
        written = write_hdf5(out, episodes)
    else:
        written = write_minari(episodes, str(out), env_id=settings["env_id"], overwrite=overwrite)
    print(f"{episodes.steps} steps, {len(episodes)} episodes")
    print(f"data: {written}")
    return 0
