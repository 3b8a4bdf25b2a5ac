"""`pgdiff convert`: recordings written in D4RL's HDF5 layout or to Minari's local store."""

from typing import Any

from pgdiff.cli.settings import flag, path, paths
from pgdiff.cli.tasks import recorded_env
from pgdiff.core.serialization import check_writable
from pgdiff.core.validation import PgdiffError, check_in, check_positive_int, check_range
from pgdiff.data import join_episodes, load_episodes, write_hdf5, write_minari


def run(settings: dict[str, Any]) -> int:
    """Read the recordings, write them, and print the path."""
    sources, out = paths(settings, "data"), path(settings, "out")
    share = check_range("share", settings["share"], low=0.0, high=1.0, open_low=True)
    seed = check_positive_int("seed", settings["seed"], minimum=0)
    target = check_in("to", str(settings["to"]), ("hdf5", "minari"))
    overwrite = flag(settings, "overwrite")
    if target == "hdf5" and out.exists() and not overwrite:
        raise PgdiffError(
            f"'{out}' exists already. Set overwrite=true to replace it, or out=PATH to write "
            "another file."
        )
    if target == "hdf5":
        check_writable(out)
    recordings = [
        load_episodes(
            str(source),
            join_continuous=flag(settings, "join_continuous"),
            episode_length=settings["episode_length"],
            repair=flag(settings, "repair"),
        )
        for source in sources
    ]
    episodes = recordings[0] if len(recordings) == 1 else join_episodes(recordings)
    if share < 1:
        episodes = episodes.split(share, seed=seed)[1]
    if target == "hdf5":
        envs = {recorded_env(str(source)) for source in sources}
        env_id = envs.pop() if len(envs) == 1 else None  # kept if all recordings have one id
        written = write_hdf5(out, episodes, {} if env_id is None else {"env_id": env_id})
    else:
        written = write_minari(episodes, str(out), env_id=settings["env_id"], overwrite=overwrite)
    print(f"{episodes.lengths.sum()} steps, {len(episodes)} episodes")
    print(f"data: {written}")
    return 0
