"""Copies of a call's tensors, for launches that must not touch them and must find them cold.

    copies = Copies(values, count=5)
    copies.values[0]            # as `values`, with tensors of their own memory
    copies.restore()            # what launches wrote is undone

What lies in one memory does so in a copy: the same tensor passed twice, or two views that overlap.
A copy's address leaves the same rest by 256, so that kernels specialised on it run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tilus.tensor import storage_of

ALIGNMENT = 256  # what cudaMalloc gives


@dataclass(frozen=True)
class _Span:
    """Bytes `start` to `end` of a memory, all that tensors of the call take of it."""

    memory: torch.UntypedStorage
    start: int
    end: int

    @property
    def bytes(self) -> torch.Tensor:
        """uint8, the memory itself."""
        device = torch.device(self.memory.device)
        empty = torch.empty(0, dtype=torch.uint8, device=device)
        return empty.set_(self.memory, self.start, (self.end - self.start,))  # type: ignore[call-overload]


def nbytes_of(values: Sequence[Any]) -> int:
    """Bytes of memory that a copy of the tensors among `values` takes.

    >>> x = torch.zeros(8)
    >>> nbytes_of([x, x[2:], 3])
    32
    """
    return sum(span.end - span.start for span in _spans(values).values())


class Copies:
    """`count` copies of the tensors among `values`; other values stay as they are.

    Attributes:
        values: of each copy, the values of a call.
    """

    def __init__(self, values: Sequence[Any], count: int):
        spans = _spans(values)
        self._copied: list[tuple[torch.Tensor, torch.Tensor]] = []  # original, copy
        self.values: list[list[Any]] = []
        for _ in range(count):
            buffers = {place: _buffer(span) for place, span in spans.items()}
            self._copied += [(spans[place].bytes, buffers[place]) for place in spans]
            self.values.append([_moved(value, spans, buffers) for value in values])
        self.restore()

    def restore(self) -> None:
        """Make every copy what the originals are."""
        for original, copy in self._copied:
            copy.copy_(original)

    def tensors(self, index: int) -> list[torch.Tensor]:
        """The tensors of a copy, as they are now."""
        return [value for value in self.values[index] if isinstance(value, torch.Tensor)]


def _spans(values: Sequence[Any]) -> dict[int, _Span]:
    """By the address of their memory."""
    spans: dict[int, _Span] = {}
    for tensor in filter(lambda t: t is not None and t.numel(), map(storage_of, values)):
        assert tensor is not None
        memory, start = tensor.untyped_storage(), _start(tensor)
        end = start + tensor.numel() * tensor.element_size()
        known = spans.get(memory.data_ptr(), _Span(memory, start, end))
        spans[memory.data_ptr()] = _Span(memory, min(start, known.start), max(end, known.end))
    return spans


def _start(tensor: torch.Tensor) -> int:
    """In bytes from the start of its memory."""
    return int(tensor.storage_offset()) * tensor.element_size()


def _buffer(span: _Span) -> torch.Tensor:
    """Memory for a copy, whose address leaves the same rest."""
    size = span.end - span.start
    room = torch.empty(size + ALIGNMENT, dtype=torch.uint8, device=span.bytes.device)
    offset = (span.memory.data_ptr() + span.start - room.data_ptr()) % ALIGNMENT
    return room[offset : offset + size]


def _moved(value: Any, spans: dict[int, _Span], buffers: dict[int, torch.Tensor]) -> Any:
    """The tensor in the copy; of a tilus tensor, the torch tensor that holds it."""
    tensor = storage_of(value)
    if tensor is None or not tensor.numel():
        return value if tensor is None else tensor
    place = tensor.untyped_storage().data_ptr()
    start = _start(tensor) - spans[place].start
    size = tensor.numel() * tensor.element_size()
    return buffers[place][start : start + size].view(tensor.dtype).view(tensor.shape)
