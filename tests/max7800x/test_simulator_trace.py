"""Recorded bus traces: the file format, the comparison, and every case that was recorded from the vendor's firmware."""

from pathlib import Path

import numpy as np
import pytest

from ai8x.errors import HardwareFault, Source, UserError
from ai8x.max7800x.simulator import Accelerator
from ai8x.max7800x.simulator_trace import read_bus_trace, run_bus_trace

from .register_program import data_address, recorded_trace

CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases"
RECORDED = sorted(CASES.glob("max78000*/*/bus.npz"))


def test_trace_whose_words_hold_passes() -> None:
    report = run_bus_trace(recorded_trace())
    assert report.passed
    assert (report.checked, report.runs, report.failures) == (1, 1, ())


def test_differing_word_is_reported_with_both_values() -> None:
    trace = recorded_trace()
    trace["expected"][0, 2] ^= 1
    report = run_bus_trace(trace)
    assert not report.passed
    assert str(report.failures[0]) == "address 0x50404000: expected 0x0000fb04, found 0x0000fb05 (mask 0x0000ffff)"


def test_undefined_byte_fails_whatever_its_value() -> None:
    trace = recorded_trace()
    accelerator = Accelerator(seed=0)
    for address, size, value in zip(*(trace[k].tolist() for k in ("address", "size", "value")), strict=True):
        accelerator.write(address, size, value)
    accelerator.complete()
    word = accelerator.peek(data_address(0, 0x1000), 4)
    trace["expected"] = np.array([[data_address(0, 0x1000), 0xFFFFFFFF, word]], dtype=np.uint32)
    report = run_bus_trace(trace, seed=0)
    assert not report.passed
    assert "undefined: address 0x50404002 was never written" in str(report.failures[0])


def test_trace_without_start_or_without_its_input_is_a_fault() -> None:
    trace = recorded_trace()
    shortened = {name: array[:-1] if name != "expected" else array for name, array in trace.items()}
    with pytest.raises(HardwareFault, match="never starts a run"):
        run_bus_trace(shortened)


def test_trace_that_expects_nothing_is_refused() -> None:
    trace = recorded_trace()
    trace["expected"] = trace["expected"][:0]
    with pytest.raises(UserError) as caught:
        run_bus_trace(trace)
    assert caught.value.diagnostics[0].code == "E0152"


@pytest.mark.parametrize("damage", ["missing", "float", "length", "columns"])
def test_arrays_that_are_no_trace_are_refused(damage: str) -> None:
    trace = recorded_trace()
    if damage == "missing":
        del trace["size"]
    elif damage == "float":
        trace["value"] = trace["value"].astype(np.float64)
    elif damage == "length":
        trace["size"] = trace["size"][1:]
    else:
        trace["expected"] = trace["expected"][:, :2]
    with pytest.raises(UserError) as caught:
        run_bus_trace(trace)
    assert caught.value.diagnostics[0].code == "E0151"


def test_file_round_trip_and_unreadable_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "bus.npz", **recorded_trace())
    assert run_bus_trace(tmp_path / "bus.npz").passed
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("broken.npz", "text.npz", "absent.npz"):
        with pytest.raises(UserError) as caught:
            read_bus_trace(tmp_path / name)
        assert caught.value.diagnostics[0].code == "E0150"
        assert caught.value.diagnostics[0].source == Source(file=str(tmp_path / name))


def test_file_with_a_single_array_is_no_trace(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError) as caught:
        read_bus_trace(tmp_path / "one.npy")
    assert caught.value.diagnostics[0].code == "E0151"


@pytest.mark.skipif(not RECORDED, reason="the shared folder with recorded cases is not here")
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.name)
def test_recorded_trace_holds_and_a_flipped_expectation_does_not(path: Path) -> None:
    trace = read_bus_trace(path)
    assert run_bus_trace(trace, seed=1).passed
    row = np.flatnonzero(trace["expected"][:, 1])[0]
    mask = int(trace["expected"][row, 1])
    trace["expected"][row, 2] ^= mask & -mask
    assert not run_bus_trace(trace, seed=2).passed
