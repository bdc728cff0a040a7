"""Integer parameters from a quantised checkpoint, whatever generation of training wrote it.

Owns the naming of keys, their defaults, and the checks that the numbers are what an accelerator can use. Which layer
of the network gets which parameters is decided in `ai8x.network.build`. Start at `parameters_from_state` and
`LayerParameters`.

Source: spec/ai8x-training.md sections 4 and 10; spec/max78000-cnn.md section 4.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.arithmetic import WEIGHT_BITS
from ai8x.checkpoint import normalized_name
from ai8x.errors import Diagnostic, Diagnostics, Source
from ai8x.network.yaml_nodes import show_text

DEFAULT_WEIGHT_BITS = 8
"""Width where the checkpoint says 0 or nothing."""

MAX_SHIFT = 31
"""Bound on a stored shift that catches damaged files; the chips' limits are tighter."""

_MAX_RANK = 4
_QUANTIZE = "run quantize.py on the checkpoint and use the file that it writes"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerParameters:
    """Parameters of one layer as the checkpoint stores them.

    Args:
        name: layer name of the checkpoint, wrappers dropped, such as ``conv1`` or ``fire1.squeeze_layer``.
        weight_key: key of the weights as it stands in the file.
        weight: int64 array in torch order: (out, in/groups[, row[, column]]); transposed convolutions
            (in, out/groups, row, column).
        bias: int64 array (out,), scaled by ``2**(weight_bits - 1)``, or None.
        output_shift: shift of the output, without ``8 - weight_bits``.
        weight_bits: width of the weights.
        file: name of the checkpoint, for messages.
    """

    name: str
    weight_key: str
    weight: NDArray[Any]
    bias: NDArray[Any] | None = None
    output_shift: int = 0
    weight_bits: int = DEFAULT_WEIGHT_BITS
    file: str = "checkpoint"

    def __post_init__(self) -> None:
        for array in (self.weight, self.bias):
            if array is not None:
                array.setflags(write=False)


def hardware_bias(bias: NDArray[Any], weight_bits: int) -> NDArray[Any]:
    """The bias as the accelerator's int8 value, from the checkpoint's scaled one.

    Rounding:
        ``floor(bias / 2**(weight_bits - 1))``; 8 bits: 128 -> 1, 127 -> 0, -1 -> -1

    Source:
        spec/max78000-cnn.md section 4.3.
    """
    return bias >> (weight_bits - 1)


def correlation_kernel(weight: NDArray[Any], groups: int) -> NDArray[Any]:
    """Weights of a transposed convolution as the kernel that is correlated with the zero-stuffed input.

    Args:
        weight: (in, out/groups, row, column) as torch stores them.
        groups: number of groups.

    Returns:
        (out, in/groups, row, column), both spatial axes flipped.

    Source:
        spec/max78000-cnn.md section 4.3.
    """
    blocks = np.split(weight, groups, axis=0)
    return np.concatenate([block.transpose(1, 0, 2, 3) for block in blocks])[:, :, ::-1, ::-1].copy()


def parameters_from_state(
    state: Mapping[str, NDArray[Any]], file: str = "checkpoint", *, warnings: Diagnostics | None = None
) -> tuple[LayerParameters, ...]:
    """The parameters of every layer with weights, in the order of the checkpoint.

    A layer that is stored twice, with and without the prefix of a wrapper, is read from its first copy only, as the
    vendor's loader does; a bias that only the other copy has is not used, which gives a warning.

    Args:
        state: the state_dict; only ``<layer>.<op>.weight`` is mandatory for a layer.
        file: name of the checkpoint, for messages.
        warnings: receives what is worth telling but does not stop (E0547).

    Raises:
        UserError: E0540 unfolded batch normalisation, E0541 keys that cannot be used, E0542 not integers,
            E0543 wrong shape, E0544 and E0545 width and shift, E0546 no weights at all; together.
    """
    diagnostics = Diagnostics()
    reader = _StateReader({key: np.asarray(array) for key, array in state.items()}, file, diagnostics)
    reader.refuse_batch_norm()
    layers = [reader.layer(key) for key in reader.weight_keys()]
    if not layers and not diagnostics.errors:
        keys = ", ".join(show_text(key) for key in list(state)[:3]) or "no keys"
        reader.add("E0546", "the checkpoint has no weights", found=keys, allowed="keys such as conv1.op.weight",
                   help="check that this is the checkpoint of a network")
    diagnostics.raise_if_errors()
    if warnings is not None:
        for item in diagnostics.items:
            warnings.add(item)
    return tuple(layer for layer in layers if layer is not None)


def _is_batch_norm(key: str) -> bool:
    return key.split(".")[-2:-1] == ["bn"] or key.endswith((".running_mean", ".running_var"))


class _StateReader:
    """Reads single entries of a state and collects findings. Keys are as stored, wrappers included."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], file: str, diagnostics: Diagnostics) -> None:
        self._arrays = arrays
        self._file = file
        self._diagnostics = diagnostics
        self._found_fractions = False

    def add(self, code: str, message: str, *, found: str = "", allowed: str = "", help: str = "",
            level: str = "error") -> None:
        self._diagnostics.add(Diagnostic(code=code, message=message, source=Source(file=self._file), found=found,
                                         allowed=allowed, help=help, level=level))

    def refuse_batch_norm(self) -> None:
        keys = [normalized_name(key) for key in self._arrays if _is_batch_norm(key)]
        for layer in dict.fromkeys(key.rsplit(".", 2)[0] for key in keys):
            name = show_text(layer)
            self.add("E0540", f"layer '{name}' of the checkpoint has a batch normalisation that is not folded",
                     found=f"{name}.bn", allowed="batch normalisation folded into weights and bias", help=_QUANTIZE)

    def weight_keys(self) -> list[str]:
        """Keys of weights, one for each layer."""
        first: dict[str, str] = {}
        for key in self._arrays:
            if not key.endswith(".weight") or _is_batch_norm(key):
                continue
            known = first.setdefault(normalized_name(key), key)
            if known != key:
                self._check_copy(known, key)
        return list(first.values())

    def _check_copy(self, first: str, second: str) -> None:
        """Two keys stand for the same weights: they must be equal; a bias that is not used is worth a warning."""
        name = show_text(normalized_name(first))
        if not np.array_equal(self._arrays[first], self._arrays[second]):
            self.add("E0541", f"two keys with different values stand for '{name}'",
                     found=f"{show_text(first)}, {show_text(second)}", allowed="one key for each parameter",
                     help="save the checkpoint again without the wrapper")
        bias = [key.removesuffix("weight") + "bias" in self._arrays for key in (first, second)]
        if bias == [False, True]:
            self.add("E0547", f"'{name}' is stored twice, and only the second copy, which is not used, has a bias",
                     found=f"{show_text(first)}, {show_text(second)}", level="warning",
                     help="delete one set of keys from the checkpoint")

    def layer(self, key: str) -> LayerParameters | None:
        """Parameters of the layer with this weight key; None after a finding."""
        name = normalized_name(key).rsplit(".", 2)
        if len(name) < 3:
            self.add("E0541", f"key '{show_text(key)}' belongs to no layer of ai8x", found=show_text(key),
                     allowed="<layer>.<op>.weight", help="use the layers of ai8x in the model, not plain torch layers")
            return None
        prefix = key.rsplit(".", 2)[0]
        bias_key = key.removesuffix("weight") + "bias"
        weight = self._integers(key)
        bias = self._integers(bias_key) if bias_key in self._arrays else None
        bits = self._scalar(f"{prefix}.weight_bits", DEFAULT_WEIGHT_BITS)
        shift = self._scalar(f"{prefix}.output_shift", 0)
        if weight is None or bits is None or shift is None or not self._plausible(name[0], weight, bias, bits, shift):
            return None
        return LayerParameters(name=name[0], weight_key=key, weight=weight, bias=bias, file=self._file,
                               output_shift=shift, weight_bits=bits or DEFAULT_WEIGHT_BITS)

    def _plausible(self, layer: str, weight: NDArray[Any], bias: NDArray[Any] | None, bits: int, shift: int) -> bool:
        before = len(self._diagnostics.errors)
        name = show_text(layer)
        if not 2 <= weight.ndim <= _MAX_RANK or weight.size == 0:
            self.add("E0543", f"the weights of layer '{name}' have an impossible shape", found=str(weight.shape),
                     allowed="2 to 4 dimensions, none of them 0", help="check that the checkpoint is complete")
        if bias is not None and bias.ndim != 1:
            self.add("E0543", f"the bias of layer '{name}' has an impossible shape", found=str(bias.shape),
                     allowed="one dimension", help="check that the checkpoint is complete")
        if bits not in (0, *WEIGHT_BITS):
            self.add("E0544", f"{name}.weight_bits is not a width of weights", found=str(bits),
                     allowed=", ".join(map(str, WEIGHT_BITS)), help=_QUANTIZE)
        if abs(shift) > MAX_SHIFT:
            self.add("E0545", f"{name}.output_shift is out of range", found=str(shift),
                     allowed=f"-{MAX_SHIFT} to {MAX_SHIFT}", help=_QUANTIZE)
        return len(self._diagnostics.errors) == before

    def _integers(self, key: str) -> NDArray[Any] | None:
        """An array of integers as int64, or None and a finding."""
        array = self._arrays[key]
        name = show_text(key)
        if array.dtype.kind not in "fiub":
            self.add("E0542", f"key '{name}' holds no numbers", found=str(array.dtype), allowed="integers",
                     help="check that this is the checkpoint of a network")
            return None
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            self.add("E0542", f"key '{name}' holds values that are not finite", found="nan or inf", allowed="integers",
                     help="train again from an earlier checkpoint; this one is damaged")
            return None
        if array.dtype.kind == "f" and (fractions := int(np.count_nonzero(array != np.floor(array)))):
            self._refuse_fractions(name, array, fractions)
            return None
        if array.size and float(np.abs(array.astype(np.float64)).max()) >= 2.0**31:
            self.add("E0542", f"key '{name}' holds values that are too large", found=f"{np.abs(array).max():g}",
                     allowed="integers below 2**31", help=_QUANTIZE)
            return None
        return array.astype(np.int64)

    def _refuse_fractions(self, name: str, array: NDArray[Any], fractions: int) -> None:
        """One finding for the whole file: every other array of a float checkpoint would say the same."""
        if self._found_fractions:
            return
        self._found_fractions = True
        first = array.flat[int(np.flatnonzero(array != np.floor(array))[0])]
        self.add("E0542", f"key '{name}' holds fractions: the checkpoint is not quantised",
                 found=f"{fractions} of {array.size} values, the first is {first:g}", allowed="integers",
                 help=_QUANTIZE)

    def _scalar(self, key: str, default: int) -> int | None:
        """A single integer; the default where the key is absent; None after a finding."""
        if key not in self._arrays:
            return default
        array = self._integers(key)
        if array is None:
            return None
        if array.size != 1:
            self.add("E0543", f"key '{show_text(key)}' is not a single number", found=f"shape {array.shape}",
                     allowed="one number", help="check that the checkpoint is complete")
            return None
        return int(array.flat[0])
