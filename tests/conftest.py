import copy
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import yaml

# MuJoCo's simulation needs no renderer, and the configured one may be missing.
os.environ.pop("MUJOCO_GL", None)
sys.path.insert(0, str(Path(__file__).parent / "model"))  # for `toys.py`, small worlds and models


def parsed_once(load: Callable[..., Any]) -> Callable[..., Any]:
    """Return `yaml.load` with a memory: every composed command reads the same files again."""
    known: dict[tuple[str, str], Any] = {}

    def remembered(stream: Any, Loader: Any) -> Any:
        if not hasattr(stream, "seek"):
            return load(stream, Loader)
        key = (stream.read(), Loader.__qualname__)
        if key not in known:
            stream.seek(0)  # the name of the stream is part of error messages
            known[key] = load(stream, Loader)
        return copy.deepcopy(known[key])

    return remembered


yaml.load = parsed_once(yaml.load)

HANDLERS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGCHLD: signal.SIG_DFL,
}


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal() -> Iterator[None]:
    """Handle signals as in a terminal; a parent process or background job may ignore them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    inherited = [n for n in HANDLERS if signal.getsignal(n) is signal.SIG_IGN]
    for number in inherited:
        signal.signal(number, HANDLERS[number])
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number in inherited:
            signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch runtime type checks off: wrong input then raises the errors that users get."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the registry after a test that registers parts."""
    registry = importlib.import_module("pgdiff.core.registry")
    for home in ("pgdiff.runs.stages", "pgdiff.planning"):
        importlib.import_module(home)  # all of the package's parts are registered by now
    kinds = {kind: dict(parts) for kind, parts in registry._REGISTRY.items()}
    monkeypatch.setattr(registry, "_REGISTRY", kinds)
    monkeypatch.setattr(registry, "_NAMES", dict(registry._NAMES))
