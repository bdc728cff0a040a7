"""Building an ONNX graph node by node; the one place that touches the onnx library.

Source: docs/design.md "Libraries".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x import __version__
from ai8x.errors import user_error

OPSET = 13
BITWISE_OPSET = 18
IR_VERSION = 8
"""Old enough for every runtime of the last years."""

BATCH = "N"
"""Name of the batch dimension."""


def require_onnx() -> Any:
    """The onnx package.

    Raises:
        UserError: E0817 where it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise user_error("E0817", "ONNX files need the package onnx, which is not installed", found=str(error),
                         allowed="onnx 1.15 or later", help="run pip install 'ai8x[onnx]'") from error
    return onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """An input or output of the graph.

    Args:
        name: of the tensor.
        dtype: numpy type.
        shape: without the batch in front.
    """

    name: str
    dtype: type[np.generic]
    shape: tuple[int, ...]


class GraphBuilder:
    """Collects nodes and constants; names are made unique.

    Raises:
        UserError: E0817 where onnx is not installed.
    """

    def __init__(self) -> None:
        self._onnx = require_onnx()
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._scalars: dict[tuple[str, str], str] = {}
        self._names: set[str] = set()
        self._opset = OPSET

    def unique(self, name: str) -> str:
        """The name, with a number behind it where it is taken."""
        candidate, number = name, 1
        while candidate in self._names:
            number += 1
            candidate = f"{name}_{number}"
        self._names.add(candidate)
        return candidate

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """A constant tensor; equal scalars and short vectors are stored once."""
        array = np.ascontiguousarray(array)
        key = (f"{array.dtype}{array.shape}", array.tobytes().hex()) if array.size <= 8 else None
        if key is not None and key in self._scalars:
            return self._scalars[key]
        unique = self.unique(name)
        self._constants[unique] = self._onnx.numpy_helper.from_array(array, unique)
        if key is not None:
            self._scalars[key] = unique
        return unique

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node with one output; returns the name that the output got."""
        name = self.unique(output)
        if operator.startswith("Bitwise"):
            self._opset = BITWISE_OPSET
        self._nodes.append(self._onnx.helper.make_node(operator, list(inputs), [name], name=f"{operator}_{name}",
                                                       **attributes))
        return name

    def cast(self, tensor: str, dtype: type[np.generic], output: str) -> str:
        """A tensor of another type."""
        return self.node("Cast", [tensor], output, to=self._type(dtype))

    def cast_to(self, tensor: str, dtype: type[np.generic], reserved: str) -> None:
        """A tensor of another type under a name that `unique` gave out before."""
        self._nodes.append(self._onnx.helper.make_node("Cast", [tensor], [reserved], name=f"Cast_{reserved}",
                                                       to=self._type(dtype)))

    def _type(self, dtype: type[np.generic]) -> int:
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _info(self, info: TensorInfo) -> Any:
        return self._onnx.helper.make_tensor_value_info(info.name, self._type(info.dtype), [BATCH, *info.shape])

    def serialized(self, name: str, inputs: Iterable[TensorInfo], outputs: Iterable[TensorInfo],
                   metadata: Mapping[str, str]) -> bytes:
        """The checked model as the bytes of an ``.onnx`` file."""
        onnx = self._onnx
        graph = onnx.helper.make_graph(self._nodes, name or "network", [self._info(i) for i in inputs],
                                       [self._info(o) for o in outputs], list(self._constants.values()))
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", self._opset)],
                                       ir_version=IR_VERSION, producer_name="ai8x", producer_version=__version__)
        onnx.helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString()
        return content
