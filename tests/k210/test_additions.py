"""Additions on the KPU or on the CPU, whichever is faster, and exact in both forms."""

import numpy as np
import pytest

from ai8x.k210.additions import cheapest_steps
from ai8x.k210.encode import Places, encode_step
from ai8x.k210.interpreter_cpu import run_cpu_layer
from ai8x.k210.interpreter_memory import MainMemory, defined
from ai8x.k210.legalize import legalize
from ai8x.k210.step_times import steps_milliseconds
from ai8x.k210.steps import EltwiseStep, MainBuffer
from ai8x.network.ir import Eltwise
from tests.k210.small_networks import Chain, kinds, max_pool

EVERY_BYTE = np.arange(256, dtype=np.uint8)


@pytest.mark.parametrize("subtract", [False, True])
def test_every_pair_of_bytes_is_added_exactly(subtract: bool) -> None:
    first, second = np.repeat(EVERY_BYTE, 256), np.tile(EVERY_BYTE, 256)
    size = first.size
    a, b, result = (MainBuffer(name=name, elements=size) for name in "abc")
    step = EltwiseStep(name="add", layer=0, first=a, second=b, target=result,
                       operation=Eltwise.SUB if subtract else Eltwise.ADD)
    layer = encode_step(step, Places(lines={}, main={"a": 0, "b": size, "c": 2 * size}))
    memory = MainMemory(3 * size)
    memory.write(0, defined(np.concatenate([first, second])), "operands")
    found = run_cpu_layer(layer, memory, "add").astype(np.int64) - 128
    left, right = first.astype(np.int64) - 128, second.astype(np.int64) - 128
    assert np.array_equal(found, np.clip(left - right if subtract else left + right, -128, 127))


def two_branches(channels: int, size: int) -> Chain:
    chain = Chain(8, size, size)
    chain.conv(channels, 1)
    chain.conv(channels, 1, inputs=(-1,))
    return chain


def test_many_channels_on_a_small_map_are_added_by_the_cpu() -> None:
    chain = two_branches(500, 4)
    chain.add(0, 1)
    assert "QuantizedAdd" in kinds(chain.check())


def test_few_channels_on_a_large_map_are_added_by_the_kpu() -> None:
    chain = two_branches(8, 40)
    chain.add(0, 1)
    chain.conv(8, 3)
    assert "QuantizedAdd" not in kinds(chain.check())


def test_two_operands_of_more_channels_than_a_layer_reads_are_added_by_the_cpu() -> None:
    chain = two_branches(600, 4)
    chain.add(0, 1)
    chain.conv(4, 1)
    assert "QuantizedAdd" in kinds(chain.check())


@pytest.mark.parametrize("eltwise", [Eltwise.ADD, Eltwise.SUB])
@pytest.mark.parametrize("pool_first", [False, True])
def test_the_cpu_form_is_exact_with_pooling_and_a_convolution_behind_it(eltwise: Eltwise, pool_first: bool) -> None:
    chain = two_branches(520, 6)
    chain.conv(3, 1, inputs=(0, 1), eltwise=eltwise, pool=max_pool(2), pool_first=pool_first)
    assert "QuantizedAdd" in kinds(chain.check())


def test_a_tensor_added_to_itself_and_to_the_input_is_exact() -> None:
    chain = Chain(3, 3, 3)  # 27 bytes: no multiple of the blocks of eight in which the CPU adds
    chain.transposed(3)
    chain.add(0, 0)
    chain.add(1, 1)
    chain.conv(1030, 1, inputs=(-1,), pool=max_pool(3))
    lowered = chain.check(2, 3)
    assert "QuantizedAdd" in kinds(lowered)


@pytest.mark.parametrize(("channels", "size"), [(16, 4), (64, 4), (200, 4), (500, 4), (64, 16), (8, 40)])
def test_the_faster_form_is_chosen(channels: int, size: int) -> None:
    chain = two_branches(channels, size)
    chain.add(0, 1)
    chain.conv(8, 1)
    network = chain.network()
    forms = {on_cpu: steps_milliseconds(legalize(network, cpu_additions=frozenset(on_cpu)).steps)
             for on_cpu in ((), (2,))}
    chosen = steps_milliseconds(cheapest_steps(network).steps)
    assert chosen == min(forms.values())
