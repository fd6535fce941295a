"""Where the attention states of a local model are kept: every position of a tree is computed once.

Two places. `Slots` is the working memory of the rows under way: one buffer a layer, one slot a row, written in
place at each row's own position, so that rows join and leave without moving the others. `PrefixTree` is the
long-term memory: segments of token ids with their states in a radix tree, shared by all rows and searches,
least recently used leaves forgotten first once it holds more bytes than it may.

A position's states are its keys and values in all layers and its last hidden state. With the hidden state at
hand a row starts from any stored position without running the model: its next token's logits are one product
away. Knows nothing of searches, sampling or text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

GROWTH = 512
"""Slots grow by this many positions at a time: rarely enough that copying them doesn't show."""


@dataclass(frozen=True)
class Geometry:
    """What one position's states look like."""

    layers: int
    kv_heads: int
    head_dim: int
    hidden: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_position(self) -> int:
        return (2 * self.layers * self.kv_heads * self.head_dim + self.hidden) * self.dtype.itemsize


@dataclass(frozen=True)
class States:
    """The states of n consecutive positions."""

    kv: torch.Tensor
    """[2 * layers, kv_heads, n, head_dim]: keys at even, values at odd indices."""
    hidden: torch.Tensor
    """[n, hidden], after the final norm."""

    def cut(self, start: int, end: int) -> States:
        """A copy, so that the rest can be freed."""
        return States(self.kv[:, :, start:end].clone(), self.hidden[start:end].clone())

    @property
    def nbytes(self) -> int:
        return self.kv.nbytes + self.hidden.nbytes


# Long-term memory


@dataclass(eq=False, slots=True)
class Segment:
    """A run of token ids without a fork, and its states if the tree keeps any."""

    ids: tuple[int, ...]
    parent: Segment | None
    states: States | None
    used: int = 0
    children: dict[int, Segment] = field(default_factory=dict)
    """By first token id."""


Match = list[tuple[Segment, int]]
"""Segments from the root on, and how many ids of each belong to the path that was looked up."""


def matched(match: Match) -> int:
    """Positions that a match covers."""
    return sum(count for _, count in match)


def shared(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning."""
    limit = min(len(left), len(right))
    if left[:limit] == right[:limit]:
        return limit
    return next(index for index in range(limit) if left[index] != right[index])


class PrefixTree:
    """A radix tree over token ids. Not thread-safe: it belongs to the decoding thread.

    `limit` bounds the bytes of all states together (None: no bound) and holds after every call. A tree whose
    segments have no states merely remembers which paths it has seen.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.nbytes = 0
        self.evicted = 0
        """Positions forgotten so far."""
        self._root = Segment((), None, None)
        self._segments: set[Segment] = set()
        self._clock = 0

    def __len__(self) -> int:
        """Positions held."""
        return sum(len(segment.ids) for segment in self._segments)

    def match(self, ids: tuple[int, ...]) -> Match:
        """The longest stored beginning of `ids`; marks it as used."""
        self._clock += 1
        found: Match = []
        node, at = self._root, 0
        while at < len(ids) and (child := node.children.get(ids[at])) is not None:
            count = shared(child.ids, ids[at : at + len(child.ids)])
            child.used = self._clock
            found.append((child, count))
            at += count
            if count < len(child.ids):
                break
            node = child
        return found

    def insert(self, ids: tuple[int, ...], states: Callable[[int, int], States] | None = None) -> int:
        """Store what of `ids` is not stored yet and return how many positions that was.

        `states(start, end)` gives a copy of the states of those positions of `ids`; it is called at most once.
        """
        found = self.match(ids)
        known = matched(found)
        if known == len(ids):
            return 0
        parent = self._root
        if found:
            parent, count = found[-1]
            if count < len(parent.ids):
                parent = self._split(parent, count)
        fresh = Segment(ids[known:], parent, states(known, len(ids)) if states else None, self._clock)
        parent.children[fresh.ids[0]] = fresh
        self._segments.add(fresh)
        self.nbytes += fresh.states.nbytes if fresh.states else 0
        self.shrink()
        return len(ids) - known

    def shrink(self, limit: int | None = None) -> None:
        """Forget the least recently used ends of paths until at most `limit` bytes are left (default: the tree's)."""
        bound = self.limit if limit is None else limit
        if bound is None:
            return
        while self.nbytes > bound:
            leaf = min((s for s in self._segments if not s.children), key=lambda segment: segment.used)
            assert leaf.parent is not None and leaf.states is not None
            del leaf.parent.children[leaf.ids[0]]
            self._segments.remove(leaf)
            self.nbytes -= leaf.states.nbytes
            self.evicted += len(leaf.ids)

    def _split(self, segment: Segment, count: int) -> Segment:
        """Put a node behind the first `count` ids of a segment and return it."""
        assert segment.parent is not None
        states = segment.states
        upper = Segment(segment.ids[:count], segment.parent, states.cut(0, count) if states else None, segment.used)
        segment.parent.children[upper.ids[0]] = upper
        if states:
            segment.states = states.cut(count, len(segment.ids))
        segment.ids = segment.ids[count:]
        segment.parent = upper
        upper.children[segment.ids[0]] = segment
        self._segments.add(upper)
        return upper


# Working memory


class Slots:
    """Buffers for `count` rows. Row i's states lie at positions 0 to its length in slot i; what lies behind is
    masked by whoever attends, and is always finite (a masked NaN would still spread)."""

    def __init__(self, geometry: Geometry, count: int) -> None:
        self.geometry = geometry
        self.count = count
        self.capacity = 0
        self.generation = 0
        """Goes up whenever the buffers move."""
        self.kv = torch.empty(0)
        """[2 * layers, slots, kv_heads, capacity, head_dim]"""
        self.hidden = torch.empty(0)
        """[slots, capacity, hidden]"""

    @property
    def nbytes(self) -> int:
        return self.kv.nbytes + self.hidden.nbytes

    def reserve(self, capacity: int, live: int) -> bool:
        """Make room for `capacity` positions a slot, keeping the first `live` slots. True if buffers moved."""
        if capacity <= self.capacity:
            return False
        g = self.geometry
        wanted = -(-capacity // GROWTH) * GROWTH
        make: dict[str, Any] = {"dtype": g.dtype, "device": g.device}
        kv = torch.zeros(2 * g.layers, self.count, g.kv_heads, wanted, g.head_dim, **make)
        hidden = torch.zeros(self.count, wanted, g.hidden, **make)
        if self.capacity and live:
            kv[:, :live, :, : self.capacity] = self.kv[:, :live]
            hidden[:live, : self.capacity] = self.hidden[:live]
        self.kv, self.hidden, self.capacity = kv, hidden, wanted
        self.generation += 1
        return True

    def load(self, slot: int, match: Match, skip: int = 0) -> None:
        """Copy stored states into a slot, save for the first `skip` positions."""
        start = 0
        for segment, count in match:
            assert segment.states is not None
            first = max(0, skip - start)
            if first < count:
                here = slice(start + first, start + count)
                self.kv[:, slot, :, here] = segment.states.kv[:, :, first:count]
                self.hidden[slot, here] = segment.states.hidden[first:count]
            start += count

    def copy_from(self, other: Slots, source: int, target: int, length: int) -> None:
        """Copy `length` positions of slot `source` of `other` (which may be self) into slot `target`."""
        self.kv[:, target, :, :length] = other.kv[:, source, :, :length]
        self.hidden[target, :length] = other.hidden[source, :length]

    def states(self, slot: int, start: int, end: int) -> States:
        """A copy of a slot's states."""
        return States(self.kv[:, slot, :, start:end].clone(), self.hidden[slot, start:end].clone())

    def clear(self, slot: int) -> None:
        self.kv[:, slot] = 0
        self.hidden[slot] = 0


class StepView:
    """What a model sees as its cache in a decoding step: one new position for each of the first rows."""

    def __init__(self, slots: Slots, positions: torch.Tensor, length: int) -> None:
        """`positions` [rows]: where each row's new states go; `length`: positions to attend to, masks included."""
        self._slots = slots
        self._rows = torch.arange(positions.shape[0], device=positions.device)
        self._positions = positions
        self._length = length

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`keys`, `values` [rows, kv_heads, 1, head_dim] in; all states up to `length` out."""
        rows = keys.shape[0]
        out = []
        for index, fresh in ((2 * layer, keys), (2 * layer + 1, values)):
            buffer = self._slots.kv[index]
            buffer[self._rows, :, self._positions] = fresh[:, :, 0]
            out.append(buffer[:rows, :, : self._length])
        return out[0], out[1]

    def get_seq_length(self, _layer: int = 0) -> int:
        return self._length - 1


class PrefillView:
    """What a model sees as its cache while it reads a stretch of positions of one slot."""

    def __init__(self, slots: Slots, slot: int, start: int, end: int) -> None:
        self._slots = slots
        self._slot = slot
        self._start = start
        self._end = end

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`keys`, `values` [1, kv_heads, end - start, head_dim] in; all states up to `end` out."""
        out = []
        for index, fresh in ((2 * layer, keys), (2 * layer + 1, values)):
            buffer = self._slots.kv[index, self._slot : self._slot + 1]
            buffer[:, :, self._start : self._end] = fresh
            out.append(buffer[:, :, : self._end])
        return out[0], out[1]

    def get_seq_length(self, _layer: int = 0) -> int:
        return self._start
