"""How a firmware ended, and what its console says about it: the same for every board.

Start at `Stop` and `RunResult`.

Source: spec/virtual-boards.md sections 3 and 4.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

_PASS = re.compile(r"\bPASS\b")
_FAIL = re.compile(r"\bFAIL\b")
_TIME = re.compile(r"\btime:?\s*(\d+)\s*us\b", re.IGNORECASE)


class StopCause(enum.Enum):
    """Why the firmware ended; a closed set."""

    RETURNED = "main returned"
    EXITED = "exit called"
    DEADLOCK = "sleeps for ever"
    ENDLESS_LOOP = "endless loop"
    BUDGET = "instruction budget exceeded"
    BUS_FAULT = "bus fault"
    UNDEFINED = "undefined instruction"
    BREAKPOINT = "breakpoint instruction"
    FPU_DISABLED = "floating-point unit not enabled"
    RESET = "reset requested"
    UNSUPPORTED = "not modelled"
    DETACHED = "ended by the debugger"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The end of a run.

    Args:
        cause: its kind.
        reason: one sentence with the place, for the user.
    """

    cause: StopCause
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a firmware did, as far as every board can tell.

    Args:
        console: everything it printed.
        cause: why it ended.
        stop_reason: the same in one sentence with the place.
        time_us: virtual time at the end, microseconds. Waiting times are exact; CPU time is taken as one cycle per
            instruction and must not be used as an estimate of the chip's.
    """

    console: str
    cause: StopCause
    stop_reason: str
    time_us: float

    @property
    def returned(self) -> bool:
        """Main returned."""
        return self.cause is StopCause.RETURNED

    @property
    def passed(self) -> bool:
        """Main returned and the console says PASS (and not FAIL)."""
        return self.returned and bool(_PASS.search(self.console)) and not _FAIL.search(self.console)

    @property
    def reason(self) -> str:
        """Why the firmware ended, and what the console lacks if it returned without passing."""
        if not self.returned or self.passed:
            return self.stop_reason
        said = "says FAIL" if _FAIL.search(self.console) else "does not say PASS"
        return f"{self.stop_reason}, the console {said}"

    @property
    def inference_us(self) -> int | None:
        """The last inference time that the firmware printed, microseconds; None where it printed none."""
        times = _TIME.findall(self.console)
        return int(times[-1]) if times else None


def console_text(data: bytes | bytearray) -> str:
    """What a firmware sent, as text with line feeds only."""
    return data.decode("utf-8", errors="replace").replace("\r\n", "\n")
