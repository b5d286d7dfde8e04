"""What names mean in kernels: binding, assignment, constants, loops, methods and parameters."""

# ruff: noqa: SIM113
# Kernels count in a variable, as the tests are about those.

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import tilus
from tests.lang.mistakes import Kernel, failure, script
from tilus import boolean, float16, float32, int8, int32, int64, void_p
from tilus.ir.stmt import For, If
from tilus.ir.visit import walk

SCALE = 5  # a global name that kernels read


class Recorder(tilus.Script):
    """Base of the kernels here: `self.record(out, k, value)` sets out[k] from inside a kernel."""

    def record(self, out, k, value):
        g = self.global_view(out, dtype=int32, shape=[16])
        self.store_global(g, self.register_tensor(dtype=int32, shape=[1], init=value), offsets=[k])

    def keep(self, out, k, tile):
        """The tile's first element."""
        g = self.global_view(out, dtype=int32, shape=[16])
        first = self.register_tensor(dtype=int32, shape=[1], init=0)
        first = self.sum(tile, dim=0, keepdim=True).to(int32) // tile.shape[0]
        self.store_global(g, first, offsets=[k])

    def tile(self, value):
        return self.register_tensor(dtype=int32, shape=[32], init=value)


def run(kernel: Kernel, *arguments: Any) -> list[int]:
    """The numbers that `kernel(self, out, ...)` recorded; -1 where it recorded none."""
    out = torch.full((16,), -1, dtype=torch.int32)
    cls = type(kernel.__name__, (Recorder,), {"__call__": kernel})
    cls()(out, *arguments)
    values = out.tolist()
    while values and values[-1] == -1:
        values.pop()
    return values


# ---- scalars ------------------------------------------------------------------------------------


def test_a_scalar_expression_is_a_variable():
    def kernel(self, out: ~int32, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        x = n + 1
        y = x  # a variable of its own
        x = x * 10
        x += 3
        self.record(out, 0, x)
        self.record(out, 1, y)

    assert [83, 8] == run(kernel, 7)


def test_a_declared_variable_has_its_dtype_and_changes_in_loops():
    def kernel(self, out: ~int32, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        total: int32 = 0
        wide: int64 = 2**40
        for i in range(n):
            total += i
            wide += 1
        self.static_assert(wide.dtype == int64)
        self.record(out, 0, total)
        self.record(out, 1, (wide - 2**40).to(int32))

    assert [45, 10] == run(kernel, 10)


def test_a_number_is_a_host_constant():
    def kernel(self, out: ~int32, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        block = 4
        block = block * 4  # still known at compile time
        self.static_assert(block == 16)
        x = self.register_tensor(dtype=int32, shape=[block], init=n)
        self.keep(out, 0, x)
        self.record(out, 1, SCALE * block)

    assert [7, 80] == run(kernel, 7)


def test_assigning_converts_to_the_dtype_of_the_variable():
    def kernel(self, out: ~int32, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        small: int8 = 0
        small = n  # wraps, as a cast does
        half = n / 2
        half = 3  # a number becomes a float32
        self.static_assert(half.dtype == float32)
        self.record(out, 0, small)
        self.record(out, 1, (half / 2 * 10).to(int32))

    assert [300 - 256, 15] == run(kernel, 300)


def test_names_swap():
    def kernel(self, out: ~int32, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        a, b = n, n + 1
        a, b = b, a
        x, y = self.tile(3), self.tile(4)
        x, y = y, x
        one, two = 1, 2
        one, two = two, one
        self.record(out, 0, a)
        self.record(out, 1, b)
        self.keep(out, 2, x)
        self.keep(out, 3, y)
        self.record(out, 4, 10 * one + two)

    assert [8, 7, 4, 3, 21] == run(kernel, 7)


# ---- tiles --------------------------------------------------------------------------------------


def test_a_tile_assigned_again_is_carried_through_loops():
    def kernel(self, out: ~int32, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        x = self.tile(1)
        for _ in range(n):
            x = x + x
        if n > 3:
            x -= 1
        self.keep(out, 0, x)

    assert [2**5 - 1] == run(kernel, 5)
    assert [2**3] == run(kernel, 3)


def test_another_name_for_a_tile_is_a_copy():
    def kernel(self, out: ~int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        x = self.tile(1)
        y = x
        z = w = self.tile(10)
        y += 1
        w += 1
        self.keep(out, 0, x)
        self.keep(out, 1, y)
        self.keep(out, 2, z)
        self.keep(out, 3, w)

    assert [1, 2, 10, 11] == run(kernel)


def test_an_element_of_a_host_list_is_copied_to_a_name():
    def kernel(self, out: ~int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        tiles = [self.tile(k) for k in (1, 2)]
        first = tiles[0]
        first += 10
        tiles[1] += 20
        for k, tile in enumerate([*tiles, first]):
            self.keep(out, k, tile)

    assert [1, 22, 11] == run(kernel)


def test_tensors_take_the_names_they_are_bound_to():
    def kernel(self, out: ~int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        weights = self.tile(1)
        self.keep(out, 0, weights)

    program = script_of(kernel).source_program(torch.zeros(16, dtype=torch.int32))
    assert "weights" in str(program)


def script_of(kernel: Kernel) -> tilus.Script:
    return type(kernel.__name__, (Recorder,), {"__call__": kernel})()


# ---- methods ------------------------------------------------------------------------------------


class Methods(Recorder):
    def changed(self, x, n):
        x += 1
        n += 1
        return x, n

    def same(self, x):
        return x

    def scaled(self, f, scale=3):
        return self.register_tensor(dtype=int32, shape=[32], init=f)

    @staticmethod
    def twice(n):
        return 2 * n

    def __call__(self, out: ~int32, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        x = self.tile(5)
        y, m = self.changed(x, n)
        z = self.same(x)
        z += 100  # a method that returns its argument gives no second name to it
        scale = 2
        w = self.scaled(lambda i: n * scale)  # the scale of this line, not of the method
        for k, tile in enumerate([x, y, z, w]):
            self.keep(out, k, tile)
        for k, value in enumerate([n, m, self.twice(n=n)]):
            self.record(out, 4 + k, value)


def test_methods_do_not_change_what_they_are_given():
    out = torch.full((16,), -1, dtype=torch.int32)
    Methods()(out, 7)
    assert [5, 6, 105, 14, 7, 8, 14] == out.tolist()[:7]


# ---- constants and comprehensions ---------------------------------------------------------------


def test_comprehensions_run_over_host_values():
    def kernel(self, out: ~int32, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        values = [n * k for k in range(6) if k % 2 == 0]
        pairs = {k: 2 * v for k, v in zip("ab", (1, 2), strict=True)}
        nested = [10 * i + j for i in range(2) for j in range(2)]
        for k, value in enumerate([*values, pairs["b"], *nested]):
            self.record(out, k, value)

    assert [0, 14, 28, 4, 0, 1, 10, 11] == run(kernel, 7)


def test_constants_decide_branches_at_compile_time():
    def kernel(self, out: ~int32, fast: bool, mode: str):
        self.attrs.blocks, self.attrs.warps = 1, 1
        if fast and mode == "a":
            x = 1
        elif fast:
            x = 2
        else:
            self.static_assert(not fast, "never here")
            x = 3
        self.record(out, 0, x if mode != "c" else self.static_assert(False))

    assert [1] == run(kernel, True, "a")
    assert [2] == run(kernel, True, "b")
    assert [3] == run(kernel, False, "a")
    program = script_of(kernel).source_program(torch.zeros(16, dtype=torch.int32), True, "a")
    assert not [s for s in walk(program.body) if isinstance(s, If)]


def test_static_assert_says_its_message():
    def kernel(self, n: int):
        self.attrs.blocks, self.attrs.warps = 1, 1
        self.static_assert(n % 16 == 0, f"n is {n}, no multiple of 16")

    script(kernel)(32)
    error = failure(kernel, (17,))
    assert "static assertion failed: n is 17, no multiple of 16" == error.message
    assert error.location is not None
    assert "self.static_assert(n % 16" in error.location.source_line()


def test_conditions_on_run_time_values():
    def kernel(self, out: ~int32, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        kind: int32 = 0
        if 3 < n <= 5:
            kind = 1
        elif n == 7 or not n > 0:
            kind = 2
        self.record(out, 0, kind)
        self.record(out, 1, 10 if n > 3 and n != 7 else 20)

    assert [1, 10] == run(kernel, 5)
    assert [2, 20] == run(kernel, 7)
    assert [2, 20] == run(kernel, -1)
    assert [0, 20] == run(kernel, 3)


# ---- loops --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bounds", [(0, 10, 1), (3, 10, 3), (10, 0, -1), (10, -1, -4), (5, 5, 1), (5, 0, 1), (0, 5, -1)]
)
@pytest.mark.parametrize("constant_step", [True, False])
def test_ranges_are_those_of_python(bounds: tuple[int, int, int], constant_step: bool):
    def constant(self, out: ~int32, start: int32, stop: int32, step: int):
        self.attrs.blocks, self.attrs.warps = 1, 1
        k: int32 = 0
        for i in range(start, stop, step):
            self.record(out, k, i)
            k += 1

    def run_time(self, out: ~int32, start: int32, stop: int32, step: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        k: int32 = 0
        for i in self.range(start, stop, step):
            self.record(out, k, i)
            k += 1

    assert list(range(*bounds)) == run(constant if constant_step else run_time, *bounds)


def test_break_and_continue_leave_the_innermost_loop():
    def kernel(self, out: ~int32, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        k: int32 = 0
        for i in range(n):
            if i == 1:
                continue
            for j in range(n):
                if j > i:
                    break
                self.record(out, k, 10 * i + j)
                k += 1
            if i == 3:
                break

    assert [0, 20, 21, 22, 30, 31, 32, 33] == run(kernel, 9)


def test_break_and_continue_in_host_loops():
    def kernel(self, out: ~int32, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        k: int32 = 0
        for a in (0, 1, 2, 3):
            if a == 1:
                continue  # known at compile time
            if a == 3:
                break
            for i in range(n):
                if i == 2:
                    break  # of the run-time loop
                self.record(out, k, 10 * a + i)
                k += 1

    assert [0, 1, 20, 21] == run(kernel, 9)


def test_while_loops_with_break_and_continue():
    def kernel(self, out: ~int32, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        k: int32 = 0
        i: int32 = 0
        while i < n:
            i += 1
            if i % 2 == 0:
                continue
            self.record(out, k, i)
            k += 1
        while True:
            if k > 7:
                break
            self.record(out, k, -k)
            k += 1

    assert [1, 3, 5, 7, 9, -5, -6, -7] == run(kernel, 10)


def test_the_condition_of_a_while_loop_is_computed_in_every_iteration():
    def kernel(self, out: ~int32, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        x = self.register_tensor(dtype=int32, shape=[32], init=lambda i: i + n)
        steps: int32 = 0
        while self.any(x > 0).item():
            x = x - 10
            steps += 1
        self.record(out, 0, steps)

    assert [4] == run(kernel, 1)  # from 32 down to -8


def test_return_ends_the_block():
    def kernel(self, out: ~int32, n: int32):
        self.attrs.blocks, self.attrs.warps = [n], 1
        if self.blockIdx.x % 2 == 1:
            return
        self.record(out, self.blockIdx.x, self.blockIdx.x)

    assert [0, -1, 2, -1, 4] == run(kernel, 5)


@pytest.mark.parametrize("unroll", [None, "all", 2])
def test_unrolling_is_kept_and_changes_nothing(unroll: Any):
    def kernel(self, out: ~int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        for i in self.range(4, unroll=unroll):
            self.record(out, i, i)

    assert [0, 1, 2, 3] == run(kernel)
    program = script_of(kernel).source_program(torch.zeros(16, dtype=torch.int32))
    (loop,) = [s for s in walk(program.body) if isinstance(s, For)]
    assert {None: None, "all": 0, 2: 2}[unroll] == loop.unroll


# ---- functions of scalars -----------------------------------------------------------------------


def test_python_functions_take_scalars():
    def kernel(self, out: ~int32, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        quotient, rest = self.fast_divmod(n, 4)
        numbers = [
            min(n, 5, 9),
            max([n, 5]),
            abs(-n),
            quotient,
            rest,
            n // -4,
            -n % 4,
            int(math.sqrt(n * n + 0.5)),
            int(math.floor(n / 2)),  # noqa: RUF046 (a float32 in kernels)
            tilus.utils.cdiv(n, 4),
            n**2,
            n << 1 | 1,
        ]
        for k, number in enumerate(numbers):
            self.record(out, k, number)

    expected = [5, 7, 7, 1, 3, -2, 1, 7, 3, 2, 49, 15]
    assert expected == run(kernel, 7)


def test_python_runs_host_values():
    def kernel(self, out: ~int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        sizes = sorted({3, 1, 2}, reverse=True)
        text = f"{sizes[0]:02d}"
        self.static_assert(text == "03" and len(sizes) == 3 and math.prod(sizes) == 6)
        self.static_assert(3 in sizes and 4 not in sizes and None is None)
        self.record(out, 0, sum(sizes))

    assert [6] == run(kernel)


# ---- parameters ---------------------------------------------------------------------------------


class Parameters(tilus.Script):
    def __call__(self, out: ~float32, n: int32, /, f: float16, flag: boolean = True, *, k: int = 2):
        self.attrs.blocks, self.attrs.warps = 1, 1
        g = self.global_view(out, dtype=float32, shape=[4])
        x = self.register_tensor(dtype=float32, shape=[4], init=lambda i: i * k + f)
        if flag:
            x += n
        self.store_global(g, x, offsets=[0])


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((7, 0.5), {}, [7.5, 9.5, 11.5, 13.5]),
        ((7,), {"f": 0.5, "flag": False}, [0.5, 2.5, 4.5, 6.5]),
        ((7, 0.1, True), {"k": 1}, [7.1, 8.1, 9.1, 10.1]),
        ((np.int64(7), np.float32(2.0)), {"k": np.int8(0)}, [9.0] * 4),
    ],
)
def test_arguments_by_position_by_name_and_by_default(
    args: tuple[Any, ...], kwargs: dict[str, Any], expected: list[float]
):
    out = torch.zeros(4)
    Parameters()(out, *args, **kwargs)
    torch.testing.assert_close(out, torch.tensor(expected), rtol=1e-3, atol=0)


def test_a_void_pointer_takes_any_tensor_and_addresses():
    def kernel(self, p: void_p, q: void_p):
        self.attrs.blocks, self.attrs.warps = 1, 1
        source = self.global_view(p, dtype=int32, shape=[4])
        target = self.global_view(q + 4, dtype=int32, shape=[3])
        x = self.load_global(source, offsets=[0], shape=[4])
        self.store_global(target, x, offsets=[0])

    p, q = torch.arange(4, dtype=torch.int32), torch.zeros(16, dtype=torch.uint8)
    script(kernel)(p, q)
    assert [0, 0, 1, 2] == q.view(torch.int32).tolist()


def test_programs_are_specialised_on_divisibility_by_16_and_on_constants():
    parameters = Parameters()
    out = torch.zeros(64)

    def compiled(n: int, out: torch.Tensor = out, **kwargs: Any) -> Any:
        return parameters.compile(out, n, 0.5, **kwargs)

    assert compiled(16) is compiled(32) is compiled(0) is compiled(-16)
    assert compiled(17) is compiled(1)
    assert compiled(16) is not compiled(17)
    assert compiled(16) is not compiled(16, k=3)
    assert compiled(16) is not compiled(16, out[1:])  # 4 bytes behind a multiple of 16
    divisors = {p.var.name: p.divisible_by for p in compiled(16).params}
    assert {"out": 16, "n": 16, "f": 1, "flag": 1} == divisors
    assert 1 == compiled(17).params[1].divisible_by


def test_compiling_runs_nothing():
    out = torch.zeros(4)
    Parameters().compile(out, 7, 0.5)
    assert [0.0] * 4 == out.tolist()


class Sized(tilus.Script):
    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def __call__(self, out: ~int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        g = self.global_view(out, dtype=int32, shape=[1])
        self.store_global(
            g, self.register_tensor(dtype=int32, shape=[1], init=self.size), offsets=[0]
        )


def test_a_changed_attribute_compiles_anew():
    out = torch.zeros(1, dtype=torch.int32)
    sized = Sized(3)
    sized(out)
    assert 3 == out.item()
    sized.size = 4
    sized(out)
    assert 4 == out.item()


# ---- the grid -----------------------------------------------------------------------------------


def test_the_grid_may_be_computed_from_parameters_in_steps():
    def kernel(self, out: ~int32, m: int32, n: int32):
        tiles = tilus.utils.cdiv(m, 16)
        total = tiles * n
        self.attrs.blocks = [total, 1, n]
        self.attrs.warps = 1
        if self.blockIdx.x == total - 1 and self.blockIdx.z == 1:
            self.record(out, 0, self.gridDim.x)
            self.record(out, 1, self.gridDim.y)
            self.record(out, 2, self.gridDim.z)

    assert [6, 1, 2] == run(kernel, 33, 2)


@pytest.mark.parametrize("blocks", [3, [3], [3, 1], (3, 1, 1)])
def test_a_grid_has_one_to_three_extents(blocks: Any):
    def kernel(self, out: ~int32):
        self.attrs.blocks = blocks
        self.attrs.warps = 1
        self.record(out, self.blockIdx.x, self.blockIdx.x)

    assert [0, 1, 2] == run(kernel)


# ---- autotuning ---------------------------------------------------------------------------------


@tilus.autotune("a, b", [(1, 2), (3, 4)])
@tilus.autotune("c", [5, 6])
class Tuned(tilus.Script):
    def __init__(self, a: int, b: int, c: int, d: int = 7):
        super().__init__()
        self.total = a + b + c + d


class Pinned(Tuned):
    debug_schedule = {"a": 3, "b": 4, "c": 6}  # noqa: RUF012


def test_the_space_of_autotuning_is_the_product_of_its_axes():
    points = [tuple(point[key] for key in "abc") for point in Tuned().schedules]
    assert {(1, 2, 5), (1, 2, 6), (3, 4, 5), (3, 4, 6)} == set(points)
    assert 4 == len(points)


def test_a_pinned_schedule_is_the_only_one():
    assert ({"a": 3, "b": 4, "c": 6},) == Pinned().schedules


class Clip(tilus.Script):
    def __call__(self, x_ptr: ~float32, y_ptr: ~float32):
        self.attrs.blocks = 1
        self.attrs.warps = 1
        x = self.load_global(
            self.global_view(x_ptr, dtype=float32, shape=[4]), offsets=[0], shape=[4]
        )
        y = self.global_view(y_ptr, dtype=float32, shape=[4])
        self.store_global(y, self.clip(x, -1, 1.5), offsets=[0])


@pytest.mark.parametrize("engine", ["interpreter", "emulator"])
def test_clip_keeps_values_within_bounds(engine):
    x, y = torch.tensor([-3.0, 0.25, 7.0, float("nan")]), torch.zeros(4)
    with tilus.option.context(engine=engine):
        Clip()(x, y)
    torch.testing.assert_close(y, x.clip(-1, 1.5), equal_nan=True)
