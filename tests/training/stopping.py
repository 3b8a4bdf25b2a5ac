"""A training that is interrupted."""

from pgdiff.training import Callback


class Stop(Callback):
    """Interrupts after an update, like a user's Ctrl-C."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        if step == self.at:
            raise KeyboardInterrupt
