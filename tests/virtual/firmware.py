"""Building small C programs for the virtual board, and a stand-in for the accelerator."""

from collections.abc import Callable
from pathlib import Path

from ai8x.virtual.max78000 import FirmwareResult, Latency, run_firmware

CTRL = 0x50100000
START, DONE = 1 << 0, 1 << 12

Build = Callable[[str], Path]


class FakeAccelerator:
    """Stores what is written; runs when the start bit is set, and needs `fifo_words` words before it completes."""

    def __init__(self, *, fifo_words: int = 0) -> None:
        self.words: dict[int, int] = {}
        self.power_writes: list[tuple[int, int]] = []
        self.completed = 0
        self._missing = fifo_words
        self._running = False

    def read(self, address: int, size: int) -> int:
        return self.peek(address, size)

    def peek(self, address: int, size: int) -> int:
        return self.words.get(address, 0)

    def write(self, address: int, size: int, value: int) -> None:
        before = self.words.get(address, 0)
        self.words[address] = value
        if address == CTRL:
            self._running = bool(value & START) and (self._running or not before & START)
        elif address == 0x50000008:
            self._missing -= 1

    def power(self, address: int, value: int) -> None:
        self.power_writes.append((address, value))

    @property
    def run_requested(self) -> bool:
        return self._running

    @property
    def input_complete(self) -> bool:
        return self._missing <= 0

    def complete(self) -> None:
        self._running = False
        self.completed += 1
        self.words[CTRL] |= DONE


def run(elf: Path, *, cycles: int = 1000, overhead_ns: int = 0, budget: int = 20_000_000, seed: int = 0,
        accelerator: FakeAccelerator | None = None) -> FirmwareResult:
    """Run a firmware against a stand-in accelerator."""
    latency = Latency(cycles=lambda: cycles, overhead_ns=overhead_ns)
    return run_firmware(elf, accelerator or FakeAccelerator(), latency, budget=budget, seed=seed)


def main_with(body: str, *, before: str = "", clock: bool = True) -> str:
    """A program whose main consists of these statements, at 100 MHz."""
    select = "MXC_SYS_Clock_Select(MXC_SYS_CLOCK_IPO);" if clock else ""
    return f"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "mxc.h"
#include "gcfr_regs.h"
#define REG32(address) (*(volatile uint32_t *)(uintptr_t)(address))
{before}
int main(void)
{{
    {select}
    {body}
    return 0;
}}
"""
