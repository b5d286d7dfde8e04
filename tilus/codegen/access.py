"""Loading and storing a register tile: the widest pieces, masked where a tensor ends.

    load_tile(GlobalAccess(emitter, tile, tensor, offsets, dims))

Where elements do not fill whole bytes, it is done element by element.
"""

from __future__ import annotations

from tilus.codegen.emitter import Emitter
from tilus.codegen.global_access import GlobalAccess
from tilus.codegen.pieces import PIECES
from tilus.codegen.shared_access import SharedAccess

Access = GlobalAccess | SharedAccess


def load_tile(access: Access) -> None:
    """Registers from memory in the widest legal pieces; 0 where outside of the tensor."""
    e, tile, nbytes = access.emitter, access.tile, access.piece_bytes
    name, source, nbits = e.tile(tile), e.name(access.tensor), tile.dtype.nbits
    if nbytes is None:
        e.note(f"{name}: loaded element by element, as {tile.dtype} elements are not whole bytes")
        for i, bit, condition in access.elements():
            value = masked(condition, f"{e.use('load_bits')}<{nbits}>({source}, {bit})", "0u")
            e(f"{e.use('put')}<{nbits}>({name}, {i}, {value});")
        return
    _note_width(e, name, "loaded", nbytes)
    kind = PIECES[nbytes]
    if isinstance(access, SharedAccess) and nbytes == max(PIECES):
        load = e.use("load_shared_16")
        for i, piece in access.pieces(nbytes):
            e(f"reinterpret_cast<{kind}*>({name})[{i}] = {load}({source} + {piece.address});")
        return
    for i, piece in access.pieces(nbytes):
        value = f"*reinterpret_cast<const {kind}*>({source} + {piece.address})"
        value = masked(piece.condition, value, f"{kind}()")
        e(f"reinterpret_cast<{kind}*>({name})[{i}] = {value};")


def store_tile(access: Access) -> None:
    """Registers to memory; pieces outside of the tensor are skipped."""
    e, tile, nbytes = access.emitter, access.tile, access.piece_bytes
    name, target, nbits = e.tile(tile), e.name(access.tensor), tile.dtype.nbits
    if nbytes is None:
        e.note(f"{name}: stored bit by bit, as {tile.dtype} elements are not whole bytes")
        for i, bit, condition in access.elements():
            value = f"{e.use('take')}<{nbits}>({name}, {i})"
            store = f"{e.use('store_bits')}<{nbits}>({target}, {bit}, {value});"
            e(guarded(condition, store))
        return
    _note_width(e, name, "stored", nbytes)
    kind = PIECES[nbytes]
    for i, piece in access.pieces(nbytes):
        place = f"*reinterpret_cast<{kind}*>({target} + {piece.address})"
        e(guarded(piece.condition, f"{place} = reinterpret_cast<{kind}*>({name})[{i}];"))


def _note_width(e: Emitter, name: str, verb: str, nbytes: int) -> None:
    if nbytes < max(PIECES):
        e.note(
            f"{name}: {verb} in pieces of {nbytes} bytes; its runs or their alignment allow no more"
        )


def masked(condition: str | None, value: str, otherwise: str) -> str:
    return value if condition is None else f"{condition} ? {value} : {otherwise}"


def guarded(condition: str | None, statement: str) -> str:
    return statement if condition is None else f"if ({condition}) {statement}"
