"""Every fact that the results rely on and that no device has confirmed: the one list of them.

Which of them a network relies on is decided by `report_max78000.py` and `report_k210.py`. A place in the code that
rests on such a fact is marked with the word that `marked` looks for in a test; the file is named here. Start at
`known_fact`.

Source: spec/max78000-cnn.md section 11; spec/k210-kmodel.md section 19.6; docs/design.md "Honesty".
"""

from __future__ import annotations

from dataclasses import dataclass

from ai8x.report import Fact

_MAX78000, _K210 = "spec/max78000-cnn.md section", "spec/k210-kmodel.md section"
_OUTPUT = "outputs differ from the reference"
_TIME = "the estimated time is off; no value changes"
_START = "the firmware does not start or does not end; no value changes"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFact:
    """A fact with the places that rest on it.

    Args:
        fact: as the report shows it.
        marked: files below ``ai8x/`` that carry the mark, where code rests on it.
    """

    fact: Fact
    marked: tuple[str, ...] = ()


def _known(key: str, text: str, effect: str, source: str, *marked: str) -> KnownFact:
    return KnownFact(fact=Fact(key=key, text=text, effect=effect, source=source), marked=marked)


FACTS: tuple[KnownFact, ...] = (
    _known("max78000-average-negative", "average pooling of negative sums that do not divide evenly",
           f"{_OUTPUT} by 1 where such an average occurs", f"{_MAX78000} 4.4"),
    _known("max78000-average-rounding", "average pooling with rounding, for negative ties",
           f"{_OUTPUT} by 1 where such an average occurs", f"{_MAX78000} 4.4", "arithmetic.py"),
    _known("max78000-accumulator", "accumulators beyond 26 bits, which this network's weights can reach",
           f"{_OUTPUT} where an input drives an accumulator that far", f"{_MAX78000} 4.2"),
    _known("max78000-rolling-buffer", "rolling buffers that keep data between inferences", _OUTPUT,
           f"{_MAX78000} 11"),
    _known("max78000-in-place", "layers that write over words which they have already read", _OUTPUT,
           f"{_MAX78000}s 2.2 and 8.1", "max7800x/read_order.py"),
    _known("max78000-chw-lanes", "CHW input on processors whose number is not a multiple of 4", _OUTPUT,
           f"{_MAX78000} 11"),
    _known("max78000-stream-rollover", "when the circular buffers of streaming layers roll over", _OUTPUT,
           f"{_MAX78000} 11"),
    _known("max78000-stream-time", "how long streaming layers take when the CPU feeds the FIFO", _TIME,
           f"{_MAX78000} 8"),
    _known("max78000-quad-time", "how long layer 0 takes in quad mode", _TIME, f"{_MAX78000} 8.1",
           "max7800x/cycles.py"),
    _known("max78000-memory-sleep", "mask memories of unused quadrants switched off", _START, f"{_MAX78000} 11"),
    _known("max78000-self-test", "the memories' self tests leave zeros", "a self test is reported as failed",
           f"{_MAX78000} 1", "max7800x/simulator.py"),
    _known("max78000-riscv-start", "boot address of the RISC-V core, and the semaphore interrupts between the cores",
           _START, f"{_MAX78000} 9", "max7800x/templates/launcher.c.j2", "max7800x/templates/main_run.c.j2",
           "max7800x/templates/riscv/startup_riscv.S"),
    _known("max78000-timers", "interrupt numbers of timers other than timer 0, and the bit that enables them",
           "the virtual board measures differently from the chip; no value changes", "spec/virtual-boards.md section 3",
           "virtual/max78000.py", "virtual/peripherals.py", "virtual/systick.py"),
    _known("max78000-register-bits", "register bits that are always written 0 (calcmax, oneshot, simple1b, FIFO "
           "interrupts)", "none: no program sets them", f"{_MAX78000} 2", "max7800x/device.py"),
    _known("k210-pooling", "KPU pooling other than max 2x2 and the pick of the left top", _OUTPUT,
           f"{_K210}s 6 and 19.6"),
    _known("k210-depthwise-1x1", "depthwise 1x1 layers", _OUTPUT, f"{_K210} 19.6"),
    _known("k210-falling-table", "falling segments of activation tables, whose rounding emulators do differently",
           f"{_OUTPUT} by 1 or 2", f"{_K210}s 5 and 19.6", "k210/simulator_stages.py"),
    _known("k210-partial-load", "weights in several loads of which the last is not full", _OUTPUT, f"{_K210} 19.6"),
    _known("k210-map-size", "maps larger than the 320x240 that the vendor advertises", _OUTPUT, f"{_K210} 7"),
    _known("k210-main-memory-rate", "how long KPU results take on their way to main memory", _TIME,
           f"{_K210}s 16 and 19.6"),
    _known("k210-upload-rate", "how long the CPU takes to copy a map into KPU memory", _TIME, f"{_K210} 16"),
    _known("k210-register-bits", "register bits that are always written 0 (full_add, pad_type, first_stride, "
           "bypass_conv)", "none: no program sets them", f"{_K210} 3", "k210/device.py"),
    _known("k210-standalone-board", "some register bits of the start-up code (PLL, pins, DMA, serial port), each "
           "marked in board.c", _START, "k210/standalone/board.c", "k210/templates/standalone/board.c"),
    _known("k210-sdk-runner", "the runner for the vendor's SDK, which was compiled but neither linked nor run",
           _START, "k210/runner_sdk.c", "k210/templates/runner_sdk.c"),
)
"""All of them, in the order of chips and sections."""


def known_fact(key: str, detail: str = "") -> Fact:
    """The fact with a key.

    Args:
        key: of `FACTS`.
        detail: numbers of this network, added to the text.

    Raises:
        KeyError: no such fact.
    """
    fact = {known.fact.key: known.fact for known in FACTS}[key]
    return Fact(key=fact.key, text=f"{fact.text}: {detail}" if detail else fact.text, effect=fact.effect,
                source=fact.source)
