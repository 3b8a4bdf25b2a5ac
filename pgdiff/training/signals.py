"""Handling of SIGTERM and Ctrl-C: training finishes the step and keeps its progress."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

NUMBERS = (signal.SIGTERM, signal.SIGINT)


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by a signal after it had finished the current step.

    It derives from KeyboardInterrupt, so that `except Exception` does not catch it and a sweep
    stops.

    Attributes:
        number: the signal; a command then exits with the code 128 + number, as in a shell.
        step: number of completed updates.
        checkpoint: the checkpoint of this step; None without a `folder`.

    Example:
        >>> import signal
        >>> from pgdiff.training import TrainingInterrupted
        >>> stopped = TrainingInterrupted("stopped", number=signal.SIGTERM, step=250)
        >>> stopped.step, isinstance(stopped, KeyboardInterrupt)
        (250, True)
    """

    def __init__(
        self, message: str, *, number: int, step: int = 0, checkpoint: Path | None = None
    ) -> None:
        super().__init__(message)
        self.number = number
        self.step = step
        self.checkpoint = checkpoint


class StopSignals:
    """Context that records the first SIGTERM or SIGINT; a second one has its usual effect.

    The previous handlers are restored after the first signal, and at the end of the context in any
    case. A signal that is ignored (as in a background job) stays ignored. Outside the main thread,
    where Python does not allow handlers, the context does nothing. Contexts can be nested: the
    outer context records the signal too.

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
                # None: the handler is not Python code and could not be restored.
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
            os.kill(os.getpid(), self.received)  # it arrived after the last step

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked child: default handling
            self._restore()
            os.kill(os.getpid(), number)
            return
        self._note(number)
        name = signal.Signals(number).name
        # Not `print`, which is not reentrant: the signal may interrupt another print.
        os.write(2, f"\n{name}: finishing this step; repeat to stop at once\n".encode())

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
