"""How long each layer of a kmodel takes, as far as rates are known. Start at `layer_milliseconds`.

Source: spec/k210-kmodel.md section 16.1.
"""

from __future__ import annotations

from collections.abc import Iterable

from ai8x.k210 import timing
from ai8x.k210.device import K210
from ai8x.k210.encode import Places, conv_fields
from ai8x.k210.kmodel import KModel
from ai8x.k210.kmodel_layers import Dequantize, K210Conv, K210Upload, KModelLayer, QuantizedAdd
from ai8x.k210.steps import ConvStep, EltwiseStep, Step, UploadStep


def layer_milliseconds(layer: KModelLayer, *, eight_bit: bool) -> float | None:
    """Time of one layer; None for a CPU layer whose rate has not been published.

    Args:
        layer: of a kmodel.
        eight_bit: the model's weights have 8 bits.
    """
    latency = K210.latency
    if isinstance(layer, K210Conv):
        return 1e3 * timing.kpu_time_s(layer.fields, to_main_memory=layer.main_memory_output is not None,
                                       eight_bit=eight_bit)
    if isinstance(layer, Dequantize):
        return 1e3 * layer.count * latency.dequantize_s
    if isinstance(layer, QuantizedAdd):
        return 1e3 * layer.count * latency.quantized_add_s
    if isinstance(layer, K210Upload):
        return 1e3 * layer.width * layer.height * layer.channels * latency.upload_s
    return None


def model_milliseconds(model: KModel) -> dict[int, float]:
    """Index -> time, for the layers whose time is known."""
    times = {index: layer_milliseconds(layer, eight_bit=model.eight_bit_weights)
             for index, layer in enumerate(model.layers)}
    return {index: time_ms for index, time_ms in times.items() if time_ms is not None}


def steps_milliseconds(steps: Iterable[Step]) -> float:
    """Time of steps that have no addresses yet, for choosing between forms.

    What no rate has been published for counts as copying the bytes that it writes.
    """
    return sum(_step_milliseconds(step) for step in steps)


def _step_milliseconds(step: Step) -> float:
    latency = K210.latency
    if isinstance(step, ConvStep):
        anywhere = Places(lines=dict.fromkeys((*step.source.names, step.target.name), 0), main={})
        return 1e3 * timing.kpu_time_s(conv_fields(step, anywhere), to_main_memory=step.main is not None)
    if isinstance(step, UploadStep):
        return 1e3 * step.source.size_bytes * latency.upload_s
    if isinstance(step, EltwiseStep):
        return 1e3 * step.target.elements * latency.quantized_add_s
    return 1e3 * step.target.size_bytes / latency.output_bytes_per_s
