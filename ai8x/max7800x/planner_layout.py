"""How the tensors of a network must lie relative to each other, before anything has an address.

Owns the relations of section 5.3: operands of an element-wise operation lie on the same processors, word by word in
turn; concatenated parts lie on adjacent processors, or in turn where the reader needs several passes. Finds the reads
that contradict each other and have a copy inserted for them. Knows no sizes of memories. Start at `resolve_layouts`.

Source: spec/max78000-cnn.md sections 5.1 to 5.3, 6.1 and 6.2.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ai8x.errors import Diagnostic, UserError
from ai8x.max7800x.placement import LANES, PROCESSORS, channel_passes
from ai8x.max7800x.planner_draft import CopyKind, Draft, fill_words, insert_copies
from ai8x.network.ir import NETWORK_INPUT, Layer, Network

MAX_HELPERS = 32
"""Helpers after which planning stops; the chip has 32 layers in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One tensor, or some of its channels, as a reader wants it.

    Args:
        position: place in `Layer.inputs`.
        first: first channel of the tensor.
        count: channels.
        slot: word of the pixel (operand, or pass of a concatenation).
        rank: the first channel's place among the reader's processors.
        column: processors from the reader's first to the part's first, unused lanes included.
    """

    position: int
    first: int
    count: int
    slot: int = 0
    rank: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What one layer reads.

    Args:
        gap: words between those that a producer writes (`write_gap`).
        parts: in order; more than inputs where a tensor must be cut.
    """

    gap: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A tensor, or the start of what a layer reads, in a group whose members move together.

    Args:
        group: number of the group.
        offset: distance from the group's start; words, or processors.
    """

    group: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layouts:
    """All relations of a network without contradictions. Tensors count from 0 = network input, layer i = i + 1.

    Args:
        frames: by layer, what it reads.
        gaps: by tensor, its write gap.
        words: by tensor, its place among the words of a data memory.
        read_words: by layer, where its first operand starts.
        columns: by tensor, its place among the processors.
        read_columns: by layer, its first processor.
    """

    frames: tuple[Frame, ...]
    gaps: tuple[int, ...]
    words: tuple[Place, ...]
    read_words: tuple[Place, ...]
    columns: tuple[Place, ...]
    read_columns: tuple[Place, ...]


class _Cause(enum.Enum):
    GAP = "another distance of words"
    WORDS = "another word"
    COLUMNS = "other processors"
    CROP = "an input that is loaded cropped"
    CUT = "parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conflict:
    """A read that cannot be satisfied as it is."""

    reader: int
    part: Part
    cause: _Cause


class _Groups:
    """Union-find with distances: members of a group have fixed offsets to each other."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))
        self._offset = [0] * size

    def find(self, node: int) -> tuple[int, int]:
        """(representative, offset from it)."""
        offset = 0
        while self._parent[node] != node:
            offset += self._offset[node]
            node = self._parent[node]
        return node, offset

    def join(self, node: int, other: int, distance: int) -> bool:
        """State that `other` lies `distance` behind `node`; False if that contradicts what is known."""
        root, offset = self.find(node)
        other_root, other_offset = self.find(other)
        if root == other_root:
            return other_offset == offset + distance
        self._parent[other_root] = root
        self._offset[other_root] = offset + distance - other_offset
        return True

    def places(self) -> list[Place]:
        """Every member's place; the lowest offset of a group is 0."""
        found = [self.find(node) for node in range(len(self._parent))]
        lowest: dict[int, int] = {}
        for root, offset in found:
            lowest[root] = min(offset, lowest.get(root, offset))
        numbers = {root: number for number, root in enumerate(dict.fromkeys(root for root, _ in found))}
        return [Place(group=numbers[root], offset=offset - lowest[root]) for root, offset in found]


def tensor_of(layer: int) -> int:
    """Number of a layer's output in `Layouts`; `NETWORK_INPUT` gives 0."""
    return layer + 1


def resolve_layouts(draft: Draft) -> tuple[Draft, Layouts]:
    """Insert copies until no two reads contradict each other.

    Returns:
        The draft with its helpers, and the relations.

    Raises:
        UserError: E0460, the file's ``write_gap`` cannot be kept; E0463, more helpers are needed than layers are left.
    """
    while draft.num_helpers <= MAX_HELPERS:
        wide = next((layer.index for layer in draft.network.layers if _is_too_wide(draft.network, layer)), None)
        if wide is not None:
            draft = fill_words(draft, wide)
            continue
        frames = tuple(_frame(draft, layer) for layer in draft.network.layers)
        found = _attempt(draft, frames)
        if isinstance(found, Layouts):
            return draft, found
        draft = _repair(draft, frames, found)
    raise _too_many_helpers(draft)


def _attempt(draft: Draft, frames: Sequence[Frame]) -> Layouts | _Conflict:
    """The relations, or the first read that contradicts the others."""
    conflict = _cut_needed(draft.network, frames) or _crop_conflict(draft.network)
    if conflict is not None:
        return conflict
    found = _relate(draft, frames, _gaps(draft, frames))
    if isinstance(found, Layouts):
        return _too_far_apart(draft, frames, found) or _collision(draft, frames, found) or found
    return found


def last_use(network: Network, tensor: int) -> int:
    """Last layer that needs a tensor; the number of layers for an output of the network."""
    layer = tensor - 1
    if layer in network.outputs:
        return len(network.layers)
    return max(network.consumers(layer), default=layer)


def _frame(draft: Draft, layer: Layer) -> Frame:
    network = draft.network
    operands = layer.num_operands
    channels = layer.operand_shape.channels
    if layer.eltwise:
        own = tuple(Part(position=k, first=0, count=channels, slot=k) for k in range(operands))
        return Frame(gap=operands - 1, parts=own)
    if len(layer.inputs) == 1:
        return Frame(gap=0, parts=(Part(position=0, first=0, count=channels),))
    pieces = concatenated_parts([network.shape_of(index).channels for index in layer.inputs])
    return Frame(gap=channel_passes(channels)[0] - 1, parts=pieces)


def _is_too_wide(network: Network, layer: Layer) -> bool:
    """Whether the lanes that stay unused between concatenated parts exceed the processors."""
    if layer.eltwise or len(layer.inputs) == 1:
        return False
    pieces = concatenated_parts([network.shape_of(index).channels for index in layer.inputs])
    return max(piece.column + piece.count for piece in pieces) > PROCESSORS


def concatenated_parts(channels: Sequence[int]) -> tuple[Part, ...]:
    """How concatenated tensors lie: within one pass each, from a processor divisible by 4.

    A layer writes whole words, so that no two producers share a data memory word: a part starts at a multiple of 4
    and leaves the lanes behind it unused. A tensor that reaches over the end of a pass is cut there.

    Args:
        channels: of the tensors, in order.

    Source:
        spec/max78000-cnn.md sections 0, 3.5 and 5.3.
    """
    _, share = channel_passes(sum(channels))
    pieces: list[Part] = []
    start = 0
    for position, count in enumerate(channels):
        done = 0
        while done < count:
            rank = (start + done) % share
            size = min(count - done, share - rank)
            pieces.append(Part(position=position, first=done, count=size, slot=(start + done) // share, rank=rank))
            done += size
        start += count
    return _with_columns(pieces)


def _with_columns(pieces: list[Part]) -> tuple[Part, ...]:
    """Cut the pieces where lanes stay unused inside of them, and give each its processor."""
    starts = sorted({piece.rank for piece in pieces})
    columns = {0: 0}
    for before, after in itertools.pairwise(starts):
        columns[after] = columns[before] + -(-(after - before) // LANES) * LANES
    result: list[Part] = []
    for piece in pieces:
        end = piece.rank + piece.count
        shift = columns[piece.rank] - piece.rank
        cuts = [rank for rank in starts if piece.rank < rank < end and columns[rank] - rank != shift]
        edges = [piece.rank, *cuts[:1], end]
        for low, high in itertools.pairwise(edges):
            result.append(replace(piece, first=piece.first + low - piece.rank, count=high - low, rank=low,
                                  column=columns[low]))
    if len(result) > len(pieces):
        return _with_columns(result)
    return tuple(result)


def _gaps(draft: Draft, frames: Sequence[Frame]) -> tuple[int, ...]:
    """Write gap of every tensor: what all readers agree on, otherwise none."""
    network = draft.network
    gaps: list[int] = []
    for tensor in range(len(network.layers) + 1):
        layer = tensor - 1
        wanted = {frames[reader].gap for reader in network.consumers(layer)}
        given = draft.hints[layer].write_gap if layer != NETWORK_INPUT else None
        if given is not None:
            gaps.append(given)
        elif layer == NETWORK_INPUT:
            gaps.append(frames[0].gap if _is_only_combined_with_itself(network) else 0)
        elif len(wanted) == 1 and network.layers[layer].name not in draft.compact:
            gaps.append(wanted.pop())
        else:
            gaps.append(0)
    return tuple(gaps)


def _is_only_combined_with_itself(network: Network) -> bool:
    """Whether layer 0 combines the input with itself and nothing else reads it: the loader repeats every word then."""
    first = network.layers[0]
    return bool(first.eltwise) and network.consumers(NETWORK_INPUT) == (0,)


def _relate(
    draft: Draft, frames: Sequence[Frame], gaps: Sequence[int], without: tuple[int, Part] | None = None
) -> Layouts | _Conflict:
    """Join what must lie together, or name the first read that does not agree; one read may be left out."""
    network = draft.network
    count = len(network.layers)
    words, columns = _Groups(2 * count + 1), _Groups(2 * count + 1)
    for layer, frame in zip(network.layers, frames, strict=True):
        reader = count + 1 + layer.index
        for part in frame.parts:
            if without == (layer.index, part):
                continue
            source = layer.inputs[part.position]
            tensor = tensor_of(source)
            repeated = source == NETWORK_INPUT and _is_only_combined_with_itself(network)
            if gaps[tensor] != frame.gap:
                return _Conflict(reader=layer.index, part=part, cause=_Cause.GAP)
            if not words.join(reader, tensor, 0 if repeated else part.slot):
                return _Conflict(reader=layer.index, part=part, cause=_Cause.WORDS)
            if not columns.join(reader, tensor, part.column):
                return _Conflict(reader=layer.index, part=part, cause=_Cause.COLUMNS)
    word_places, column_places = words.places(), columns.places()
    return Layouts(
        frames=tuple(frames),
        gaps=tuple(gaps),
        words=tuple(word_places[: count + 1]),
        read_words=tuple(word_places[count + 1 :]),
        columns=tuple(column_places[: count + 1]),
        read_columns=tuple(column_places[count + 1 :]),
    )


def _cut_needed(network: Network, frames: Sequence[Frame]) -> _Conflict | None:
    """The first tensor of a concatenation that must be cut into parts."""
    for layer, frame in zip(network.layers, frames, strict=True):
        for part in frame.parts:
            if part.count < network.shape_of(layer.inputs[part.position]).channels and not layer.eltwise:
                return _Conflict(reader=layer.index, part=part, cause=_Cause.CUT)
    return None


def _crop_conflict(network: Network) -> _Conflict | None:
    """Layer 0's input is loaded as it crops it; another reader then misses rows."""
    first = network.layers[0]
    if any(first.in_crop) and len(network.consumers(NETWORK_INPUT)) > 1:
        return _Conflict(reader=0, part=Part(position=0, first=0, count=first.operand_shape.channels),
                         cause=_Cause.CROP)
    return None


def _collision(draft: Draft, frames: Sequence[Frame], layouts: Layouts) -> _Conflict | None:
    """A read that brings two live tensors into the same words of the same processors."""
    network = draft.network
    for later in range(len(network.layers) + 1):
        for earlier in range(later):
            if later - 1 <= last_use(network, earlier) and _share_words(network, layouts, earlier, later):
                return _tie_between(draft, frames, layouts.gaps, (earlier, later), by_columns=False)
    return None


def _too_far_apart(draft: Draft, frames: Sequence[Frame], layouts: Layouts) -> _Conflict | None:
    """A read that chains tensors into a group wider than the chip."""
    network = draft.network
    first: dict[int, int] = {}
    last: dict[int, int] = {}

    def end(tensor: int) -> int:
        return layouts.columns[tensor].offset + tensor_width(network, tensor)

    for tensor, place in enumerate(layouts.columns):
        low, high = first.setdefault(place.group, tensor), last.setdefault(place.group, tensor)
        if place.offset < layouts.columns[low].offset:
            first[place.group] = tensor
        if end(tensor) > end(high):
            last[place.group] = tensor
    for group, tensor in last.items():
        if end(tensor) - layouts.columns[first[group]].offset > PROCESSORS:
            return _tie_between(draft, frames, layouts.gaps, (first[group], tensor), by_columns=True)
    return None


def _share_words(network: Network, layouts: Layouts, one: int, other: int) -> bool:
    step = layouts.gaps[one] + 1
    if layouts.words[one].group != layouts.words[other].group:
        return False
    if (layouts.words[one].offset - layouts.words[other].offset) % step:
        return False
    first, second = layouts.columns[one], layouts.columns[other]
    if first.group != second.group:
        return True
    low, high = sorted((first, second), key=lambda place: place.offset)
    width = tensor_width(network, one if low is first else other)
    return low.offset + -(-width // LANES) * LANES > high.offset


def tensor_width(network: Network, tensor: int) -> int:
    """Channels of one pass of a tensor."""
    return channel_passes(network.shape_of(tensor - 1).channels)[1]


def _tie_between(
    draft: Draft, frames: Sequence[Frame], gaps: Sequence[int], tensors: tuple[int, int], *, by_columns: bool
) -> _Conflict:
    """The latest read without which two tensors can lie apart.

    A read whose source other reads tie to other tensors comes first: a copy stands where the source stood, so that
    copying a tensor which nothing else ties down only shortens its life.

    Args:
        draft: so far.
        frames: what every layer reads.
        gaps: by tensor.
        tensors: the two.
        by_columns: they are to have processors of their own; otherwise words.
    """
    network = draft.network
    candidates: list[tuple[int, int, _Conflict]] = []
    for layer in network.layers:
        parts = frames[layer.index].parts
        for part in parts if len(parts) > 1 else ():
            source = tensor_of(layer.inputs[part.position])
            apart = _relate(draft, frames, gaps, (layer.index, part))
            rank = 2
            if isinstance(apart, Layouts) and _are_apart(network, apart, tensors, by_columns=by_columns):
                places = apart.columns if by_columns else apart.words
                is_alone = sum(place.group == places[source].group for place in places) == 1
                rank = 1 if is_alone else 0
            elif source not in tensors:
                continue
            conflict = _Conflict(reader=layer.index, part=part, cause=_Cause.COLUMNS if by_columns else _Cause.WORDS)
            candidates.append((rank, -layer.index, conflict))
    if not candidates:
        raise ValueError(f"tensors {tensors} collide, but no layer reads them together with others")
    return min(candidates, key=lambda candidate: candidate[:2])[2]


def _are_apart(network: Network, layouts: Layouts, tensors: tuple[int, int], *, by_columns: bool) -> bool:
    if by_columns:
        return layouts.columns[tensors[0]].group != layouts.columns[tensors[1]].group
    return not _share_words(network, layouts, *tensors)


def _repair(draft: Draft, frames: Sequence[Frame], conflict: _Conflict) -> Draft:
    """The draft with a copy for the read, or with a tensor that lies compactly so that it can be copied."""
    network = draft.network
    layer = network.layers[conflict.reader]
    source = layer.inputs[conflict.part.position]
    if conflict.cause is _Cause.CUT:
        parts = [(p.first, p.count) for p in frames[layer.index].parts if p.position == conflict.part.position]
        return insert_copies(draft, layer.index, conflict.part.position, CopyKind.CONV, parts)
    gap = _gaps(draft, frames)[tensor_of(source)]
    if gap and source != NETWORK_INPUT:
        if draft.hints[source].write_gap is not None:
            raise _gap_not_kept(draft, source, layer, frames[layer.index].gap)
        return replace(draft, compact=draft.compact | {network.layers[source].name})
    kind = CopyKind.CONV if conflict.cause is _Cause.COLUMNS else draft.copy_kind
    if conflict.cause is _Cause.CROP:
        kind = CopyKind.PASS
    return insert_copies(draft, layer.index, conflict.part.position, kind)


def _gap_not_kept(draft: Draft, source: int, reader: Layer, wanted: int) -> UserError:
    layer, hint = draft.network.layers[source], draft.hints[source]
    return UserError(Diagnostic(
        code="E0460",
        message=f"write_gap {hint.write_gap} does not suit layer '{reader.name}', which reads the output",
        source=hint.sources.get("write_gap", hint.source),
        layer=layer.name,
        layer_index=draft.file_index[source],
        found=f"write_gap {hint.write_gap}",
        allowed=f"{wanted} for that layer alone; data with gaps cannot be copied",
        help="leave write_gap out, so that it is chosen",
    ))


def _too_many_helpers(draft: Draft) -> UserError:
    layer = draft.network.layers[0]
    return UserError(Diagnostic(
        code="E0463",
        message=f"more than {MAX_HELPERS} copies are needed to place operands side by side",
        source=layer.source,
        found=f"{len(draft.network.layers) - draft.num_helpers} layers in the file",
        allowed=f"{MAX_HELPERS} layers in all",
        help="let fewer element-wise operations and concatenations read the same layer",
    ))
