"""Missing synchronisation: shared memory touched by two groups of threads without a sync between.

    store_shared(s, a)
    y = load_shared(s)        # error: other threads wrote what this line reads

Only what is certain is reported: the same shared tensor, touched as a whole, on every path, by
register layouts that give elements to different threads. What depends on run-time offsets is left
to the interpreter, which checks every element.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tilus.errors import Location, TilusError
from tilus.ir.expr import as_int
from tilus.ir.instruction import Effects, Instruction
from tilus.ir.layout import RegisterLayout, holds_operands
from tilus.ir.program import Program
from tilus.ir.stmt import Body, Break, Continue, Do, For, If, Return, Stmt, ThreadGroup, While
from tilus.ir.tensor import RegisterTensor, SharedTensor
from tilus.ir.visit import walk


@dataclass(frozen=True)
class CheckHazards:
    """Program with layouts -> the same program, or an error with the two lines that need a sync."""

    name: str = "check_hazards"

    def __call__(self, program: Program) -> Program:
        _Checker().body(program.body, {})
        return program


@dataclass(frozen=True)
class _Access:
    """How one line touches a whole shared tensor; `layout` says by which threads, if known."""

    instruction: str
    location: Location | None
    writes: bool
    layout: RegisterLayout | None
    is_copy: bool = False  # asynchronous
    waited: bool = False  # a copy that may have been waited for


# The accesses since the last sync, on every path to here; None: no path leads here.
_State = Mapping[SharedTensor, tuple[_Access, ...]] | None


class _Checker:
    def __init__(self) -> None:
        self.breaks: list[_State] = []  # joined states of the breaks of the innermost loop
        self.continues: list[_State] = []
        self.again = False  # walking a loop body the second time
        self.rules: dict[type[Stmt], Callable[[Any, _State], _State]] = {
            Do: self.do,
            If: self.if_,
            For: self.for_,
            While: self.loop,
            ThreadGroup: self.thread_group,
            Break: self.break_,
            Continue: self.continue_,
            Return: lambda stmt, state: None,
        }

    def body(self, body: Body, state: _State) -> _State:
        for stmt in body:
            rule = self.rules.get(type(stmt))
            if rule is not None and state is not None:
                state = rule(stmt, state)
        return state

    # ---- instructions ----

    def do(self, stmt: Do, state: _State) -> _State:
        assert state is not None
        instruction = stmt.instruction
        if Effects.SYNC in instruction.effects:
            return {t: kept for t, all_ in state.items() if (kept := _unfinished(all_))}
        if _may_wait(instruction):
            state = {t: tuple(replace(a, waited=True) for a in all_) for t, all_ in state.items()}
        result = dict(state)
        for tensor, access in _accesses(stmt):
            for earlier in result.get(tensor, ()):
                self.check(tensor, earlier, access)
            result[tensor] = (*result.get(tensor, ()), access)
        if isinstance(out := instruction.result, SharedTensor):
            result.pop(out, None)  # from here on it names other memory
        return result

    def check(self, tensor: SharedTensor, earlier: _Access, later: _Access) -> None:
        if not (earlier.writes or later.writes):
            return
        if earlier.is_copy and not earlier.waited:
            raise self.error(tensor, earlier, later, copying=True)
        if not _same_threads(earlier, later):
            raise self.error(tensor, earlier, later, copying=False)

    def error(
        self, tensor: SharedTensor, earlier: _Access, later: _Access, *, copying: bool
    ) -> TilusError:
        when = " in the iteration before" if self.again else ""
        did = "copied to" if earlier.is_copy else "written" if earlier.writes else "read"
        does = "read" if not later.writes else "overwritten" if not earlier.writes else "written"
        wait = "wait for the copy and " if copying else ""
        note = (earlier.location, f"{did} here{when}") if earlier.location else None
        return TilusError(
            f"{tensor.name or 'a shared tensor'} is {does} without a sync after it was {did}{when}",
            found=_layouts(earlier, later),
            expected=f"{wait}a sync of all threads between the two lines",
            hint=f"{'call self.copy_async_wait_all(), then' if copying else 'call'} self.sync() "
            "before this line",
            location=later.location,
            related=() if note is None else (note,),
        )

    # ---- control flow ----

    def if_(self, stmt: If, state: _State) -> _State:
        return _join([self.body(stmt.then, state), self.body(stmt.otherwise, state)])

    def for_(self, stmt: For, state: _State) -> _State:
        bounds = [as_int(e) for e in (stmt.start, stmt.stop, stmt.step)]
        start, stop, step = bounds
        if start is None or stop is None or not step:
            return self.loop(stmt, state)
        return self.loop(stmt, state, trips=len(range(start, stop, step)))

    def loop(self, stmt: For | While, state: _State, trips: int = 2) -> _State:
        """Two iterations show what one does to the next."""
        if trips == 0:
            return state
        outer = self.breaks, self.continues, self.again
        self.breaks, self.continues = [], []
        end = _join([self.body(stmt.body, state), *self.continues])
        if trips > 1:
            self.continues, self.again = [], True
            end = _join([end, self.body(stmt.body, end), *self.continues])
        after = _join([state, end, *self.breaks])
        self.breaks, self.continues, self.again = outer
        return after

    def break_(self, stmt: Break, state: _State) -> _State:
        self.breaks.append(state)
        return None

    def continue_(self, stmt: Continue, state: _State) -> _State:
        self.continues.append(state)
        return None

    def thread_group(self, stmt: ThreadGroup, state: _State) -> _State:
        """The group is checked by itself; how its threads meet the others is not certain."""
        assert state is not None
        self.body(stmt.body, {})
        inner = [s for s in walk(stmt.body) if isinstance(s, Do)]
        if any(Effects.SYNC in s.instruction.effects for s in inner):
            return {}
        touched = {tensor for s in inner for tensor, _ in _accesses(s)}
        return {tensor: kept for tensor, kept in state.items() if tensor not in touched}


def _join(states: Sequence[_State]) -> _State:
    """What happened on every path; paths that end elsewhere say nothing."""
    first, *others = [s for s in states if s is not None] or [None]
    if first is None:
        return None
    kept = {t: tuple(a for a in all_ if _on_all(t, a, others)) for t, all_ in first.items()}
    return {tensor: accesses for tensor, accesses in kept.items() if accesses}


def _on_all(tensor: SharedTensor, access: _Access, states: Sequence[_State]) -> bool:
    return all(state is not None and access in state.get(tensor, ()) for state in states)


# ---- accesses -----------------------------------------------------------------------------------


def _accesses(stmt: Do) -> Iterator[tuple[SharedTensor, _Access]]:
    """The shared tensors that an instruction touches as a whole, and nothing but."""
    instruction = stmt.instruction
    reads = Effects.READ_SHARED in instruction.effects
    writes = Effects.WRITE_SHARED in instruction.effects
    if reads == writes:  # none, or an atomic one, which needs no sync
        return
    tiles = [x for x in instruction.operands() if isinstance(x, RegisterTensor)]
    is_copy = Effects.ASYNC in instruction.effects
    for tensor in instruction.writes() if writes else instruction.reads():
        if not isinstance(tensor, SharedTensor):
            continue
        if is_copy:
            yield tensor, _Access(instruction.name, stmt.location, writes, None, is_copy=True)
        elif len(tiles) == 1 and tiles[0].shape == tensor.shape:
            layout = tiles[0].layout
            yield tensor, _Access(instruction.name, stmt.location, writes, layout)


def _may_wait(instruction: Instruction) -> bool:
    """Asynchronous, and no copy itself: it may be the wait that completes the copies before it."""
    copies = Effects.WRITE_SHARED in instruction.effects
    return Effects.ASYNC in instruction.effects and not copies


def _unfinished(accesses: tuple[_Access, ...]) -> tuple[_Access, ...]:
    """What a sync does not settle: copies that nobody has waited for."""
    return tuple(a for a in accesses if a.is_copy and not a.waited)


def _same_threads(earlier: _Access, later: _Access) -> bool:
    """True where each thread meets only elements that it touched itself before."""
    if later.layout is None or earlier.layout is None:
        # The threads of a copy are the code generator's choice. Other layouts are known by now.
        return not (earlier.is_copy or later.is_copy)
    return holds_operands(later.layout, earlier.layout)


def _layouts(earlier: _Access, later: _Access) -> str | None:
    if earlier.layout is None or later.layout is None:
        return None
    return f"{earlier.instruction} by {earlier.layout}, {later.instruction} by {later.layout}"
