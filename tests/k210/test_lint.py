"""Each rule of the lint fires on a model that breaks it, and on no model of ours."""

import dataclasses

import numpy as np
import pytest

from ai8x.k210 import device
from ai8x.k210.kmodel import KModel
from ai8x.k210.kmodel_layers import ActivationTable, BatchNorm, MemoryRange
from ai8x.k210.lint import derived_fields, lint_kmodel, sum_bounds, value_bounds

from .small_networks import RELU, Chain, average_pool


def model() -> KModel:
    chain = Chain(3, 8, 8)
    chain.conv(4, 3, 1, activation=RELU)
    return chain.check().model


def with_fields(**changes: int) -> KModel:
    original = model()
    layer = original.layers[0]
    words = device.encode_layer_argument(layer.fields | changes)
    return dataclasses.replace(original, layers=(dataclasses.replace(layer, words=words),))


def with_layer(**changes: object) -> KModel:
    original = model()
    return dataclasses.replace(original, layers=(dataclasses.replace(original.layers[0], **changes),))


def codes(subject: KModel) -> set[str]:
    return {finding.code for finding in lint_kmodel(subject).items}


def test_our_models_have_no_findings():
    assert codes(model()) == set()


@pytest.mark.parametrize("field", sorted(derived_fields(model().layers[0].fields)))
def test_every_derived_register_field_is_checked(field):
    value = model().layers[0].fields[field]
    assert "E0750" in codes(with_fields(**{field: value - 1 if value else 1}))


@pytest.mark.parametrize(("changes", "code"), [
    ({"pool_type": 10}, "E0750"), ({"para_size": 1}, "E0750"),
    ({"i_col_high": 2, "o_col_high": 2}, "E0751"), ({"i_col_high": 299, "o_col_high": 299}, "E0751"),
    ({"i_col_high": 250, "o_col_high": 250}, "E0759"),
    ({"image_src_addr": 32_767}, "E0752"), ({"image_dst_addr": 0, "image_src_addr": 0}, "E0752"),
    ({"arg_add": (1 << 39) - 1}, "E0753"),
])
def test_registers_sizes_and_places(changes, code):
    assert code in codes(with_fields(**changes))


def test_a_result_outside_main_memory_is_found():
    assert "E0752" in codes(with_layer(main_memory_output=4096))
    assert "E0752" in codes(with_layer(main_memory_output=4))
    outputs = (MemoryRange(address=250, size=100),)
    assert "E0752" in codes(dataclasses.replace(model(), outputs=outputs))


def test_a_last_layer_that_stays_in_the_kpu_is_found():
    assert codes(with_layer(main_memory_output=None)) == {"E0755"}


def test_a_batch_norm_beyond_36_bits_is_found():
    norm = model().layers[0].batch_norm
    wide = BatchNorm(mul=np.full(4, (1 << 23) - 1), shift=np.zeros(4, np.int64), add=norm.add)
    assert "E0753" in codes(with_layer(batch_norm=wide))


def changed_table(**changes: object) -> ActivationTable:
    table = model().layers[0].activation
    arrays = {name: getattr(table, name).copy() for name in ("start", "mul", "shift", "bias")}
    for name, (index, value) in changes.items():
        arrays[name][index] = value
    return ActivationTable(**arrays)


@pytest.mark.parametrize(("changes", "code"), [
    ({"start": (0, 0)}, "E0754"), ({"start": (2, -(1 << 34))}, "E0754"), ({"mul": (1, -5)}, "E0756"),
    ({"bias": (2, 200)}, "E0757"),
])
def test_activation_tables(changes, code):
    assert code in codes(with_layer(activation=changed_table(**changes)))


def test_unconfirmed_pool_types_are_warned_of():
    chain = Chain(3, 8, 8)
    chain.conv(4, 3, 1, activation=RELU)
    chain.conv(4, 3, 1, pool=average_pool(2))
    (finding,) = lint_kmodel(chain.check().model).items
    assert (finding.code, finding.level, finding.layer_index) == ("E0758", "warning", 0)


def test_bounds_are_those_of_the_worst_inputs():
    layer = model().layers[0]
    weights = layer.weights.astype(int) - 128
    for channel in range(4):
        least = 127 * weights[channel][weights[channel] < 0].sum() - 128 * weights[channel][weights[channel] > 0].sum()
        assert sum_bounds(layer).low[channel] == least
    assert value_bounds(layer).greatest < 1 << 35
