"""Ctrl-C and SIGTERM ask a run to stop after the current step; a second one stops it at once.

Start at `StopRequest`.

Source: docs/design.md "Training that can be interrupted".
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Context in which the two signals only leave a mark; the former handlers come back afterwards."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._former: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in _SIGNALS:
            self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def is_set(self) -> bool:
        """Whether a signal came."""
        return self._received is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            raise KeyboardInterrupt
        self._received = number
