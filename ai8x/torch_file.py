"""Reading torch archives without torch: the content of a ``.pth.tar`` as plain types and `StoredTensor`.

Loading torch takes longer than everything else that the generator does with a small network, and its generator half
must run without it. This reader knows what ``torch.save`` writes for dictionaries of tensors and nothing more. The
pickle inside is interpreted here, operation by operation: no name in it is looked up, imported or called, so that a
file can build dictionaries, lists, tuples, text, numbers and tensors only. Whatever else is in a file raises
`UnknownContent`, and torch's own reader may judge it; what contradicts itself raises `DamagedContent`. Start at
`check_archive` and `read_torch_file`.

Source: spec/ai8x-training.md section 8 (form of checkpoints); documentation of the standard library's ``pickletools``.
"""

from __future__ import annotations

import io
import lzma
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

MAX_MEMBERS = 10_000
MAX_EXPANSION = 4
SLACK_BYTES = 1 << 20
"""What a file unpacks to may be `MAX_EXPANSION` times its size and so many bytes more."""

_MARK = object()
_STORAGES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "bfloat16",
             "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "|i1",
             "ByteStorage": "|u1", "BoolStorage": "|b1"}
_OPTIMIZERS = {"torch.optim.adam Adam", "torch.optim.adamw AdamW", "torch.optim.sgd SGD"}
_VERSIONS = (b"2", b"3")
_MAX_DIMENSIONS = 32  # of numpy's arrays
_MAX_KEY_ENTRIES = 16
_KEY_TYPES = (str, int, float, bool, bytes, type(None))


class UnknownContent(Exception):
    """The file holds something that this reader does not know; that says nothing about whether it is right."""


class DamagedContent(ValueError):
    """The file contradicts itself."""


class SuspiciousArchive(ValueError):
    """The archive is built as torch never builds one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredTensor:
    """A dense tensor of real numbers as the file describes it; all its elements lie inside its storage.

    Args:
        kind: numpy's name of the element type, or ``bfloat16``.
        shape, strides: per dimension; strides in elements, not negative.
        offset: first element, counted from the start of the storage.
        storage: bytes of the storage, which several tensors may share.
    """

    kind: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    storage: bytes = field(repr=False)

    @property
    def num_elements(self) -> int:
        """Number of elements; may exceed those of the storage where a stride is 0."""
        product = 1
        for size in self.shape:
            product *= size
        return product

    @property
    def size_bytes(self) -> int:
        """Bytes of the elements as stored."""
        return self.num_elements * _element_type(self.kind).itemsize

    def array(self) -> NDArray[Any]:
        """The elements as an array of its own; types that numpy lacks, and half precision, become float32."""
        dtype = _element_type(self.kind)
        if self.num_elements == 0:
            stored = np.zeros(self.shape, dtype)
        else:
            flat = np.frombuffer(self.storage, dtype)[self.offset:]
            strides = tuple(stride * dtype.itemsize for stride in self.strides)
            stored = as_strided(flat, self.shape, strides, writeable=False)
        if self.kind == "bfloat16":
            return (stored.astype(np.uint32) << 16).view(np.float32)
        return np.array(stored, dtype=np.float32 if self.kind == "<f2" else dtype.newbyteorder("="), order="C")

    def tolist(self) -> Any:
        """The elements as nested lists of numbers; one number without dimensions."""
        return self.array().tolist()


@dataclass(frozen=True, slots=True)
class StoredClass:
    """An optimizer's class, which the vendor's files name.

    Args:
        name: without its module.
    """

    name: str


@dataclass(frozen=True, slots=True)
class _Named:
    """A name that the pickle mentions; it stands for what this reader does where the pickle would call it."""

    name: str


def _element_type(kind: str) -> np.dtype[Any]:
    return np.dtype("<u2" if kind == "bfloat16" else kind)


def check_archive(data: bytes) -> None:
    """Structure and checksums of a zip archive, before anything in it is interpreted.

    Raises:
        DamagedContent: an incomplete archive, or a wrong checksum.
        SuspiciousArchive: too many members, members of one name or with names that lead elsewhere, or a size after
            unpacking that the file's size does not explain.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if reason := _suspicion(archive.infolist(), len(data)):
                raise SuspiciousArchive(reason)
            damaged = archive.testzip()
    except SuspiciousArchive:
        raise
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError,
            ValueError, NotImplementedError, RuntimeError, KeyError, OverflowError) as error:
        raise DamagedContent(f"archive: {error}") from error
    if damaged is not None:
        raise DamagedContent(f"wrong checksum of member {damaged}")


def _suspicion(members: list[zipfile.ZipInfo], size: int) -> str:
    """Why the members are not those of a file that torch wrote; empty if they may be."""
    names = [member.filename for member in members]
    unpacked = sum(member.file_size for member in members)
    if len(names) > MAX_MEMBERS:
        return f"{len(names)} members"
    if len(set(names)) != len(names):
        return "members of the same name"
    if any(PurePosixPath(n).is_absolute() or ".." in PurePosixPath(n).parts or "\\" in n or "\0" in n for n in names):
        return "a member whose name leaves the archive"
    if unpacked > MAX_EXPANSION * size + SLACK_BYTES:
        return f"members of {unpacked} bytes in a file of {size} bytes"
    return ""


def read_torch_file(data: bytes) -> Any:
    """What ``torch.save`` was given.

    Args:
        data: a zip archive that `check_archive` has passed.

    Returns:
        Mappings as dict, lists, tuples, text, numbers, None, `StoredTensor` and `StoredClass`. Attributes of mappings
        and whether a tensor is a parameter are left out.

    Raises:
        UnknownContent: something that this reader does not know.
        DamagedContent: sizes, types or the order of operations contradict each other.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = set(archive.namelist())
        roots = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1 or f"{roots[0]}/constants.pkl" in names:
            raise UnknownContent("not the members of one saved object")
        root = roots[0]
        if f"{root}/version" not in names or archive.read(f"{root}/version").strip() not in _VERSIONS:
            raise UnknownContent("another version of the format")
        if f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little":
            raise UnknownContent("another byte order")

        def storage(key: str) -> bytes:
            if f"{root}/data/{key}" not in names:
                raise DamagedContent(f"no storage {key[:40]}")
            return archive.read(f"{root}/data/{key}")

        return _Interpreter(storage).run(archive.read(f"{root}/data.pkl"))


class _Interpreter:
    """Runs the operations of one pickle on a stack.

    Args:
        read_storage: bytes of the member with a given key.
    """

    def __init__(self, read_storage: Callable[[str], bytes]) -> None:
        self.read_storage = read_storage
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}
        self.may_copy = 0

    def run(self, pickle: bytes) -> Any:
        """The object that the pickle describes."""
        self.may_copy = len(pickle)
        try:
            for operation, argument, _ in pickletools.genops(pickle):
                if operation.name == "STOP":
                    break
                handler = _OPERATIONS.get(operation.name)
                if handler is None:
                    raise UnknownContent(f"operation {operation.name}")
                handler(self, argument)
            (result,) = self.stack
        except DamagedContent:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise DamagedContent(f"pickle: {str(error)[:120]}") from error
        if result is _MARK:
            raise DamagedContent("pickle: no object")
        return result

    def push(self, value: Any) -> None:
        """A value onto the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """The value on top of the stack."""
        value = self.stack.pop()
        if value is _MARK:
            raise DamagedContent("pickle: a mark instead of a value")
        return value

    def pop_marked(self) -> list[Any]:
        """The values above the last mark, which goes too."""
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def put(self, index: int) -> None:
        """Remember the value on top."""
        if self.stack[-1] is _MARK:
            raise DamagedContent("pickle: a mark instead of a value")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        """A remembered value."""
        self.push(self.memo[index])

    def tuple_of(self, length: int) -> None:
        """The topmost values as a tuple."""
        self.push(tuple([self.pop() for _ in range(length)][::-1]))

    def append(self, values: list[Any]) -> None:
        """Values to the list below them."""
        target = self.stack[-1]
        if type(target) is not list:
            raise DamagedContent("pickle: values for something that is no list")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        """Keys and values to the mapping below them."""
        target = self.stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise DamagedContent("pickle: items for something that is no mapping")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_checked_key(key)] = value

    def count_copy(self, length: int) -> None:
        """Refuse copies of one remembered value over and over, which would need more memory than the file explains."""
        self.may_copy -= length
        if self.may_copy < 0:
            raise DamagedContent("pickle: more content than the file has bytes")

    def name(self, argument: str) -> None:
        """A module's entry, by name only."""
        self.push(StoredClass(argument.split(" ")[1]) if argument in _OPTIMIZERS else _Named(argument))

    def build(self) -> None:
        """Attributes of an object: those of mappings (``_metadata``) are of no use here."""
        state = self.pop()
        if type(self.stack[-1]) is not dict or type(state) is not dict:
            raise UnknownContent("attributes")

    def call(self) -> None:
        """What ``torch.save`` lets a pickle call."""
        arguments, called = self.pop(), self.pop()
        handler = _CALLS.get(called.name) if isinstance(called, _Named) else None
        if handler is None or type(arguments) is not tuple:
            raise UnknownContent("a call")
        self.push(handler(self, *arguments))

    def persistent(self) -> None:
        """A storage, which lies in a member of its own."""
        identity = self.pop()
        if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
            raise UnknownContent("persistent object")
        _, kind, key, location, length = identity
        module, _, class_name = kind.name.partition(" ") if isinstance(kind, _Named) else ("", "", "")
        if module != "torch" or class_name not in _STORAGES or location == "meta":
            raise UnknownContent("kind of storage")
        if type(key) is not str or not _is_count(length):
            raise DamagedContent("a storage without key or length")
        if key not in self.storages:
            self.storages[key] = _checked_storage(key, _STORAGES[class_name], self.read_storage(key))
        storage = self.storages[key]
        if storage.kind != _STORAGES[class_name]:
            raise DamagedContent(f"storage {key[:40]} of two element types")
        if storage.length != length:
            raise DamagedContent(f"storage {key[:40]} with {length} elements in {len(storage.content)} bytes")
        self.push(storage)


@dataclass(frozen=True, slots=True, eq=False)
class _Storage:
    """A storage: element type, bytes and number of elements."""

    kind: str
    content: bytes
    length: int


def _checked_storage(key: str, kind: str, content: bytes) -> _Storage:
    length, rest = divmod(len(content), _element_type(kind).itemsize)
    if rest:
        raise DamagedContent(f"storage {key[:40]} of {len(content)} bytes, no whole number of elements")
    if kind == "|b1" and content.strip(b"\0\1"):
        raise DamagedContent(f"storage {key[:40]} with truth values other than 0 and 1")
    return _Storage(kind, content, length)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _checked_key(key: Any) -> Any:
    """A key that is cheap to hash: a tuple of tuples of itself would not be."""
    entries = key if type(key) is tuple else (key,)
    if len(entries) <= _MAX_KEY_ENTRIES and all(type(entry) in _KEY_TYPES for entry in entries):
        return key
    raise UnknownContent("a key that is neither text nor number")


def _tensor(interpreter: _Interpreter, storage: Any, offset: Any, shape: Any, strides: Any, *flags: Any
            ) -> StoredTensor:
    """``_rebuild_tensor_v2``: every element must lie inside the storage."""
    if not isinstance(storage, _Storage) or not 2 <= len(flags) <= 3 or flags[1] or flags[2:] not in ((), ({},)):
        raise UnknownContent("kind of tensor")
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise DamagedContent("a tensor without shape or strides")
    if len(shape) > _MAX_DIMENSIONS:
        raise DamagedContent(f"a tensor of {len(shape)} dimensions")
    if not all(_is_count(value) for value in (offset, *shape, *strides)):
        raise DamagedContent("a tensor whose offset, shape or strides are no counts")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.length:
        raise DamagedContent(f"a tensor that reaches element {last} of a storage of {storage.length} elements")
    return StoredTensor(kind=storage.kind, shape=shape, strides=strides, offset=offset, storage=storage.content)


def _parameter(interpreter: _Interpreter, tensor: Any, *flags: Any) -> StoredTensor:
    """``_rebuild_parameter``: the tensor itself."""
    if not isinstance(tensor, StoredTensor) or len(flags) != 2 or flags[1]:
        raise UnknownContent("kind of parameter")
    return tensor


def _mapping(interpreter: _Interpreter, *pairs: Any) -> dict[Any, Any]:
    """``OrderedDict``, empty or from a list of pairs."""
    if not pairs:
        return {}
    (entries,) = pairs
    if type(entries) is not list or not all(type(entry) in (list, tuple) and len(entry) == 2 for entry in entries):
        raise UnknownContent("content of a mapping")
    interpreter.count_copy(len(entries))
    return {_checked_key(key): value for key, value in entries}


def _shape(interpreter: _Interpreter, sizes: Any) -> tuple[int, ...]:
    """``torch.Size``, a tuple of counts."""
    if type(sizes) is not tuple or len(sizes) > _MAX_DIMENSIONS or not all(_is_count(size) for size in sizes):
        raise DamagedContent("a size that is no short tuple of counts")
    return sizes


def _bytes(interpreter: _Interpreter, text: Any, encoding: Any) -> bytes:
    """``_codecs.encode``: how pickles of protocol 2 hold bytes."""
    if type(text) is not str or encoding != "latin1":
        raise UnknownContent("encoding")
    interpreter.count_copy(len(text))
    return text.encode("latin1")


_CALLS: Mapping[str, Callable[..., Any]] = {
    "collections OrderedDict": _mapping, "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter, "torch Size": _shape, "_codecs encode": _bytes}

_Operation = Callable[[_Interpreter, Any], None]


def _frame(interpreter: _Interpreter, argument: Any) -> None:
    """Protocol numbers and frames carry no content."""


_OPERATIONS: Mapping[str, _Operation] = {
    **dict.fromkeys(("PROTO", "FRAME"), _frame),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
                     "BINBYTES", "SHORT_BINBYTES"),
                    _Interpreter.push),
    "NONE": lambda run, _: run.push(None), "NEWTRUE": lambda run, _: run.push(True),
    "NEWFALSE": lambda run, _: run.push(False), "EMPTY_DICT": lambda run, _: run.push({}),
    "EMPTY_LIST": lambda run, _: run.push([]), "EMPTY_TUPLE": lambda run, _: run.push(()),
    "MARK": lambda run, _: run.push(_MARK),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Interpreter.put),
    "MEMOIZE": lambda run, _: run.put(len(run.memo)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Interpreter.get),
    "TUPLE": lambda run, _: run.push(tuple(run.pop_marked())),
    "TUPLE1": lambda run, _: run.tuple_of(1), "TUPLE2": lambda run, _: run.tuple_of(2),
    "TUPLE3": lambda run, _: run.tuple_of(3),
    "APPEND": lambda run, _: run.append([run.pop()]), "APPENDS": lambda run, _: run.append(run.pop_marked()),
    "SETITEM": lambda run, _: run.set_items([run.pop(), run.pop()][::-1]),
    "SETITEMS": lambda run, _: run.set_items(run.pop_marked()),
    "GLOBAL": _Interpreter.name, "REDUCE": lambda run, _: run.call(), "BUILD": lambda run, _: run.build(),
    "BINPERSID": lambda run, _: run.persistent()}
