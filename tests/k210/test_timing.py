"""The time of KPU layers against the published measurements; spec section 16."""

import pytest

from ai8x.k210 import device
from ai8x.k210.timing import kpu_cycles, kpu_time_s

# kind, input channels, output channels, rows, columns, measured ms (vendor's face detector at 400 MHz, 8-bit weights)
MEASURED = [
    ("3x3", 3, 16, 240, 320, 0.206), ("dw", 16, 16, 120, 160, 0.039), ("1x1", 16, 32, 120, 160, 0.514),
    ("dw", 32, 32, 60, 80, 0.029), ("1x1", 32, 64, 60, 80, 0.680), ("dw", 64, 64, 60, 80, 0.053),
    ("1x1", 64, 64, 60, 80, 1.328), ("dw", 64, 64, 30, 40, 0.020), ("1x1", 64, 128, 30, 40, 0.704),
    ("dw", 128, 128, 30, 40, 0.034), ("1x1", 128, 128, 30, 40, 1.385), ("dw", 128, 128, 15, 20, 0.016),
    ("1x1", 128, 256, 15, 20, 0.781), ("dw", 256, 256, 15, 20, 0.025), ("1x1", 256, 256, 15, 20, 1.521),
    ("main", 256, 30, 15, 20, 0.326), ("3x3", 3, 16, 240, 320, 0.210), ("3x3", 16, 16, 120, 160, 0.268),
    ("3x3", 16, 16, 60, 80, 0.099),
]


def fields(kind: str, inputs: int, outputs: int, height: int, width: int) -> dict[str, int]:
    """The fields that the formula reads, loads by the rule of nncase."""
    kernel = 3 if kind in ("3x3", "dw") else 1
    loads = 1
    if kind != "dw":
        loads = -(-outputs // device.channels_per_load(inputs, outputs, kernel))
    return {"i_ch_num": inputs - 1, "o_ch_num": outputs - 1, "i_col_high": height - 1, "i_row_wid": width - 1,
            "kernel_type": kernel // 2, "depth_wise_layer": int(kind == "dw"), "load_time": loads - 1,
            "dma_total_byte": outputs * height * width - 1}


@pytest.mark.parametrize(("kind", "inputs", "outputs", "height", "width", "measured_ms"), MEASURED)
def test_layer_time_is_within_four_percent_of_the_measurement(kind: str, inputs: int, outputs: int, height: int,
                                                              width: int, measured_ms: float) -> None:
    layer = fields(kind, inputs, outputs, height, width)
    # The measurements have three decimals: half a unit of the last one is their own uncertainty.
    assert kpu_time_s(layer, to_main_memory=kind == "main") * 1e3 == pytest.approx(measured_ms, rel=0.04, abs=0.0005)


@pytest.mark.parametrize(("width", "height", "measured_ms"), [
    (16, 4, 0.339), (16, 16, 0.417), (32, 16, 0.692), (32, 32, 1.138), (64, 32, 2.125), (64, 64, 3.891),
    (128, 64, 7.709), (128, 128, 14.778), (256, 256, 57.756)])
def test_16_bit_layers_are_within_seven_percent_of_the_measurement(width: int, height: int, measured_ms: float) -> None:
    layer = fields("3x3", 128, 128, height, width)
    layer["load_time"] = -(-128 // device.channels_per_load(128, 128, 3, 2)) - 1
    time_s = kpu_time_s(layer, to_main_memory=False, eight_bit=False, clock_hz=300_000_000)
    assert time_s * 1e3 == pytest.approx(measured_ms, rel=0.07)


def test_cycles_of_the_compute_formula() -> None:
    assert kpu_cycles(fields("3x3", 3, 16, 240, 320)) == 16 * 5 * (3 * 247 + 240 + 24)
    assert kpu_cycles(fields("1x1", 16, 32, 30, 16)) == 32 * (4 * 33.25 + 30 + 24)
    assert kpu_cycles(fields("dw", 9, 9, 30, 16)) == 3 * (60 + 31)
