"""Give an audit so much time and no more: who waits for it goes on without it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, Thread
from typing import TypeVar
from weakref import WeakKeyDictionary

from labelleak.errors import BadInput

T = TypeVar("T")
# One audit at a time of each auditor: one that was given up still holds the auditor's model.
_BUSY: WeakKeyDictionary[object, Lock] = WeakKeyDictionary()


def within(seconds: float, owner: object, work: Callable[[], T]) -> T:
    """Return what some work returns, or raise if it takes too long.

    The work runs in a thread of its own, which cannot be ended: one that was given up goes on,
    and its answer is dropped. Until it has ended, others of the same owner wait in vain.

    Args:
        seconds: how long to wait.
        owner: whose work it is; it does one at a time.
        work: what is to be done.

    Raises:
        BadInput: if it takes longer.

    >>> within(60, BadInput, lambda: 3)
    3
    """
    busy, answer = _BUSY.setdefault(owner, Lock()), Future[T]()

    def run() -> None:
        if not busy.acquire(timeout=seconds):
            return
        try:
            if answer.set_running_or_notify_cancel():
                answer.set_result(work())
        except BaseException as error:  # noqa: BLE001
            answer.set_exception(error)
        finally:
            busy.release()

    Thread(target=run, daemon=True, name="labelleak audit").start()
    try:
        return answer.result(timeout=seconds)
    except TimeoutError:
        if answer.done():  # the work itself has raised it
            raise
        answer.cancel()
        raise BadInput(f"the audit took longer than {seconds:g} s (max_seconds)") from None


__all__ = ["within"]
