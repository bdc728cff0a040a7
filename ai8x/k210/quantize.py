"""Post-training quantisation: a float network and sample images -> a kmodel of bytes, and how close it comes.

Start at `quantize_model`, which calibrates, lowers and places; `compare` runs the kmodel on the simulator beside the
float network and reports every layer.

Source: spec/k210-kmodel.md sections 11, 13.2, 14 and 15.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import Diagnostic, Diagnostics, UserError, user_error
from ai8x.k210.budget import fullest_step, live_at, memory_budgets, tensor_names
from ai8x.k210.device import K210
from ai8x.k210.encode import Places
from ai8x.k210.interpreter import KmodelRun, run_kmodel
from ai8x.k210.kmodel import KModel, write_kmodel
from ai8x.k210.kmodel_layers import MemoryRange
from ai8x.k210.lint import lint_kmodel
from ai8x.k210.lower import LoweringError, adjacent_groups, group_name, plan_kpu_memory, plan_main_memory
from ai8x.k210.quantize_calibration import CalibrationOptions, TensorQuantization, calibrated
from ai8x.k210.quantize_lower import legalize_float
from ai8x.k210.quantize_model import MODEL_INPUT, FloatModel, prepared
from ai8x.k210.quantize_parameters import QuantizedParameters
from ai8x.k210.quantize_reference import run_float_model
from ai8x.k210.quantize_steps import encode_quantized
from ai8x.k210.quantize_walk import LoweringOptions, Probe
from ai8x.k210.steps import ConvStep, KpuMap, LoweredSteps, Step
from ai8x.memory import MemoryPlan

_DEFAULT_CALIBRATION = CalibrationOptions()
_DEFAULT_LOWERING = LoweringOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReport:
    """An activation table of the model.

    Args:
        step: name of the KPU layer.
        layer: index of the float layer.
        max_error, rms_error: against the exact function, in steps of the output byte; 0.5 and less is rounding alone.
        falls: the table has falling lines, whose rounding on a chip is unverified.
    """

    step: str
    layer: int
    max_error: float
    rms_error: float
    falls: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedModel:
    """A float network as a kmodel.

    Args:
        model: the float network in its prepared form; layer numbers refer to it.
        kmodel: the kmodel.
        data: its bytes.
        quantizations: what the bytes of the input (`MODEL_INPUT`) and of every result mean.
        outputs: what the bytes of every output mean; None for outputs that are float32.
        steps: one for each kmodel layer, in order.
        input_map: shape of the image that the runner takes.
        probes: where the layers' results can be seen.
        tables: every activation table.
        kpu_plan: KPU RAM in lines.
        main_plan: the runner's main buffer in bytes.
    """

    model: FloatModel
    kmodel: KModel
    data: bytes
    quantizations: Mapping[int, TensorQuantization]
    outputs: tuple[TensorQuantization | None, ...]
    steps: tuple[Step, ...]
    input_map: KpuMap
    probes: tuple[Probe, ...]
    tables: tuple[TableReport, ...]
    kpu_plan: MemoryPlan
    main_plan: MemoryPlan

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An image (C, H, W) in the shape of the first KPU layer, with bytes for zero where that is larger."""
        place = self.input_map
        content = np.full(place.size_bytes, self.quantizations[MODEL_INPUT].zero_point, np.uint8)
        content[: image.size] = np.asarray(image, np.uint8).reshape(-1)
        return content.reshape(place.channels, place.height, place.width)

    def run(self, image: NDArray[np.uint8]) -> tuple[KmodelRun, tuple[NDArray[np.float64], ...]]:
        """The simulated run of one image, and the real numbers of every output, flat."""
        run = run_kmodel(self.data, self.image(image))
        return run, tuple(_real(output, meaning) for output, meaning in zip(run.outputs, self.outputs, strict=True))


def _real(output: NDArray[np.uint8], meaning: TensorQuantization | None) -> NDArray[np.float64]:
    return output.view(np.float32).astype(np.float64) if meaning is None else meaning.real(output)


def quantize_model(model: FloatModel, images: NDArray[np.uint8], *,
                   calibration: CalibrationOptions = _DEFAULT_CALIBRATION,
                   lowering: LoweringOptions = _DEFAULT_LOWERING) -> QuantizedModel:
    """Quantise and place a float network.

    Args:
        model: any float model.
        images: for calibration, uint8 (N, C, H, W), as the camera gives them.
        calibration: how ranges are found.
        lowering: other choices.

    Raises:
        UserError: E0771 unsuitable images, E0772 a layer has no form, E0773 to E0775 a memory is too small.
        LoweringError: the result breaks a rule of the chip (a defect).
    """
    _check_images(model, images)
    network = prepared(model)
    quantizations = calibrated(network, images, calibration)
    result = legalize_float(network, quantizations, lowering)
    lowered = result.lowered
    groups = adjacent_groups(lowered)
    kpu_plan, main_plan = plan_kpu_memory(lowered, groups), plan_main_memory(lowered)
    _check_plans(network, lowered, kpu_plan, main_plan)
    places = Places(lines=_lines(groups, kpu_plan),
                    main={buffer.name: buffer.address or 0 for buffer in main_plan.buffers})
    item = K210.alignment.dma
    kmodel = KModel(layers=tuple(encode_quantized(step, places) for step in lowered.steps),
                    outputs=tuple(MemoryRange(address=places.address(b), size=b.size_bytes) for b in lowered.outputs),
                    main_mem_usage=max(-(-main_plan.peak // item) * item, item))
    if errors := lint_kmodel(kmodel).errors:
        raise LoweringError("\n".join(f"{finding.headline()}; allowed: {finding.allowed}" for finding in errors))
    data = write_kmodel(kmodel)
    _check_budget(network, len(data), kmodel.main_mem_usage)
    return QuantizedModel(
        model=network, kmodel=kmodel, data=data, quantizations=quantizations, outputs=result.outputs,
        steps=lowered.steps, input_map=lowered.input_map, probes=result.probes, tables=_tables(lowered.steps),
        kpu_plan=kpu_plan, main_plan=main_plan)


def _check_images(model: FloatModel, images: NDArray[np.uint8]) -> None:
    """Images of the model's shape whose bytes contain the number 0, which borders are made of."""
    expected = model.input_shape.as_tuple()
    if images.ndim != 4 or images.shape[1:] != expected or images.dtype != np.uint8 or not len(images):
        raise user_error("E0771", f"'{model.name}' is calibrated with images of {model.input_shape}",
                         found=f"{images.dtype} {images.shape}", allowed=f"uint8 (N, {', '.join(map(str, expected))})",
                         help="give at least one image as the camera delivers it")
    zero = -model.input_offset / model.input_scale
    if not -0.5 <= zero <= 255.5:
        raise user_error("E0771", "the number 0 is not among the numbers of an image, but borders are made of it",
                         found=f"byte {zero:.1f} would be 0", allowed="a byte of 0 to 255",
                         help="choose input_scale and input_offset so that some byte means 0")


def _lines(groups: Sequence[tuple[KpuMap, ...]], plan: MemoryPlan) -> dict[str, int]:
    """First line of every map; the maps of a group lie one after the other."""
    lines: dict[str, int] = {}
    for group in groups:
        line = plan.address(group_name(group))
        for member in group:
            lines[member.name] = line
            line += member.lines
    return lines


def _tables(steps: Sequence[Step]) -> tuple[TableReport, ...]:
    return tuple(TableReport(step=step.name, layer=step.layer, max_error=step.parameters.fit.max_error,
                             rms_error=step.parameters.fit.rms_error, falls=step.parameters.fit.falls)
                 for step in steps
                 if isinstance(step, ConvStep) and isinstance(step.parameters, QuantizedParameters))


# ------------------------------------------------------------------------------------------------ memories

def _check_plans(model: FloatModel, lowered: LoweredSteps, kpu: MemoryPlan, main: MemoryPlan) -> None:
    """Refuse plans that exceed their memory.

    Raises:
        UserError: E0773 KPU RAM, E0774 main memory, with what is alive at the fullest step.
    """
    names = tensor_names(lowered.steps, lowered.input_map)
    found = Diagnostics()
    for plan, code, memory, unit in ((kpu, "E0773", "KPU RAM", "lines of 64 bytes"),
                                     (main, "E0774", "main memory", "bytes")):
        if not plan.fits:
            step = fullest_step(plan)
            served = lowered.steps[step].layer if 0 <= step < len(lowered.steps) else 0
            found.add(Diagnostic(
                code=code, message=f"k210: '{model.name}' does not fit the {memory}", layer=model.layers[served].name,
                layer_index=served, found=f"{plan.peak} {unit}; live: {live_at(plan, step, names)}",
                allowed=f"{plan.capacity} {unit} (no order of placing needs less than {plan.lower_bound})",
                help=f"make images smaller, or give '{model.layers[served].name}' fewer channels"))
    found.raise_if_errors()


def _check_budget(model: FloatModel, file_bytes: int, main_bytes: int) -> None:
    """Refuse a file that does not fit general RAM together with its main buffer.

    Raises:
        UserError: E0775, with the layer whose weights take most.
    """
    capacity = K210.memory.general_bytes
    if file_bytes + main_bytes <= capacity:
        return
    sizes = [0 if layer.weights is None else layer.weights.size for layer in model.layers]
    index = int(np.argmax(sizes))
    budgets = "; ".join(f"{runtime} {available}" for runtime, (_, available) in
                        memory_budgets(file_bytes, main_bytes).items())
    raise UserError(Diagnostic(
        code="E0775", message=f"k210: '{model.name}' does not fit the general RAM", layer=model.layers[index].name,
        layer_index=index, found=f"{file_bytes} bytes of kmodel and {main_bytes} bytes of main buffer",
        allowed=f"{capacity} bytes in all; practical budgets: {budgets}",
        help=f"give '{model.layers[index].name}', which has {sizes[index]} weights, fewer channels"))


# ------------------------------------------------------------------------------------------------ fidelity

@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFidelity:
    """How close a layer's result comes to the float network's, over all images.

    Args:
        layer: index in the prepared model.
        name: of the layer.
        kind: what it does.
        snr_db: signal to noise ratio, decibel; infinite for equal results.
        cosine: of the angle between both results; 1 for equal directions.
    """

    layer: int
    name: str
    kind: str
    snr_db: float
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fidelity:
    """The kmodel beside the float network.

    Args:
        layers: every layer whose result can be seen; fused ones show up as what they were fused into.
        outputs: the model's outputs.
        agreement: share of images on which the largest element of the first output is the same one.
    """

    layers: tuple[LayerFidelity, ...]
    outputs: tuple[LayerFidelity, ...]
    agreement: float


def compare(quantized: QuantizedModel, images: NDArray[np.uint8]) -> Fidelity:
    """Run images through both.

    Args:
        quantized: the kmodel with its float network.
        images: uint8 (N, C, H, W).

    Raises:
        UserError: E0771, unsuitable images.
    """
    model = quantized.model
    _check_images(model, images)
    sums = {probe.layer: np.zeros(4) for probe in quantized.probes}
    output_sums = [np.zeros(4) for _ in model.outputs]
    agreed = 0
    for image in images:
        reference = run_float_model(model, image[None])
        run, outputs = quantized.run(image)
        for probe in quantized.probes:
            sums[probe.layer] += _moments(reference[probe.layer].reshape(-1), probed(probe, quantized, run))
        for total, index, output in zip(output_sums, model.outputs, outputs, strict=True):
            total += _moments(reference[index].reshape(-1), output)
        agreed += int(np.argmax(reference[model.outputs[0]]) == np.argmax(outputs[0]))
    return Fidelity(layers=tuple(_fidelity(model, layer, total) for layer, total in sums.items()),
                    outputs=tuple(_fidelity(model, index, total)
                                  for index, total in zip(model.outputs, output_sums, strict=True)),
                    agreement=agreed / len(images))


def probed(probe: Probe, quantized: QuantizedModel, run: KmodelRun) -> NDArray[np.float64]:
    """The real numbers of a layer's result in a run, flat in the order (C, H, W)."""
    shape = quantized.model.shapes[probe.layer]
    if probe.quantization is None:
        return run.tensors[probe.steps[0]].view(np.float32).astype(np.float64).reshape(-1)
    if probe.window is None:
        stored = run.tensors[probe.steps[0]] if probe.steps[0] in run.tensors else run.layers[probe.steps[0]]
        return probe.quantization.real(stored.reshape(-1)[: shape.numel])
    window = probe.window
    rows = slice(window.top, window.top + window.height, probe.pick[0])
    columns = slice(window.left, window.left + window.width, probe.pick[1])
    stored = np.concatenate([run.layers[step][:, rows, columns] for step in probe.steps])
    return probe.quantization.real(stored).reshape(-1)


def _moments(wanted: NDArray[np.floating], found: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sums of: wanted squared, found squared, product, difference squared."""
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    return np.array([a @ a, b @ b, a @ b, (a - b) @ (a - b)])


def _fidelity(model: FloatModel, index: int, sums: NDArray[np.float64]) -> LayerFidelity:
    wanted, found, product, noise = (float(value) for value in sums)
    snr = math.inf if noise == 0 else -math.inf if wanted == 0 else 10 * math.log10(wanted / noise)
    norm = math.sqrt(wanted * found)
    cosine = product / norm if norm else float(noise == 0)
    layer = model.layers[index]
    return LayerFidelity(layer=index, name=layer.name, kind=layer.op.value, snr_db=snr, cosine=cosine)
