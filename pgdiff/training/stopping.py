"""SIGTERM and Ctrl-C: the step is finished, and what was learned is kept."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

NUMBERS = (signal.SIGTERM, signal.SIGINT)


class TrainingInterrupted(KeyboardInterrupt):
    """A signal asked for the end, and the step was finished first.

    A KeyboardInterrupt, so that neither `except Exception` nor a sweep goes on with what is next.

    Attributes:
        number: the signal; a command that it ends has the exit code 128 + number, as in a shell.
        step: updates done.
        checkpoint: the checkpoint of that step, or None where there is no folder for one.
    """

    def __init__(
        self, message: str, *, number: int, step: int = 0, checkpoint: Path | None = None
    ) -> None:
        super().__init__(message)
        self.number = number
        self.step = step
        self.checkpoint = checkpoint


class StopSignals:
    """Within it, the first SIGTERM or SIGINT is noted; the second does what it did before.

    Handlers are those from before again after the first signal, and at the end in any case. A
    signal that is ignored (a command in the background) stays so; outside the main thread, where
    Python allows no handlers, nothing is installed. Contexts may be nested: the outer one learns
    of a signal as well.

    Attributes:
        received: the signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._outermost = True
        self._process = os.getpid()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                # None: installed by other than Python code, and could not be put back.
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()
        if self.received is not None and self._outermost and error is None:
            os.kill(os.getpid(), self.received)  # it came too late to be acted upon in here

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked child: it is none of ours
            self._restore()
            os.kill(os.getpid(), number)
            return
        self._note(number)
        name = signal.Signals(number).name
        # Not `print`: the signal may have come within another one's.
        os.write(2, f"\n{name}: this step is finished first; once more ends at once\n".encode())

    def _note(self, number: int) -> None:
        self.received = number
        before = self._before.get(number)
        self._restore()
        outer = getattr(before, "__self__", None)
        if isinstance(outer, StopSignals):
            self._outermost = False
            outer._note(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
