"""Layout inference: give every register and shared tile a layout.

    a: f16[16, 32] = load_global(...)         a: f16[16, 32] @ L = load_global(...)
    annotate_layout(a, L)               ->    annotate_layout(a, L)
    b: f16[16, 32] = a * 2                    b: f16[16, 32] @ L = a * 2

Instructions propose what follows from the layouts known so far. MUST proposals are applied until
none is left, then one SHOULD in program order, then MUST again, and MAY last. Nothing is ever taken
back: two MUST layouts for one tile are a conflict, reported with both lines of the program.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Any

from tilus.errors import Location, TilusError, locate
from tilus.ir.instruction import Instruction, Known, Layout, LayoutTile, Proposal, Strength
from tilus.ir.layout import LayoutError, RegisterLayout
from tilus.ir.program import Program
from tilus.ir.stmt import Body, Do, Stmt, ThreadGroup
from tilus.ir.tensor import RegisterTensor, SharedTensor
from tilus.ir.visit import bodies, map_operands, rewrite
from tilus.passes.analyze import Analysis


@dataclass(frozen=True)
class InferLayout:
    """Program without layouts -> program in which every tile has one."""

    name: str = "infer_layout"

    def __call__(self, program: Program) -> Program:
        inference = _Inference(program)
        inference.solve()
        return inference.apply()


@dataclass(frozen=True, eq=False)
class _Site:
    """An instruction where it stands: its place, and how many threads run it."""

    instruction: Instruction
    location: Location | None
    num_threads: int
    order: int


@dataclass(frozen=True)
class _Origin:
    location: Location | None
    instruction: str
    layout: Layout


class _Inference:
    def __init__(self, program: Program):
        self.program = program
        self.sites = list(_sites(program.body, program.num_threads))
        self.known = Known(program.num_threads, Analysis(program))
        self.origins: dict[LayoutTile, _Origin] = {}
        self.users: dict[Any, list[_Site]] = defaultdict(list)
        # What the sites propose now: by order, until a layout of one of their tiles is set.
        self.proposals: dict[int, list[Proposal]] = {}
        for site in self.sites:
            for tile in _tiles(site.instruction):
                self.users[tile].append(site)

    def solve(self) -> None:
        for site in self.sites:
            for tile in _tiles(site.instruction):
                if tile.layout is not None:
                    self._adopt(tile, site)
        for site in self.sites:
            if len(_tiles(site.instruction)) == 1:
                self._apply(site, Strength.MUST)  # annotations hold before their line, too
        self._propagate()

    def _propagate(self) -> None:
        """Always the strongest proposal there is, and of these the first in program order."""
        queue = [(strength, site.order) for strength in Strength for site in self.sites]
        queued = set(queue)
        while queue:
            entry = heappop(queue)
            queued.remove(entry)
            strength, order = entry
            for tile in self._apply(self.sites[order], strength):
                again = {(s, user.order) for user in self.users[tile] for s in Strength}
                for entry in again - queued:
                    heappush(queue, entry)
                queued |= again

    def _apply(self, site: _Site, strength: Strength) -> list[LayoutTile]:
        """The tiles that got a layout from this site: all that MUST have one, else the first."""
        found: list[LayoutTile] = []
        for proposal in self._proposals(site, strength):
            if self._set(proposal, site):
                found.append(proposal.tile)
                if strength is not Strength.MUST:
                    break
        return found

    def _adopt(self, tile: LayoutTile, site: _Site) -> None:
        """A layout that the program gives with the tile itself."""
        assert tile.layout is not None
        bits = tile.bits if isinstance(tile, RegisterTensor) else None
        self._set(Proposal(tile, tile.layout, Strength.MUST, bits), site)

    def _proposals(self, site: _Site, strength: Strength) -> list[Proposal]:
        found = self.proposals.get(site.order)
        if found is None:
            self.known.num_threads = site.num_threads
            with locate(site.location):
                found = list(site.instruction.layouts(self.known))
            self.proposals[site.order] = found
        return [p for p in found if p.strength == strength]

    def _set(self, proposal: Proposal, site: _Site) -> bool:
        """Record a layout; False where it was known, an error where another one was."""
        tile, old = proposal.tile, self.known.layouts.get(proposal.tile)
        if old is not None:
            if old != proposal.layout and proposal.strength is Strength.MUST:
                raise self._conflict(tile, proposal.layout, site)
            return False
        self._check_shape(tile, proposal.layout, site)
        _check_threads(tile, proposal.layout, site)
        if proposal.bits is not None and isinstance(tile, RegisterTensor):
            self.known.bits[tile] = proposal.bits
        self.known.layouts[tile] = proposal.layout
        for user in self.users[tile]:
            self.proposals.pop(user.order, None)
        self.origins[tile] = _Origin(site.location, site.instruction.name, proposal.layout)
        return True

    def _check_shape(self, tile: LayoutTile, layout: Layout, site: _Site) -> None:
        if tuple(layout.shape) != tuple(tile.shape):
            raise LayoutError(
                f"the layout of {_name(tile)} has another shape",
                found=f"layout of shape {list(layout.shape)}",
                expected=f"{list(tile.shape)}",
                location=site.location,
            )

    def _conflict(self, tile: LayoutTile, layout: Layout, site: _Site) -> LayoutError:
        origin = self.origins[tile]
        note = f"{origin.instruction} gives it {origin.layout}"
        return LayoutError(
            f"two layouts are needed for {_name(tile)} ({tile})",
            found=f"{site.instruction.name} needs {layout}",
            expected=f"{origin.layout}, from {origin.instruction}",
            hint="load or compute the tile twice, or change its layout by a store to and a load "
            "from shared memory",
            location=site.location,
            related=() if origin.location is None else ((origin.location, note),),
        )

    # ---- the result ----

    def apply(self) -> Program:
        """The program with every tile replaced by one that has its layout; the names stay."""
        copies: dict[Any, Any] = {}
        for site in self.sites:
            for tile in _tiles(site.instruction):
                if tile not in copies:
                    copies[tile] = self._finished(tile, site)

        def replaced(stmt: Stmt) -> Stmt:
            return map_operands(stmt, lambda leaf: copies.get(leaf, leaf))

        result = rewrite(self.program, replaced)
        for site in _sites(result.body, result.num_threads):
            for tile in _tiles(site.instruction):
                _check_threads(tile, tile.layout, site)
            with locate(site.location):
                site.instruction.check_layouts()
        return result

    def _finished(self, tile: LayoutTile, site: _Site) -> LayoutTile:
        layout = self.known.layouts.get(tile)
        if layout is None:
            raise TilusError(
                f"no layout could be found for {_name(tile)} ({tile})",
                hint=f"say one: self.annotate_layout({_name(tile)}, layout)",
                location=site.location,
            )
        if isinstance(tile, RegisterTensor):
            assert isinstance(layout, RegisterLayout)
            bits = self.known.bits.get(tile, tile.bits)
            same = tile.layout is layout and tile.bits is bits
            return tile if same else replace(tile, layout=layout, bits=bits)
        assert not isinstance(layout, RegisterLayout)
        return tile if tile.layout is layout else replace(tile, layout=layout)


def _check_threads(tile: LayoutTile, layout: Layout | None, site: _Site) -> None:
    """A register tile is held by exactly the threads that run the line."""
    if isinstance(layout, RegisterLayout) and layout.num_threads != site.num_threads:
        raise LayoutError(
            f"the layout of {_name(tile)} is over another number of threads",
            found=f"{layout.num_threads} threads: {layout}",
            expected=f"{site.num_threads}: as many as run this line",
            hint="adapt the layout or self.attrs.warps; in a thread group, use tiles made there",
            location=site.location,
        )


def _sites(body: Body, num_threads: int) -> Iterable[_Site]:
    found: list[_Site] = []

    def visit(stmts: Body, threads: int) -> None:
        for stmt in stmts:
            if isinstance(stmt, Do):
                found.append(_Site(stmt.instruction, stmt.location, threads, len(found)))
            inner = stmt.count if isinstance(stmt, ThreadGroup) else threads
            for nested in bodies(stmt):
                visit(nested, inner)

    visit(body, num_threads)
    return found


def _tiles(instruction: Instruction) -> list[LayoutTile]:
    return [x for x in instruction.operands() if isinstance(x, (RegisterTensor, SharedTensor))]


def _name(tile: LayoutTile) -> str:
    return tile.name or "a tile"
