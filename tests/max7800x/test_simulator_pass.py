"""Layers without weights: pooling, element-wise operations, subsampling, gaps."""

import numpy as np
import pytest

from ai8x.max7800x.simulator import Accelerator

from .register_program import (
    data_address,
    encode,
    initialise,
    input_words,
    load_data,
    naive_pool,
    random_array,
    signed,
    start,
    write_register,
)


def pass_fields(
    operands: int, processors: int, height: int, width: int, **changes: dict[str, int]
) -> dict[str, dict[str, int]]:
    several = operands > 1
    fields = {
        "RCNT": {"max": height - 1},
        "CCNT": {"max": width - 1},
        "WPTR_BASE": {"value": 0x1000},
        "WPTR_TOFF": {"value": 8192 if processors > 4 else 2048},
        "LCTRL0": {"master": 1, "maxpl_en": 1, "sramlsrc": 1},
        "ONED": {
            "tscnt_max": (processors - 1) // 4,
            "oned_width": int(not several),
            "ewise_en": int(several),
            "ewise_cnt": operands - 1,
        },
        "EN": {"pro_en": (1 << processors) - 1},
        "POST": {"ts_en": 1, "onexone_en": int(not several)},
    }
    for name, changed in changes.items():
        fields[name] = {**fields.get(name, {}), **changed}
    return fields


def run_pass(
    fields: dict[str, dict[str, int]], words: np.ndarray, processors: int, outputs: int, control: int = 0
) -> np.ndarray:
    """Output int64 (processor, word) of a pass layer."""
    accelerator = Accelerator(seed=5)
    initialise(accelerator)
    for name, values in fields.items():
        write_register(accelerator, name, 0, encode(name, values))
    load_data(accelerator, range(processors), 0, words)
    start(accelerator, extra=control)
    accelerator.complete()
    return np.array(
        [
            [signed(accelerator.peek(data_address(p, 0x1000 + i), 4) >> 8 * (p % 4), 8) for i in range(outputs)]
            for p in range(processors)
        ]
    )


OPERATIONS = {0: lambda a, b: a - b, 1: lambda a, b: a + b, 2: lambda a, b: a | b, 3: lambda a, b: a ^ b}


@pytest.mark.parametrize("function", OPERATIONS)
@pytest.mark.parametrize("operands", [2, 5, 16])
def test_elementwise_combines_from_left_to_right_and_saturates_once(function: int, operands: int) -> None:
    rng = np.random.default_rng(operands)
    data = random_array(rng, -128, 127, operands, 6, 3, 2)
    words = data.transpose(2, 3, 0, 1).reshape(-1, 6)
    fields = pass_fields(operands, 6, 3, 2, ONED={"ewise_func": function})
    wanted = data[0]
    for operand in data[1:]:
        wanted = OPERATIONS[function](wanted, operand)
    np.testing.assert_array_equal(run_pass(fields, words, 6, 6), np.clip(wanted, -128, 127).reshape(6, -1))


@pytest.mark.parametrize("rounding", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_average_pooling_before_and_after_addition(before: bool, rounding: bool) -> None:
    data = random_array(np.random.default_rng(1), -128, 127, 2, 4, 6, 5)
    fields = pass_fields(
        2,
        4,
        6,
        5,
        PRCNT={"value": 1},
        PCCNT={"value": 2},
        STRIDE={"value": 1},
        LCTRL0={"pool_en": 1, "maxpl_en": 0},
        ONED={"ewise_func": 1, "prepool": int(before)},
    )

    def pool(image: np.ndarray) -> np.ndarray:
        return naive_pool(image, (2, 3), 2, True, rounding)

    wanted = (
        np.clip(pool(data[0]) + pool(data[1]), -128, 127) if before else pool(np.clip(data[0] + data[1], -128, 127))
    )
    result = run_pass(fields, data.transpose(2, 3, 0, 1).reshape(-1, 4), 4, 6, control=(1 << 13) * rounding)
    np.testing.assert_array_equal(result, wanted.reshape(4, -1))


@pytest.mark.parametrize(
    ("values", "truncated", "rounded"), [([1, 2], 1, 2), ([-1, -2], -1, -2), ([-1, 0], 0, -1), ([127, 127], 127, 127)]
)
def test_average_truncates_or_rounds_half_away_from_zero(values: list[int], truncated: int, rounded: int) -> None:
    fields = pass_fields(1, 1, 1, 2, PCCNT={"value": 1}, LCTRL0={"pool_en": 1, "maxpl_en": 0})
    words = np.array(values).reshape(2, 1)
    assert run_pass(fields, words, 1, 1).item() == truncated
    assert run_pass(fields, words, 1, 1, control=1 << 13).item() == rounded


def test_stride_without_window_subsamples() -> None:
    data = random_array(np.random.default_rng(2), -128, 127, 3, 7, 5)
    result = run_pass(pass_fields(1, 3, 7, 5, STRIDE={"value": 2}), input_words(data), 3, 6)
    np.testing.assert_array_equal(result, data[:, ::3, ::3].reshape(3, -1))


def test_write_gap_leaves_the_words_between() -> None:
    accelerator = Accelerator(seed=1)
    initialise(accelerator)
    for name, values in pass_fields(1, 4, 1, 2, LCTRL1={"wptr_inc": 1}).items():
        write_register(accelerator, name, 0, encode(name, values))
    load_data(accelerator, range(4), 0, np.array([[1, 2, 3, 4], [5, 6, 7, 8]]))
    start(accelerator)
    accelerator.complete()
    words = [data_address(0, 0x1000 + i) for i in range(3)]
    assert [accelerator.undefined(word) for word in words] == [0, 0xFFFFFFFF, 0]
    assert [accelerator.peek(words[i], 4) for i in (0, 2)] == [0x04030201, 0x08070605]
