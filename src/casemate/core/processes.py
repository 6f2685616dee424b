"""Training processes as the main process sees them."""

import multiprocessing
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

from casemate.core.worker import Answer, serve


class TrainingProcess:
    """One training process and this end of the pipe to it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=serve, args=(far,), daemon=True)
        with _without_main(), _deaf_to_interrupts():
            self.process.start()
        far.close()  # the pipe must end with the process
        self.alive = True

    def send(self, letter: bytes) -> None:
        """Hand out a job; that the process has died is noticed on receiving."""
        with suppress(BrokenPipeError):
            self.pipe.send_bytes(letter)

    def receive(self) -> Answer:
        """Wait for the next answer; the end of the process is one as well."""
        try:
            answer: Answer = pickle.loads(self.pipe.recv_bytes())  # noqa: S301 - from our own process
        except (EOFError, ConnectionResetError):
            self.process.join()
            self.alive = False
            return "failed", RuntimeError(f"A training process ended with exit code {self.process.exitcode}.")
        return answer

    def stop(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.terminate()
        self.process.join()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Start processes that ignore interrupts from their first moment, also while they import.

    An interrupt from the keyboard reaches them as well as this process, which stops them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the program's main module from a process being started.

    It would be run again there, which is slow, and a script without a guard would do all its work
    again.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
