"""From a kmodel to a C project that runs it and checks the result.

The project serves two ways: ``make`` builds it stand-alone on our own start-up code, KPU driver and kmodel interpreter
(``standalone/``); copied into the vendor's stand-alone SDK it runs on the SDK's own ``kpu`` functions instead. Model,
sample and known answer are embedded as the files they are. Everything but the sizes in ``model.h`` and the names in
three build files is fixed text under ``templates/``. Start at `write_runner`.

Outputs must be equal to the known answer, byte for byte. The one exception are floats that a SOFTMAX or LOGISTIC layer
leaves, since C libraries differ in the last bits of the exponential function; see `output_tolerances`.

Names that come from files are reduced to harmless characters first: no text of a network reaches the compiler as code.

Source: spec/k210-kmodel.md sections 8 to 10; spec/virtual-boards.md section 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from ai8x.ctext import LICENCE, c_identifier, comment_text
from ai8x.files import atomic_write
from ai8x.k210.kmodel import KModel, read_kmodel
from ai8x.k210.kmodel_base import OWN_TYPES
from ai8x.k210.kmodel_layers import K210Conv, KModelLayer, Logistic, Softmax, layer_type, layer_type_name
from ai8x.k210.parameters import ZERO_POINT

KMODEL_NAME = "model.kmodel"
"""File that `write_runner`'s caller puts beside the project, named in ``model.S``."""

SAMPLE_NAME = "sample.bin"
"""The sample's bytes, likewise from the caller."""

EXPECTED_NAME = "expected.bin"
"""The known answer: the bytes of all outputs one after the other."""

_TEMPLATE_SUFFIX = ".j2"
_MAIXPY_SCRIPT = "maix_run.py.j2"
_PICTURE_CHANNELS = (1, 3)
_WIDE_FRACTION_BITS = 14  # weights and activations have seven bits after the binary point each
_BYTE_FRACTION_BITS = 7
_EXPONENTIAL_UNITS = 16  # see `output_tolerances`
_FLOAT32_UNIT = 2.0**-23


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunnerModel:
    """What the runner runs, and what has to come out.

    Args:
        name: the network's name.
        kmodel: the file's bytes, version 3.
        image: the sample as the runner takes it: planar uint8 (C, H, W).
        outputs: the known answer: uint8 bytes of every output.
        is_wide: of every output: it holds the accumulators of a wide layer as float32, otherwise bytes ``a + 128``.
        labels: class names; a table of classes is printed if there is one for each element of output 0.
        fraction_bits: bits after the binary point of output 0 as logits; None for what the layer's formats give.
    """

    name: str
    kmodel: bytes
    image: NDArray[np.uint8]
    outputs: tuple[NDArray[np.uint8], ...]
    is_wide: tuple[bool, ...]
    labels: tuple[str, ...] = ()
    fraction_bits: int | None = None

    def __post_init__(self) -> None:
        """Check shapes."""
        if self.image.ndim != 3 or self.image.dtype != np.uint8:
            raise ValueError(f"the image is uint8 (C, H, W), not {self.image.dtype} {self.image.shape}")
        if not self.outputs or any(output.dtype != np.uint8 for output in self.outputs):
            raise ValueError("every output is given as its bytes")
        if len(self.is_wide) != len(self.outputs):
            raise ValueError(f"{len(self.is_wide)} flags for {len(self.outputs)} outputs")

    @property
    def num_classes(self) -> int:
        """Elements of output 0."""
        return self.outputs[0].size // (4 if self.is_wide[0] else 1)


def render_runner(model: RunnerModel) -> dict[str, bytes]:
    """The project without model and sample.

    Args:
        model: what to run.

    Returns:
        Path below the project's folder -> contents, the same bytes for the same arguments.

    Raises:
        UserError: the kmodel is damaged or of another version.
        ValueError: the outputs are not those of the kmodel.
    """
    kmodel = read_kmodel(model.kmodel)
    if [output.size for output in model.outputs] != [place.size for place in kmodel.outputs]:
        raise ValueError(f"outputs of {[o.size for o in model.outputs]} bytes for a model with "
                         f"{[p.size for p in kmodel.outputs]}")
    environment = Environment(loader=PackageLoader("ai8x.k210", "templates"), undefined=StrictUndefined,
                              autoescape=False,  # noqa: S701 - the output is C, not HTML
                              trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    context = _context(model, kmodel)
    files: dict[str, bytes] = {}
    for name, entry in _walk(resources.files("ai8x.k210") / "templates"):
        if name == _MAIXPY_SCRIPT and not _runs_on_camera(model, kmodel):
            continue
        if name.endswith(_TEMPLATE_SUFFIX):
            text = environment.get_template(name).render(context)
            files[name.removesuffix(_TEMPLATE_SUFFIX)] = text.encode("ascii")
        else:
            files[name] = entry.read_bytes()
    files[EXPECTED_NAME] = b"".join(output.tobytes() for output in model.outputs)
    return files


def needs_own_runner(kmodel: KModel) -> bool:
    """The model has layer types that only the stand-alone runner knows."""
    return any(layer_type(layer) in OWN_TYPES for layer in kmodel.layers)


def _runs_on_camera(model: RunnerModel, kmodel: KModel) -> bool:
    """MaixPy feeds pictures of one or three channels, and knows published layers only; sections 9 and 17.3."""
    return model.image.shape[0] in _PICTURE_CHANNELS and not needs_own_runner(kmodel)


def write_runner(folder: Path, model: RunnerModel) -> tuple[Path, ...]:
    """Write the project beside `KMODEL_NAME` and `SAMPLE_NAME`, which the caller writes.

    Args:
        folder: an existing folder.
        model: what to run.

    Returns:
        Paths written.

    Raises:
        UserError: as `render_runner`; E0810, a file cannot be written.
    """
    paths = []
    for name, data in render_runner(model).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, data)
        paths.append(path)
    return tuple(paths)


def output_tolerances(kmodel: KModel) -> tuple[float, ...]:
    """How far the floats of each output may differ from the known answer, as a fraction; 0 for not at all.

    An output that a SOFTMAX of n elements wrote last may differ by ``(n + 16) * 2**-23``: the running sums of two
    computers, each rounded n - 1 times, differ by less than n units, and each exponential is right to four units, in
    numerator and denominator, on both sides. A LOGISTIC counts as n = 1. What further layers compute from such a
    result is compared exactly.
    """
    writers = {_output_address(layer): layer for layer in kmodel.layers}  # the last one counts
    return tuple(_tolerance(writers.get(place.address)) for place in kmodel.outputs)


def _tolerance(writer: KModelLayer | None) -> float:
    if not isinstance(writer, Softmax | Logistic):
        return 0.0
    elements = writer.channels if isinstance(writer, Softmax) else 1
    return (elements + _EXPONENTIAL_UNITS) * _FLOAT32_UNIT


def _output_address(layer: KModelLayer) -> int | None:
    """Where a layer's result begins in the main buffer; None where it goes elsewhere."""
    address: int | None = layer.main_memory_output if isinstance(layer, K210Conv) else getattr(layer, "output", None)
    return address


def _walk(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    """Files of the template folder in alphabetical order, sub-folders included."""
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry


def _context(model: RunnerModel, kmodel: KModel) -> dict[str, Any]:
    """What the templates use."""
    channels, height, width = model.image.shape
    labels = [comment_text(label) for label in model.labels] if len(model.labels) == model.num_classes else []
    tolerances = output_tolerances(kmodel)
    bits = model.fraction_bits
    if bits is None:
        bits = _WIDE_FRACTION_BITS if model.is_wide[0] else _BYTE_FRACTION_BITS
    return {
        "title": comment_text(model.name),
        "project": c_identifier(model.name),
        "licence": LICENCE,
        "summary": [f"Layer {index:2}: {layer_type_name(layer_type(layer))}"
                    for index, layer in enumerate(kmodel.layers)],
        "model_bytes": len(model.kmodel),
        "main_memory_bytes": kmodel.main_mem_usage,
        "num_outputs": len(kmodel.outputs),
        "expected_bytes": sum(output.size for output in model.outputs),
        "channels": channels,
        "height": height,
        "width": width,
        "is_wide": [int(flag) for flag in model.is_wide],
        "needs_own_runner": needs_own_runner(kmodel),
        "zero_point": ZERO_POINT,
        "has_tolerances": any(tolerances),
        "tolerances": [f"{tolerance:.9e}f" for tolerance in tolerances],
        "fraction_bits": bits,
        "unit": f"{1 << bits}.0",
        "labels": labels,
        "labels_python": "[" + ", ".join(f'"{label}"' for label in labels) + "]",
    }
