"""The matmul with low-precision weights for many tokens: bound by the tensor cores.

    y^T [n, m] = W [n, k] x^T [k, m]

Each warp multiplies blobs of 64 of n with 32 or 64 tokens. Warps share n, the tokens and, where
there are too few of both, k; blobs and tokens pass through a ring of stages in shared memory.

The surprise: unlike the kernel for few tokens, this one subtracts bases and the zero point from
the weights. That takes half an instruction a weight, of which there are plenty here. To have the
tensor core correct the sums instead, with constant fragments beside the four of weights, would
take a fifth of what this kernel is bound by.
"""
# A kernel's annotations are the language (`~uint8` is a pointer), not Python types.
# pyright: reportInvalidTypeForm=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportOperatorIssue=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from tilus.dtypes import float16, float32, int32, uint8, uint32, void_p
from tilus.errors import TilusError
from tilus.ir.expr import Expr, apply
from tilus.ir.layout import (
    RegisterLayout,
    SharedLayout,
    Swizzle,
    find_atomic_mma,
    mma_dot_config,
    register_layout,
    shared_layout,
    shared_row_major,
    spatial,
)
from tilus.lang.script import Script
from tilus.ops.blobs import LANES, PART, ROW_TILES, TOKENS, VECTOR, WIDEST_SCALE, BlobFormat
from tilus.ops.small_m import Epilogue
from tilus.utils import cdiv

WARPS = 8
STAGES = 4  # at most: three are on their way while one is multiplied
SHARED_BYTES = 163 * 1024  # of a block (CUDA guide, "Compute Capabilities": 8.0)
MOST_TOKENS = 64  # of a warp
UNPACKING = 16  # tokens that take as long to multiply as their weights to unpack, about


@dataclass(frozen=True)
class Schedule:
    """How a block is cut.

    Attributes:
        rows: warps along n.
        depth: warps along k, which share the chunks of a step and add up in the end.
        columns: warps along the tokens.
        tokens: of a warp, a multiple of 8.
        stages: of the ring in shared memory, at least 2.
        tiles: of 16 of n, that a warp multiplies: 4, a blob, or 2, half a blob. With 2 there are
            registers for twice the tokens, so that each weight is unpacked half as often.
        scale_weights: scales multiply weights, rounded to the activations' type, in place of the
            sums of a group. That needs half the accumulators, but is less accurate.
    """

    rows: int
    depth: int
    columns: int
    tokens: int
    stages: int
    tiles: int = 2
    scale_weights: bool = False

    def __post_init__(self) -> None:
        for name in ("rows", "depth", "columns"):
            count = getattr(self, name)
            if count < 1 or count & (count - 1):
                raise TilusError(
                    "the warps of a block are shared out by powers of two",
                    found=f"{name} = {count}",
                )
        if self.tiles not in (2, ROW_TILES) or self.rows * self.tiles < ROW_TILES:
            raise TilusError(
                "a block multiplies whole blobs",
                found=f"{self.rows} warps of {self.tiles} x 16 rows",
                expected="tiles = 4, or tiles = 2 and at least 2 rows of warps",
            )
        sets = 1 if self.scale_weights else 2
        most = 256 // (sets * self.tiles)
        if self.tokens % TOKENS or not TOKENS <= self.tokens <= most or self.stages < 2:
            raise TilusError(
                "the schedule does not fit registers and ring",
                found=f"{self.tokens} tokens a warp, {self.stages} stages",
                expected=f"8, 16, .. {most} tokens, and at least 2 stages",
            )

    @property
    def warps(self) -> int:
        return self.rows * self.depth * self.columns

    @property
    def blobs(self) -> int:
        """Of a block, along n."""
        return self.rows * self.tiles // ROW_TILES

    @property
    def halves(self) -> int:
        """Warps that share a blob."""
        return ROW_TILES // self.tiles

    @property
    def block_m(self) -> int:
        """Tokens of a block."""
        return self.columns * self.tokens

    def stage_bytes(self, blobs: BlobFormat) -> int:
        """Of the weights and the tokens of a step."""
        row = self.depth * blobs.chunk + blobs.span  # a span is left out between rows
        x_bytes = self.block_m * row * blobs.activation.nbits // 8
        return self.blobs * self.depth * blobs.blob_bytes + x_bytes

    @property
    def exchange_bytes(self) -> int:
        """Through which warps that share k add up 8 tokens at a time, beside the ring."""
        return self.warps * 16 * self.tiles * TOKENS * 4 if self.depth > 1 else 0

    def steps(self, blobs: BlobFormat) -> int:
        """Turns that a block takes over k."""
        return cdiv(blobs.chunks, self.depth)

    @staticmethod
    def of(
        blobs: BlobFormat,
        m: int,
        *,
        scale_weights: bool = False,
        multiprocessors: int = 132,
        shared_bytes: int = SHARED_BYTES,
    ) -> "Schedule":
        """The schedule for `m` tokens whose waves of blocks take the fewest products in a row.

        Raises: TilusError where no two stages fit in `shared_bytes`.
        """
        found = _schedules(blobs, m, 4 if scale_weights else 2, scale_weights, shared_bytes)
        if not found:
            raise TilusError(
                "no two stages of weights and tokens fit in shared memory",
                found=f"{shared_bytes} bytes",
                hint="the kernel for few tokens needs less",
            )

        def cost(schedule: Schedule) -> tuple[int, int]:
            # To add up takes about as long as half a step for each warp that has a share.
            steps = schedule.steps(blobs) + schedule.depth // 2
            blocks = cdiv(m, schedule.block_m) * cdiv(blobs.n_tiles, schedule.blobs)
            waves = cdiv(blocks, multiprocessors)
            return waves * steps * (schedule.tokens + UNPACKING), schedule.stage_bytes(blobs)

        return min(found, key=cost)


def _schedules(
    blobs: BlobFormat, m: int, tiles: int, scale_weights: bool, shared_bytes: int
) -> list[Schedule]:
    """Those of 8 warps that fit in shared memory."""
    found: list[Schedule] = []
    powers = [1 << bit for bit in range(WARPS.bit_length())]
    for rows, depth in product(powers, powers):
        columns = WARPS // rows // depth
        if columns == 0 or rows * tiles < ROW_TILES:
            continue
        for most in (MOST_TOKENS, MOST_TOKENS // 2, MOST_TOKENS // 4):
            blocks = cdiv(m, columns * most)
            tokens = cdiv(cdiv(m, blocks * columns), 2 * TOKENS) * 2 * TOKENS
            ring = Schedule(rows, depth, columns, tokens, STAGES, tiles, scale_weights)
            room = shared_bytes - ring.exchange_bytes
            stages = min(STAGES, room // ring.stage_bytes(blobs), ring.steps(blobs) + 1)
            if stages >= 2:
                found.append(replace(ring, stages=stages))
                break
    return found


@dataclass(frozen=True)
class Span:
    """A stretch of k in a chunk whose order is the kernel's own, of `BlobFormat.span`."""

    start: int
    group: int
    starts: bool  # whether it is the first of its group in the chunk
    ends: bool


def _spans(blobs: BlobFormat) -> list[Span]:
    size = blobs.group_in_chunk
    return [
        Span(k, k // size, k % size == 0, (k + blobs.span) % size == 0)
        for k in range(0, blobs.chunk, blobs.span)
    ]


class LargeMatmul(Script):
    """y [m, n] = x [m, padded_k] W^T + bias, for blobs of `blobs`."""

    def __init__(
        self, blobs: BlobFormat, schedule: Schedule, epilogue: Epilogue, zero: float = 0.0
    ):
        super().__init__()
        self.blobs, self.schedule, self.epilogue = blobs, schedule, epilogue
        self.steps = schedule.steps(blobs)
        self.columns = list(range(schedule.tokens // TOKENS))
        self.ring = list(range(schedule.stages))
        self.parts = [
            (part, [span for span in _spans(blobs) if span.start // PART == part])
            for part in range(blobs.chunk // PART)
        ]
        self.cuts = [(0, blobs.weight_bytes), (blobs.weight_bytes, blobs.blob_bytes)]
        self.ragged = (
            blobs.n_tiles % schedule.blobs + blobs.chunks % schedule.depth > 0
            or schedule.stages > self.steps + 1
        )
        self.subtracts_zeros = blobs.has_zeros and (schedule.scale_weights or _half(blobs))
        self.sums_x = blobs.has_zeros and not self.subtracts_zeros
        self.offsets = self._offsets(0.0 if blobs.has_zeros else zero)
        self.x_factor, self.scale_factor = self._factors()
        self.factor = 1.0 / (blobs.plan.scale * self.x_factor * self.scale_factor)
        self._shared_layouts()
        self._register_layouts()

    def _factors(self) -> tuple[float, float]:
        """Of x and of the scales: weights of bfloat16 that are floats come out tiny."""
        if self.schedule.scale_weights:
            return 1.0, min(1.0 / self.blobs.plan.scale, WIDEST_SCALE)
        return self.blobs.x_factor, 1.0

    def _offsets(self, zero: float) -> list[float]:
        """What is subtracted from the elements of each register of a thread, in turn."""
        plan, dtype = self.blobs.plan, self.blobs.activation
        lanes = [b for b in plan.base for _ in range(plan.elements // len(plan.base))]
        offsets = [b + plan.scale * zero for b in lanes]
        if not np.array_equal(dtype.encode(np.array(offsets)).astype(np.float64), offsets):
            raise TilusError(
                f"the zero point is not exact in {dtype} beside the bases of the weights",
                found=f"zero = {zero:g}",
                expected="an integer",
                hint="give it as a zero point of every group: has_zeros=True",
            )
        return offsets if any(offsets) else []

    # ---- layouts ---------------------------------------------------------------------------------

    def _shared_layouts(self) -> None:
        """Rows that threads touch at a time fall into different banks: apart, or swizzled."""
        s, blobs = self.schedule, self.blobs
        # Quarters of a warp load the span of two tokens at a time, or of four: together 128 bytes.
        row = s.depth * blobs.chunk + blobs.span
        shape = (s.stages, s.block_m, s.depth * blobs.chunk)
        self.s_x_layout = shared_layout(shape, shape, (s.block_m * row, row, 1))
        y_shape = (2, s.columns * TOKENS, s.blobs * blobs.block_n)
        # Together threads store pieces of 8 numbers of 8 tokens, or, if they are wide, of every
        # second token.
        wide = self.epilogue.out_dtype == float32
        self.s_y_layout = _swizzled(y_shape, 3, *((2, 1) if wide else (3, 0)))

    def _register_layouts(self) -> None:
        s, blobs = self.schedule, self.blobs
        atom = find_atomic_mma(blobs.activation, blobs.activation, float32)
        config = mma_dot_config(atom, (1, 1), (s.tiles, 1, PART // atom.k))
        alone, size = spatial(s.warps, 1, 1), config.la.local_size
        self.codes_layout = alone * config.la.unsqueeze(0)
        self.flat_layout = spatial(s.warps * LANES, 1).local(1, size)
        self.bits = blobs.plan.layout.repeat(size // blobs.plan.elements)
        deep = mma_dot_config(atom, (1, 1), (s.tiles, 1, blobs.span // atom.k))
        self.fragment_layout = alone * deep.lb.unsqueeze(0)
        self.x_layout = self._x_layout()
        self.scale_layout = (alone * config.lc.unsqueeze(0)).reduce(2, keepdims=True)
        self._blob_layouts()

    def _blob_layouts(self) -> None:
        """How threads load codes, and scales, of their warps' blobs or halves of blobs."""
        s, blobs = self.schedule, self.blobs
        vectors = blobs.part_bytes // (LANES * VECTOR)
        # Halves of an odd number of vectors: both warps load all of them.
        self.split = s.halves if vectors % s.halves == 0 else 1
        codes = [s.blobs, s.depth, self.split, vectors // self.split, LANES, VECTOR]
        whole = self.split < s.halves
        threads = [0, -s.halves if whole else 2, 1, -s.columns, 4]
        registers = [2, 3, 5] if whole else [3, 5]
        self.bytes_layout = register_layout(codes, codes, threads, registers)
        size = blobs.group_bytes // TOKENS // s.halves
        scales = [s.blobs, s.depth, TOKENS, s.halves, size]
        self.scale_bytes_layout = register_layout(scales, scales, [0, 3, 1, -s.columns, 2, -4], [4])

    def _x_layout(self) -> RegisterLayout:
        """Of 8 tokens of each warp, [columns, 8, depth, span]."""
        s, share = self.schedule, self.blobs.span // 4
        modes = [s.columns, TOKENS, s.depth, 4, share]
        shape = [s.columns, TOKENS, s.depth, 4 * share]
        return register_layout(shape, modes, [-s.rows, 2, 0, 1, 3], [4])

    # ---- the program -----------------------------------------------------------------------------

    def __call__(self, m: int32, x_ptr: void_p, blobs_ptr: ~uint8, bias_ptr: void_p, y_ptr: void_p):
        blobs, s, stages = self.blobs, self.schedule, self.schedule.stages
        self.attrs.blocks = [cdiv(m, s.block_m), cdiv(blobs.n_tiles, s.blobs)]
        self.attrs.warps = s.warps
        g_x = self.global_view(x_ptr, dtype=blobs.activation, shape=[m, blobs.padded_k])
        g_w = self.global_view(
            blobs_ptr, dtype=uint8, shape=[blobs.n_tiles, blobs.chunks, blobs.blob_bytes]
        )
        s_x = self.shared_tensor(
            dtype=blobs.activation, shape=[stages, s.block_m, s.depth * blobs.chunk]
        )
        self.annotate_layout(s_x, self.s_x_layout)
        s_w = self.shared_tensor(dtype=uint8, shape=[stages, s.blobs, s.depth * blobs.blob_bytes])
        self.annotate_layout(s_w, shared_row_major(stages, s.blobs, s.depth * blobs.blob_bytes))
        row = self.blockIdx.x * s.block_m
        nt = self.blockIdx.y * s.blobs
        for stage in self.ring[:-1]:
            self.fetch(g_x, g_w, s_x, s_w, row, nt, stage, stage)
            self.copy_async_commit_group()
        ones = self.register_tensor(dtype=blobs.activation, shape=[s.warps, 16, 16], init=1.0)
        acc = [self.accumulator() for _ in self.columns]
        for step in self.range(self.steps):
            self.step(g_x, g_w, s_x, s_w, ones, acc, row, nt, step, step % stages)
        self.copy_async_wait_all()
        self.sync()
        self.free_shared(s_x)
        self.free_shared(s_w)
        self.finish(m, bias_ptr, y_ptr, acc, row, nt)

    def accumulator(self):
        shape = [self.schedule.warps, 16 * self.schedule.tiles, TOKENS]
        return self.register_tensor(dtype=float32, shape=shape, init=0.0)

    def fetch(self, g_x, g_w, s_x, s_w, row, nt, step, stage):
        """Start copying the tokens and blobs of a step; what is out of bounds reads as 0."""
        chunks = step * self.schedule.depth
        self.copy_async(g_x, s_x[stage], offsets=[row, chunks * self.blobs.chunk])
        blobs, s = self.blobs, self.schedule
        mine = self.reshape_shared(s_w[stage], [s.blobs, s.depth, blobs.blob_bytes])
        # Codes and scales apart: so the threads share vectors evenly.
        for begin, end in self.cuts:
            self.copy_async(
                g_w,
                mine[:, :, begin:end],
                offsets=[nt, chunks, begin],
                check_bounds=self.ragged,
            )

    def step(self, g_x, g_w, s_x, s_w, ones, acc, row, nt, step, stage):
        """Multiply the blobs of one step, while those of the next ones are on their way."""
        blobs, s, stages = self.blobs, self.schedule, self.schedule.stages
        self.copy_async_wait_group(stages - 2)
        self.sync()
        if step + stages - 1 < self.steps:
            self.fetch(
                g_x, g_w, s_x, s_w, row, nt, step + stages - 1, (stage + stages - 1) % stages
            )
        self.copy_async_commit_group()
        mine = self.reshape_shared(s_w[stage], [s.blobs, s.depth, blobs.blob_bytes])
        tokens = self.reshape_shared(
            s_x[stage], [len(self.columns), s.columns, TOKENS, s.depth, blobs.chunk]
        )
        words = self.words(mine, 0)
        sums = [(None, None)] * len(self.columns)
        for part, spans in self.parts:
            w = self.weights(words)
            if part + 1 < len(self.parts):
                words = self.words(mine, part + 1)  # on their way while this part is multiplied
            for span in spans:
                factors = self.factors(mine, span)
                a = self.left(w, span, factors)
                sums = [
                    self.multiply(tokens, ones, acc[c], sums[c], a, factors, c, span)
                    for c in self.columns
                ]

    def multiply(self, tokens, ones, acc, before, a, factors, c, span):
        """Multiply a span with 8 tokens of each warp; the sums of a group that goes on."""
        b = self.fragment(tokens, c, span)
        if self.schedule.scale_weights:
            self.dot(a, b, acc, out=acc)
            return None, None
        sums, x_sums = (None, None) if span.starts else before
        sums = self.dot(a, b, sums)
        if self.sums_x:
            x_sums = self.total(ones, b, x_sums)
        if span.ends:
            self.accumulate(acc, sums, x_sums, factors)
        return sums, x_sums

    def fragment(self, tokens, c, span):
        """x^T of 8 tokens of each warp, [warps, k of a span, 8]."""
        x = self.load_shared(tokens[c, :, :, :, span.start : span.start + self.blobs.span])
        self.annotate_layout(x, self.x_layout)
        if self.x_factor == 1.0:
            return x.view(layout=self.fragment_layout)
        return (x * self.x_factor).view(layout=self.fragment_layout)

    def words(self, mine, part):
        """The words of the codes of a part that each thread has, [threads, words]."""
        blobs, s = self.blobs, self.schedule
        begin = part * blobs.part_bytes
        loaded = self.load_shared(
            self.reshape_shared(
                mine[:, :, begin : begin + blobs.part_bytes], self.bytes_layout.shape
            )
        )
        self.annotate_layout(loaded, self.bytes_layout)
        count = self.bytes_layout.local_size // 4
        words = loaded.view(dtype=uint32, layout=spatial(s.warps * LANES, 1).local(1, count))
        if self.split == s.halves:
            return words
        second = self.register_tensor(
            dtype=int32,
            shape=[s.warps * LANES, 1],
            init=lambda thread, _: thread // (LANES * s.depth * s.columns) % s.halves,
        )
        return self.where(second == 1, words[:, count // 2 :], words[:, : count // 2])

    def weights(self, words):
        """The values of a part less the common zero point, exact: [warps, rows, PART]."""
        blobs = self.blobs
        codes = words.view(dtype=blobs.dtype, layout=self.codes_layout, bits=self.bits)
        w = self.unpack(codes, dtype=blobs.activation)
        if not self.offsets:
            return w
        flat = w.view(layout=self.flat_layout)
        exact = flat - self.offset_tile()
        return exact.view(layout=self.codes_layout)

    def offset_tile(self):
        """What is subtracted from each element of a thread, which its register tells."""
        offset = self.register_tensor(
            dtype=self.blobs.activation,
            shape=self.flat_layout.shape,
            init=lambda thread, register: _cyclic(self.offsets, register),
        )
        self.annotate_layout(offset, self.flat_layout)
        return offset

    def total(self, ones, b, before):
        """The sums of x over a group, in all rows of [warps, 16, 8], by a matrix of ones."""
        found = before
        for k in list(range(0, self.blobs.span, 16)):
            found = self.dot(ones, b[:, k : k + 16, :], found)
        return found

    def numbers(self, mine, first: int, group: int):
        """The scales or zero points of a group, [warps, rows, 1] float32."""
        blobs = self.blobs
        begin = first + group * blobs.group_bytes
        loaded = self.load_shared(
            self.reshape_shared(
                mine[:, :, begin : begin + blobs.group_bytes], self.scale_bytes_layout.shape
            )
        )
        self.annotate_layout(loaded, self.scale_bytes_layout)
        found = loaded.view(dtype=blobs.scale_dtype, layout=self.scale_layout)
        return found if blobs.scale_dtype == float32 else found.to(float32)

    def factors(self, mine, span):
        """The scales and zero points that a span needs."""
        blobs = self.blobs
        if not span.ends and not self.schedule.scale_weights and not self.subtracts_zeros:
            return None, None
        scale = self.numbers(mine, blobs.weight_bytes, span.group)
        if not blobs.has_zeros:
            return scale, None
        first = blobs.weight_bytes + blobs.groups * blobs.group_bytes
        zero = self.numbers(mine, first, span.group)
        return scale, zero * blobs.plan.scale if blobs.plan.scale != 1.0 else zero

    def left(self, w, span, factors):
        """The operand of the tensor core: weights of a span less zero points, perhaps scaled."""
        scale, zero = factors
        begin = span.start % PART
        a = w[:, :, begin : begin + self.blobs.span]
        if self.subtracts_zeros:
            a = a - zero.to(self.blobs.activation)
        if not self.schedule.scale_weights:
            return a
        factor = scale * self.scale_factor if self.scale_factor != 1.0 else scale
        return a * factor.to(self.blobs.activation)

    def accumulate(self, acc, sums, x_sums, factors):
        """acc += scale * (sums - zero * sum of x), for the group that ends."""
        scale, zero = factors
        if self.sums_x:
            rows = x_sums.repeat([1, self.schedule.tiles, 1])
            self.assign(acc, acc + scale * (sums - zero * rows))
        else:
            self.assign(acc, acc + scale * sums)

    def finish(self, m, bias_ptr, y_ptr, acc, row, nt):
        """Add up the warps that share k, add the bias, and store rows of y."""
        s, rows = self.schedule, self.schedule.blobs * self.blobs.block_n
        g_y = self.global_view(y_ptr, dtype=self.epilogue.out_dtype, shape=[m, self.blobs.n])
        tokens = s.columns * TOKENS
        s_y = self.shared_tensor(dtype=self.epilogue.out_dtype, shape=[2, tokens, rows])
        self.annotate_layout(s_y, self.s_y_layout)
        for c in self.columns:
            self.store(g_y, bias_ptr, s_y[c % 2], self.total_of(acc[c]), row + c * tokens, nt)

    def store(self, g_y, bias_ptr, s_y, y, row, nt):
        """Store the sums of some tokens, turned in shared memory into rows."""
        s, blobs, first = self.schedule, self.blobs, nt * self.blobs.block_n
        if self.epilogue.bias is not None:
            g_bias = self.global_view(bias_ptr, dtype=self.epilogue.bias, shape=[blobs.n])
            bias = self.load_global(g_bias, offsets=[first], shape=[s.blobs * blobs.block_n])
            y = y + bias.to(float32).reshape([s.rows, 1, 16 * s.tiles, 1])
        place = self.reshape_shared(s_y, [s.columns, TOKENS, s.rows, 16 * s.tiles])
        self.store_shared(place.permute([2, 0, 3, 1]), y.to(self.epilogue.out_dtype))
        self.sync()  # columns take two buffers in turn, so that one barrier keeps them apart
        self.store_global(g_y, self.load_shared(s_y), offsets=[row, first])

    def total_of(self, acc):
        """The sums over all of k, [rows, columns, 16 * tiles, 8]."""
        s = self.schedule
        y = acc * self.factor if self.factor != 1.0 else acc
        split = y.reshape([s.rows, s.depth, s.columns, 16 * s.tiles, TOKENS])
        return self.sum(split, dim=1) if s.depth > 1 else split.squeeze(1)


def _cyclic(values: list[float], index: Expr) -> Expr | float:
    """`values[index % len(values)]` of an index that is known once the program is unrolled."""
    period = next(p for p in range(1, len(values) + 1) if values == values[:p] * (len(values) // p))
    found: Expr | float = values[0]
    for place in range(1, period):
        if values[place] != values[0]:
            found = apply("where", apply("eq", index % period, place), values[place], found)
    return found


def _half(blobs: BlobFormat) -> bool:
    """Whether weights less zero points are as good as exact: both have float16's eleven bits."""
    return blobs.activation == float16 == blobs.scale_dtype


def _swizzled(shape: tuple[int, ...], base: int, bits: int, first: int) -> SharedLayout:
    """Row-major; `bits` bits of the row, from `first`, exchange pieces of `1 << base` elements."""
    shift = shape[-1].bit_length() - 1 + first - base
    return shared_row_major(*shape).with_swizzle(Swizzle(base, bits, shift))
