"""Reading and writing checkpoints: ``.pth.tar`` of every generation, and ``.safetensors``.

The only module that calls ``torch.load`` and ``torch.save``; torch is imported inside the functions that need it.
Whatever is wrong with a file becomes one `UserError` that names the file, the reason and the repair; nothing that is
damaged is accepted. Start at `Checkpoint`, `read_checkpoint` and `write_checkpoint`.

Source: spec/ai8x-training.md sections 4 and 8; docs/design.md "Files".
"""

from __future__ import annotations

import hashlib
import io
import json
import reprlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import Source, UserError, user_error
from ai8x.files import atomic_write, read_bytes
from ai8x.plain import is_storable, is_tensor, plain_value
from ai8x.torch_file import (
    MAX_EXPANSION,
    MAX_MEMBERS,
    SLACK_BYTES,
    DamagedContent,
    StoredClass,
    StoredTensor,
    SuspiciousArchive,
    UnknownContent,
    check_archive,
    read_torch_file,
)

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
"""Number of our layout of extra keys; raised when a reader of today could misunderstand them."""

SUFFIX_TORCH = ".pth.tar"
SUFFIX_SAFETENSORS = ".safetensors"

MAX_FILE_BYTES = 2 << 30
_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"
_WRAPPERS = ("module", "_orig_mod")
_SAMPLE_KEY = "ai8x.sample"
_METADATA_KEY = "ai8x"
_OWN_KEYS = ("format", "state_dict", "epoch", "arch", "extras", "sample", "labels", "input_shape", "digest")

_AGAIN = "copy the file again from its origin, or write it again"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        state: parameter name -> array, without the prefixes of training wrappers. Some of the vendor's files hold
            layers with and without prefix; their names stay as stored, since the generator reads the first copy only.
        epoch: last finished epoch; None where the file does not say.
        arch: name of the model; empty where the file does not say.
        extras: figures and settings that the vendor's tools keep there; plain types.
        sample: int8 (C, H, W) or (C, L) input that belongs to the network, or None.
        labels: names of the classes; may be empty.
        input_shape: (C, H, W) or (C, L), or None.
        training: what only resuming needs (optimizer, scheduler, random states); plain types and torch tensors.
        file: name as the user typed it, for messages.
        notices: what the user should know about the file.
    """

    state: Mapping[str, NDArray[Any]]
    epoch: int | None = None
    arch: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict)
    sample: NDArray[Any] | None = None
    labels: tuple[str, ...] = ()
    input_shape: tuple[int, ...] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    notices: tuple[str, ...] = ()

    def tensors(self) -> dict[str, Tensor]:
        """The state as torch tensors of their own, names without prefixes; of two copies the later is taken."""
        import torch

        return {normalized_name(name): torch.from_numpy(np.array(array)) for name, array in self.state.items()}

    @property
    def is_quantized(self) -> bool:
        """Whether quantize.py has processed the parameters: by its flags, or, in files of 2020, by the numbers."""
        flags = [name for name in self.state if name.endswith(".adjust_output_shift")]
        if flags:
            activation = [bool(self.state[name].any()) for name in self.state if name.endswith(".quantize_activation")]
            return not any(bool(self.state[name].any()) for name in flags) and any(activation)
        weights = [array for name, array in self.state.items() if name.endswith(".weight")]
        return bool(weights) and all(bool((w == np.round(w)).all()) for w in weights)


def arrays_from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """A ``state_dict`` as numpy arrays; types that numpy lacks become float32."""
    import torch

    arrays = {}
    for name, tensor in tensors.items():
        detached = tensor.detach().cpu()
        if detached.dtype in (torch.bfloat16, torch.float16):
            detached = detached.float()
        arrays[name] = np.array(detached.numpy())
    return arrays


def normalized_name(name: str) -> str:
    """A parameter name without the first ``module`` and the first ``_orig_mod`` of its path (section 4)."""
    path = name.split(".")
    for wrapper in _WRAPPERS:
        if wrapper in path:
            path.remove(wrapper)
    return ".".join(path)


def _refusal(code: str, path: Path, message: str, *, found: str = "", allowed: str = "", help: str = _AGAIN
             ) -> UserError:
    return user_error(code, message, source=Source(file=str(path)), found=found, allowed=allowed, help=help)


def read_checkpoint(path: Path | str, *, training: bool = True) -> Checkpoint:
    """Read a checkpoint of any generation, checking its integrity first.

    Args:
        path: ``.pth.tar`` and other names hold a torch archive; a file that starts with a safetensors header is
            recognised by its content.
        training: keep what resuming needs, `Checkpoint.training`, which takes torch. Without it, torch is loaded only
            for files that `ai8x.torch_file` does not know: those before PyTorch 1.6 and unusual content.

    Raises:
        UserError: E0501 unreadable, E0502 no checkpoint, E0503 damaged, E0504 suspicious structure, E0505 content
            that is not plain data, E0506 missing or mistyped keys, E0507 unusable entry, E0508 wrong digest.
    """
    path = Path(path)
    data = read_bytes(path, limit=MAX_FILE_BYTES, code="E0501")
    if data.startswith(_ZIP_MAGIC):
        _check_archive(path, data)
        payload = _load_torch(path, data) if training else _load_plain(path, data)
        return _without_training(_from_payload(path, payload, len(data), notices=()), training)
    if path.suffix == SUFFIX_SAFETENSORS or _looks_like_safetensors(data):
        return _read_safetensors(path, data)
    if data.startswith(_PICKLE_MAGIC):
        notice = "the file is in the format of PyTorch before 1.6, which has no checksums; damage cannot be noticed"
        checkpoint = _from_payload(path, _load_torch(path, data), len(data), notices=(notice,))
        return _without_training(checkpoint, training)
    raise _refusal("E0502", path, "the file is no checkpoint", found=f"starts with {data[:8].hex(' ') or 'nothing'}",
                   allowed="a torch archive (.pth.tar) or .safetensors", help="give the file that training wrote")


def _without_training(checkpoint: Checkpoint, training: bool) -> Checkpoint:
    return checkpoint if training else replace(checkpoint, training={})


def _check_archive(path: Path, data: bytes) -> None:
    try:
        check_archive(data)
    except SuspiciousArchive as error:
        raise _refusal("E0504", path, "the archive is not one that torch writes", found=str(error),
                       allowed=f"at most {MAX_MEMBERS} members of different plain names, not expanding more than "
                       f"{MAX_EXPANSION} times", help="do not use this file unless you trust its origin") from error
    except DamagedContent as error:
        raise _refusal("E0503", path, "the checkpoint is damaged", found=str(error),
                       allowed="a complete torch archive with the checksums that were written") from error


def _load_plain(path: Path, data: bytes) -> Any:
    """The object in a torch file without torch, if our own reader knows all that is in it."""
    try:
        return read_torch_file(data)
    except UnknownContent:
        return _load_torch(path, data)
    except DamagedContent as error:
        raise _refused_content(path, str(error)) from error


def _refused_content(path: Path, found: str) -> UserError:
    return _refusal("E0505", path, "the content of the checkpoint is refused", found=found,
                    allowed="tensors, plain types and the classes Adam, AdamW and SGD",
                    help="write the checkpoint again with tensors and plain types only, or get it again from its "
                    "origin")


def _load_torch(path: Path, data: bytes) -> Any:
    """The object in a torch file; nothing but plain data, tensors and three optimizer classes is let through."""
    import torch

    allowed: list[Any] = [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: whatever is not understood is refused below
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise _refused_content(path, reason[0][:200]) from error


def _from_payload(path: Path, payload: Any, size: int, *, notices: tuple[str, ...]) -> Checkpoint:
    """Check types and build the record from the dictionary of a torch file."""
    if not isinstance(payload, dict):
        raise _refusal("E0506", path, "the checkpoint is no dictionary", found=type(payload).__name__,
                       allowed="a dictionary with state_dict, epoch and arch")
    if "state_dict" not in payload and payload and all(is_tensor(value) for value in payload.values()):
        payload = {"state_dict": payload}
    state = payload.get("state_dict")
    if not isinstance(state, Mapping) or not state:
        raise _refusal("E0506", path, "the checkpoint has no parameters", found=f"keys {_listed(payload)}",
                       allowed="a key state_dict with tensors", help="give the file that training wrote")
    arrays = _unwrapped(path, _checked_arrays(path, state, size))
    sample = payload.get("sample")
    training = {key: _plain_class(value) for key, value in payload.items() if key not in _OWN_KEYS}
    if odd := [key for key, value in training.items() if not is_storable(value)]:
        raise _refusal("E0505", path, f"entry '{str(odd[0])[:80]}' holds more than plain types and tensors",
                       found=type(training[odd[0]]).__name__, allowed="plain types and tensors")
    checkpoint = Checkpoint(
        state=arrays, epoch=_typed(path, payload, "epoch", int), arch=_typed(path, payload, "arch", str) or "",
        extras=_extras(path, payload), file=str(path), notices=notices,
        sample=None if sample is None else _checked_sample(path, _checked_arrays(path, {"sample": sample}, size)),
        labels=_strings(path, payload.get("labels")), input_shape=_shape(path, payload.get("input_shape")),
        training=training)
    _check_digest(path, checkpoint, payload.get("digest"))
    return checkpoint


def _listed(names: Iterable[object]) -> str:
    return ", ".join(str(name)[:40] for name in list(names)[:10]) or "none"


def _plain_class(value: Any) -> Any:
    """The vendor stores the class of the optimizer; its name is enough to resume."""
    if isinstance(value, StoredClass):
        return value.name
    return value.__name__ if isinstance(value, type) else value


def _typed(path: Path, payload: Mapping[Any, Any], key: str, wanted: type) -> Any:
    value = payload.get(key)
    if value is None or (isinstance(value, wanted) and not isinstance(value, bool)):
        return value
    raise _refusal("E0506", path, f"key '{key}' has an unexpected type", found=type(value).__name__,
                   allowed=wanted.__name__)


def _extras(path: Path, payload: Mapping[Any, Any]) -> dict[str, Any]:
    try:
        plain = plain_value(_typed(path, payload, "extras", dict) or {})
    except (TypeError, RecursionError) as error:
        raise _refusal("E0506", path, "key 'extras' holds more than plain values", found=str(error)[:100],
                       allowed="numbers, text, lists and mappings") from error
    return dict(plain)


def _strings(path: Path, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, (list, tuple)) and all(isinstance(entry, str) for entry in value):
        return tuple(value)
    raise _refusal("E0506", path, "key 'labels' is no list of names", found=type(value).__name__,
                   allowed="a list of strings")


def _shape(path: Path, value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and 2 <= len(value) <= 3 and all(type(v) is int and v > 0 for v in value):
        return tuple(value)
    raise _refusal("E0506", path, "key 'input_shape' is no shape", found=reprlib.repr(value)[:60],
                   allowed="(channels, height, width) or (channels, length)")


def _checked_sample(path: Path, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    sample = arrays["sample"]
    if sample.dtype != np.int8 or sample.ndim not in (2, 3):
        raise _refusal("E0506", path, "the stored sample has an unexpected form", found=f"{sample.dtype}, "
                       f"{sample.shape}", allowed="int8 (channels, height, width) or (channels, length)")
    return sample


def _checked_arrays(path: Path, state: Mapping[Any, Any], size: int) -> dict[str, NDArray[Any]]:
    """Tensors as read-only arrays; types, sizes and values are checked first."""
    arrays: dict[str, NDArray[Any]] = {}
    total = 0
    for key, tensor in state.items():
        reason = _unusable(key, tensor)
        if not reason:
            total += _size_bytes(tensor)
            if total > MAX_EXPANSION * size + SLACK_BYTES:
                reason = f"{_size_bytes(tensor)} bytes, more than the file holds"
        if reason:
            raise _refusal("E0507", path, f"entry '{str(key)[:80]}' cannot be used", found=reason,
                           allowed="dense real tensors")
        array = tensor.array() if isinstance(tensor, StoredTensor) else arrays_from_tensors({key: tensor})[key]
        _add_array(path, arrays, key, array)
    return arrays


def _unusable(key: Any, tensor: Any) -> str:
    """Why an entry of the state is no parameter; empty if it is one."""
    if not isinstance(key, str):
        return f"a name of type {type(key).__name__}"
    if not is_tensor(tensor):
        return f"{type(tensor).__name__} instead of a tensor"
    if isinstance(tensor, StoredTensor):
        return ""
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        return f"a tensor of kind {tensor.layout}, {tensor.dtype}"
    return ""


def _size_bytes(tensor: Tensor | StoredTensor) -> int:
    return tensor.size_bytes if isinstance(tensor, StoredTensor) else tensor.numel() * tensor.element_size()


def _add_array(path: Path, arrays: dict[str, NDArray[Any]], key: str, array: NDArray[Any]) -> None:
    if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
        raise _refusal("E0507", path, f"entry '{key[:80]}' has values that are not finite",
                       found=f"{int((~np.isfinite(array)).sum())} of {array.size} values are NaN or infinite",
                       allowed="finite numbers", help="take an earlier checkpoint of the run, or train again with a "
                       "smaller learning rate")
    array.setflags(write=False)
    arrays[key] = array


def _unwrapped(path: Path, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The state without the prefixes of wrappers; a state with both forms stays as it is, if both agree."""
    renamed: dict[str, NDArray[Any]] = {}
    for key, array in arrays.items():
        known = renamed.setdefault(normalized_name(key), array)
        if known is not array and not np.array_equal(known.reshape(-1), array.reshape(-1)):
            raise _refusal("E0507", path, f"entry '{key[:80]}' appears twice", found="two different values of one name",
                           allowed="each entry once, with or without the prefix module")
    return renamed if len(renamed) == len(arrays) else arrays


def _looks_like_safetensors(data: bytes) -> bool:
    header = int.from_bytes(data[:8], "little")
    return len(data) > 9 and header <= len(data) - 8 and data[8:9] == b"{"


def _read_safetensors(path: Path, data: bytes) -> Checkpoint:
    """A safetensors file; torch is not needed."""
    import safetensors
    import safetensors.numpy

    try:
        arrays = safetensors.numpy.load(data)
        header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
        metadata = header.get("__metadata__", {})
        described = json.loads(metadata.get(_METADATA_KEY, "{}"))
        if not described and any('"digest":' in text for text in metadata.values()):
            raise ValueError("the name of the description is damaged")
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refusal("E0503", path, "the checkpoint is damaged", found=f"safetensors: {str(error)[:200]}",
                       allowed="a complete safetensors file") from error
    if not isinstance(described, dict):
        raise _refusal("E0506", path, "the description in the file is no mapping", found=type(described).__name__,
                       allowed="a JSON object")
    checked: dict[str, NDArray[Any]] = {}
    for key, array in _in_order(path, arrays, described.get("order")).items():
        _add_array(path, checked, key, np.array(array))
    sample = checked.pop(_SAMPLE_KEY, None)
    if not checked:
        raise _refusal("E0506", path, "the checkpoint has no parameters", found="no tensors", allowed="tensors",
                       help="give the file that training wrote")
    checkpoint = Checkpoint(
        state=_unwrapped(path, checked), epoch=_typed(path, described, "epoch", int),
        arch=_typed(path, described, "arch", str) or "", extras=_extras(path, described), file=str(path),
        sample=None if sample is None else _checked_sample(path, {"sample": sample}),
        labels=_strings(path, described.get("labels")), input_shape=_shape(path, described.get("input_shape")))
    _check_digest(path, checkpoint, described.get("digest", "" if described else None))
    return checkpoint


def _in_order(path: Path, arrays: dict[str, NDArray[Any]], order: Any) -> dict[str, NDArray[Any]]:
    """The arrays in the order of the network: the format sorts them, and layers are paired by their order."""
    if order is None:  # a file of another tool
        return arrays
    names = order if isinstance(order, list) and all(isinstance(name, str) for name in order) else []
    if sorted(names) != sorted(arrays.keys() - {_SAMPLE_KEY}):
        raise _refusal("E0503", path, "the checkpoint is damaged", found="an order that does not name each tensor once",
                       allowed="the content that was written")
    return {name: arrays[name] for name in [*names, *(arrays.keys() - set(names))]}


def _description(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"format": FORMAT, "epoch": checkpoint.epoch, "arch": checkpoint.arch,
            "extras": plain_value(checkpoint.extras), "labels": list(checkpoint.labels),
            "input_shape": None if checkpoint.input_shape is None else list(checkpoint.input_shape)}


def state_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 over the description, and over names, types, shapes and little-endian bytes of all arrays, by name."""
    hashed = hashlib.sha256(json.dumps(_description(checkpoint), sort_keys=True).encode())
    arrays = dict(checkpoint.state)
    if checkpoint.sample is not None:
        arrays[_SAMPLE_KEY] = checkpoint.sample
    for name in sorted(arrays):
        array = arrays[name]
        hashed.update(f"{name}\0{array.dtype.newbyteorder('<').str}\0{array.shape}\0".encode())
        hashed.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes())
    return hashed.hexdigest()


def _check_digest(path: Path, checkpoint: Checkpoint, stored: Any) -> None:
    """Files of other tools have no digest; ours must match."""
    if stored is not None and stored != state_digest(checkpoint):
        raise _refusal("E0508", path, "the checkpoint is damaged", found="content that does not match its digest",
                       allowed="the content that was written")


def check_target(path: Path) -> None:
    """Refuse a name that `write_checkpoint` would refuse, before any work is done.

    Raises:
        UserError: E0509 for names that are neither kind of file.
    """
    if not path.name.endswith((SUFFIX_SAFETENSORS, SUFFIX_TORCH, ".pth", ".pt", ".tar")):
        raise _refusal("E0509", path, "the kind of checkpoint is not known from the name", found=path.name,
                       allowed=f"names ending in {SUFFIX_TORCH} or {SUFFIX_SAFETENSORS}",
                       help=f"write {path.name}{SUFFIX_TORCH}")


def write_checkpoint(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; at every instant the old or the new file is complete on disk.

    ``.safetensors`` holds parameters, sample and description, but nothing for resuming; every other name holds a
    torch archive with the vendor's keys and ours beside them.

    Args:
        path: the folder must exist.
        checkpoint: `Checkpoint.training` must hold plain types and tensors.

    Raises:
        UserError: E0509 for a name that is neither kind of file, E0810 where writing fails; the old file is intact.
        TypeError: for content that a safe reader would refuse.
    """
    path = Path(path)
    check_target(path)
    if path.suffix == SUFFIX_SAFETENSORS:
        import safetensors.numpy

        arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.state.items()}
        if checkpoint.sample is not None:
            arrays[_SAMPLE_KEY] = np.ascontiguousarray(checkpoint.sample)
        described = {**_description(checkpoint), "digest": state_digest(checkpoint), "order": list(checkpoint.state)}
        # One entry only: the library writes several in random order, and files should be reproducible.
        atomic_write(path, safetensors.numpy.save(arrays, {_METADATA_KEY: json.dumps(described)}))
        return
    _write_torch(path, checkpoint)


def _write_torch(path: Path, checkpoint: Checkpoint) -> None:
    import torch

    if odd := [key for key, value in checkpoint.training.items() if not is_storable(value)]:
        raise TypeError(f"entries {odd} hold more than plain types and tensors")
    payload: dict[str, Any] = {
        **_description(checkpoint), "digest": state_digest(checkpoint),
        "state_dict": {name: torch.from_numpy(np.array(array)) for name, array in checkpoint.state.items()},
        **checkpoint.training}
    if checkpoint.sample is not None:
        payload["sample"] = torch.from_numpy(np.array(checkpoint.sample))
    atomic_write(path, lambda stream: torch.save(payload, stream))
