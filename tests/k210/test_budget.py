"""Networks that do not fit say what fills the memory and what to change."""

import numpy as np
import pytest

from ai8x.errors import UserError
from ai8x.k210.budget import fullest_step, live_at, memory_budgets
from ai8x.k210.lower import lower_network
from ai8x.memory import Buffer, plan_memory

from .small_networks import Chain


def refusal(chain: Chain):
    with pytest.raises(UserError) as refused:
        lower_network(chain.network())
    (finding,) = refused.value.diagnostics
    return finding


def test_too_much_kpu_ram_names_the_live_layers_and_a_remedy():
    chain = Chain(3, 128, 128)
    chain.conv(100, 3)
    chain.conv(100, 3)
    chain.conv(2, 3)
    finding = refusal(chain)
    assert finding.code == "E0450"
    assert "layer0 25600" in finding.found and "layer1" in finding.found
    assert "32768 lines" in finding.allowed
    assert "% of what they are" in finding.help


def test_too_many_weights_name_the_largest_layer_and_the_budgets():
    chain = Chain(8, 4, 4)
    chain.conv(1000, 3)
    chain.conv(900, 3)
    finding = refusal(chain)
    assert (finding.code, finding.layer) == ("E0452", "layer1")
    assert "C program 5500000; MaixPy 3500000" in finding.allowed
    assert "8100000 bytes of the file" in finding.help


def test_budgets_count_file_and_main_buffer():
    assert memory_budgets(1000, 24) == {"C program": (1024, 5_500_000), "MaixPy": (1024, 3_500_000)}


def test_the_fullest_step_and_what_lives_there():
    sizes = np.array([5, 7, 3])
    plan = plan_memory([Buffer(name=f"b{i}", size=int(size), first_use=i, last_use=i + 1)
                        for i, size in enumerate(sizes)], capacity=100)
    assert fullest_step(plan) == 1
    assert live_at(plan, 1, {"b0": "first", "b1": "second"}) == "second 7, first 5"
