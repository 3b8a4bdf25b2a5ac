"""`pgdiff convert`: recordings in D4RL's HDF5 layout, or in Minari's local store."""

from typing import Any

from pgdiff.cli.tasks import recorded_env
from pgdiff.cli.values import flag, path, paths
from pgdiff.data import join_episodes, load_episodes, write_hdf5, write_minari
from pgdiff.saving import check_writable
from pgdiff.validation import PgdiffError, check_in, check_positive_int, check_range


def run(settings: dict[str, Any]) -> int:
    """Read, write, and say where it is."""
    sources, out = paths(settings, "data"), path(settings, "out")
    share = check_range("share", settings["share"], low=0.0, high=1.0, open_low=True)
    seed = check_positive_int("seed", settings["seed"], minimum=0)
    target = check_in("to", str(settings["to"]), ("hdf5", "minari"))
    overwrite = flag(settings, "overwrite")
    if target == "hdf5" and out.exists() and not overwrite:
        raise PgdiffError(f"'{out}' exists. overwrite=true replaces it, out=PATH names another.")
    if target == "hdf5":
        check_writable(out)
    read = [
        load_episodes(
            str(source),
            join_continuous=flag(settings, "join_continuous"),
            episode_length=settings["episode_length"],
            repair=flag(settings, "repair"),
        )
        for source in sources
    ]
    episodes = read[0] if len(read) == 1 else join_episodes(read)
    if share < 1:
        episodes = episodes.split(share, seed=seed)[1]
    if target == "hdf5":
        envs = {recorded_env(str(source)) for source in sources}
        env_id = envs.pop() if len(envs) == 1 else None  # of joined recordings, if it is the same
        written = write_hdf5(out, episodes, {} if env_id is None else {"env_id": env_id})
    else:
        written = write_minari(episodes, str(out), env_id=settings["env_id"], overwrite=overwrite)
    print(f"{episodes.lengths.sum()} steps, {len(episodes)} episodes")
    print(f"data: {written}")
    return 0
