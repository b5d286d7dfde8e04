"""The matmul with low-precision weights for many tokens: bound by the tensor cores.

    y^T [n, m] = W [n, k] x^T [k, m]

Each warp multiplies 16, 32 or 64 of n with up to 256 tokens, so that a weight is unpacked once for
all of them. Warps share n, the tokens and, where there are too few of both, k; blobs and tokens
pass through a ring of stages in shared memory. In the last wave blocks share the k of a tile.

Two surprises. Unlike the kernel for few tokens, this one subtracts bases and the zero point from
the weights. That takes half an instruction a weight, of which there are plenty here. To have the
tensor core correct the sums instead, with constant fragments beside the four of weights, would
take a fifth of what this kernel is bound by.
And sums are kept in units of the scale of the group in hand: where a group begins, they are
multiplied with the last scale over the next one. So the tensor core adds to them directly, and
scales stay exact in float32 without a second set of sums. It asks for scales whose quotients are
finite (`scales_are_steady`).
"""
# A kernel's annotations are the language (`~uint8` is a pointer), not Python types.
# pyright: reportInvalidTypeForm=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportOperatorIssue=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportOptionalMemberAccess=false

import math
from dataclasses import dataclass

import numpy as np
import torch

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
    shared_row_major,
    spatial,
)
from tilus.lang.script import Script
from tilus.ops.blobs import LANES, PART, TOKENS, VECTOR, WIDEST_SCALE, BlobFormat
from tilus.ops.large_schedule import Schedule
from tilus.ops.small_m import Epilogue
from tilus.utils import cdiv

CONFLICT_FREE = 6  # bits of the elements of 16 bits that shared memory serves at a time
LEAST_NORMAL = 2.0**-100  # of scales, so that their reciprocals are finite
WIDEST_QUOTIENT = 2.0**40  # of two scales of a row; float16's are no further apart


def scales_are_steady(scales: torch.Tensor) -> bool:
    """Whether sums can be kept in units of any of `scales` [groups, n]: finite, not zero or nearly
    so, and those of a row at most `WIDEST_QUOTIENT` apart.
    """
    sizes = scales.abs().double()
    least, most = sizes.amin(0), sizes.amax(0)
    return bool(
        ((least >= LEAST_NORMAL) & most.isfinite() & (most <= least * WIDEST_QUOTIENT)).all()
    )


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
        least = self.steps // schedule.split  # steps of a block
        self.ragged = (
            blobs.n_tiles % schedule.blobs + blobs.chunks % schedule.depth > 0
            or schedule.stages > least + 1
        )
        self.rescales = not schedule.scale_weights and blobs.group < blobs.k
        self.subtracts_zeros = blobs.has_zeros and (schedule.scale_weights or _half(blobs))
        self.sums_x = blobs.has_zeros and not self.subtracts_zeros
        self.weight_factor, self.scale_factor = self._factors()
        self.weight_scale = blobs.plan.scale * self.weight_factor
        self.offsets = self._offsets(0.0 if blobs.has_zeros else zero)
        self.factor = 1.0 / (self.weight_scale * self.scale_factor)
        self._shared_layouts()
        self._register_layouts()

    def _factors(self) -> tuple[float, float]:
        """Of the weights or their scales: floats unpacked to bfloat16 come out tiny."""
        if self.schedule.scale_weights:
            return 1.0, min(1.0 / self.blobs.plan.scale, WIDEST_SCALE)
        return self.blobs.x_factor, 1.0

    def _offsets(self, zero: float) -> list[float]:
        """What is subtracted from the elements of each register of a thread, in turn."""
        plan, dtype = self.blobs.plan, self.blobs.activation
        lanes = [b for b in plan.base for _ in range(plan.elements // len(plan.base))]
        offsets = [b * self.weight_factor + self.weight_scale * zero for b in lanes]
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
        x_shape = (s.stages, s.block_m, s.depth * blobs.chunk)
        piece = blobs.span.bit_length() - 1
        self.s_x_layout = _swizzled(x_shape, piece, CONFLICT_FREE - piece)
        y_shape = (2, s.columns * TOKENS, s.blobs * blobs.block_n)
        # Together threads store pieces of 8 numbers of 8 tokens, or, if they are wide, of every
        # second token.
        wide = self.epilogue.out_dtype == float32
        self.s_y_layout = _swizzled(y_shape, 3, 2 if wide else 3, int(wide))

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
        # What the warps of a blob cannot share evenly, they load together and pick from.
        self.shared_out = math.gcd(vectors, s.sharers)
        self.picked = s.sharers // self.shared_out
        codes = [s.blobs, s.depth, self.shared_out, vectors // self.shared_out, LANES, VECTOR]
        threads = [0, 2, -self.picked, 1, -s.columns, 4]
        self.bytes_layout = register_layout(codes, codes, threads, [3, 5])
        size = blobs.group_bytes // TOKENS // s.sharers
        scales = [s.blobs, s.depth, TOKENS, s.sharers, size]
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
        tiles_m = cdiv(m, s.block_m)
        whole, parts = self.waves(tiles_m * s.tiles_n(blobs))
        self.attrs.blocks = [whole + (tiles_m * s.tiles_n(blobs) - whole) * parts]
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
        tile, part, shares = self.share(whole, parts)
        row = tile % tiles_m * s.block_m
        nt = tile // tiles_m * s.blobs
        begin = self.steps * part // shares
        end = self.steps * (part + 1) // shares
        for stage in self.ring[:-1]:
            self.fetch(g_x, g_w, s_x, s_w, row, nt, begin + stage, stage)
            self.copy_async_commit_group()
        ones = self.register_tensor(dtype=blobs.activation, shape=[s.warps, 16, 16], init=1.0)
        unit = self.register_tensor(dtype=float32, shape=[s.warps, 16 * s.tiles, 1], init=1.0)
        acc = [self.accumulator() for _ in self.columns]
        slot: int32 = 0
        last: int32 = stages - 1
        for step in self.range(begin, end):
            self.copy_async_wait_group(stages - 2)
            self.sync()
            if step + stages - 1 < end:
                # That it is a step of k is no news, but known to the checks of bounds.
                following = min(step + stages - 1, self.steps - 1)
                self.fetch(g_x, g_w, s_x, s_w, row, nt, following, last)
            self.copy_async_commit_group()
            self.multiply_step(s_x[slot], s_w[slot], ones, unit, acc)
            last = slot
            slot = self.where(slot == stages - 1, 0, slot + 1)
        self.copy_async_wait_all()
        self.sync()
        self.free_shared(s_x)
        self.free_shared(s_w)
        sums = [self.total_of(acc[c], unit) for c in self.columns]
        if s.split == 1:
            self.finish(m, bias_ptr, y_ptr, sums, row, nt)
        else:
            self.add_up(m, bias_ptr, y_ptr, sums, row, nt, tile - whole, part, shares)

    def waves(self, tiles):
        """Tiles of the waves that fill all multiprocessors, and blocks for each of the others."""
        s = self.schedule
        if s.split == 1:
            return tiles, 1
        whole = tiles // s.multiprocessors * s.multiprocessors
        return whole, min(s.multiprocessors // max(tiles - whole, 1), s.split)

    def share(self, whole, parts):
        """The tile of a block, and which part of how many parts of its k."""
        if self.schedule.split == 1:
            return self.blockIdx.x, 0, 1
        beyond = max(self.blockIdx.x - whole, 0)
        shares = self.where(self.blockIdx.x < whole, 1, parts)
        return min(self.blockIdx.x, whole + beyond // parts), beyond % parts, shares

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

    def multiply_step(self, x, w, ones, unit, acc):
        """Multiply the blobs of one step, while those of the next ones are on their way."""
        blobs, s = self.blobs, self.schedule
        mine = self.reshape_shared(w, [s.blobs, s.depth, blobs.blob_bytes])
        tokens = self.reshape_shared(
            x, [len(self.columns), s.columns, TOKENS, s.depth, blobs.chunk]
        )
        state = (None, None), [None for _ in self.columns]
        for part, spans in self.parts:
            state = self.multiply_part(mine, tokens, ones, unit, acc, state, part, spans)

    def multiply_part(self, mine, tokens, ones, unit, acc, state, part, spans):
        """The factors of the group that goes on behind a part, and its sums of x."""
        factors, x_sums = state
        weights = self.weights(self.words(mine, part))
        for span in spans:
            if span.starts:
                factors = self.factors(mine, span)
                self.begin_group(acc, unit, factors[0])
            # Names are for good: a tile of a span's own would be copied to that of the first.
            x_sums = self.multiply_span(
                tokens, ones, acc, x_sums, span, self.left(weights, span, factors), factors[1]
            )
        return factors, x_sums

    def multiply_span(self, tokens, ones, acc, x_sums, span, a, zero):
        """Multiply a span with all tokens; the sums of x in a group that goes on, by columns."""
        return [
            self.multiply(tokens, ones, acc[c], x_sums[c], a, zero, c, span) for c in self.columns
        ]

    def multiply(self, tokens, ones, acc, x_sum, a, zero, c, span):
        """Multiply a span with 8 tokens of each warp; the sum of x in a group that goes on."""
        b = self.fragment(tokens, c, span)
        self.dot(a, b, acc, out=acc)
        if not self.sums_x:
            return None
        following = self.total(ones, b, None if span.starts else x_sum)
        if span.ends:
            self.assign(acc, acc - zero * following.repeat([1, self.schedule.tiles, 1]))
        return following

    def begin_group(self, acc, unit, scale):
        """From now on sums are in units of the group's scale."""
        if not self.schedule.scale_weights:
            following = self.where(scale == 0.0, unit, scale)  # of rows and chunks of padding
            if self.rescales:
                quotient = unit * self.reciprocal(following)
                for c in self.columns:
                    self.assign(acc[c], acc[c] * quotient)
            self.assign(unit, following)

    def fragment(self, tokens, c, span):
        """x^T of 8 tokens of each warp, [warps, k of a span, 8]."""
        x = self.load_shared(tokens[c, :, :, :, span.start : span.start + self.blobs.span])
        self.annotate_layout(x, self.x_layout)
        return x.view(layout=self.fragment_layout)

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
        if self.picked == 1:
            return words
        size = count // self.picked
        found = words[:, :size]
        for piece in list(range(1, self.picked)):
            place = self.register_tensor(
                dtype=int32,
                shape=[s.warps * LANES, 1],
                init=lambda thread, _: thread // (LANES * s.depth * s.columns) % self.picked,
            )
            found = self.where(place == piece, words[:, piece * size : (piece + 1) * size], found)
        return found

    def weights(self, words):
        """The values of a part less the common zero point, exact: [warps, rows, PART]."""
        blobs = self.blobs
        codes = words.view(dtype=blobs.dtype, layout=self.codes_layout, bits=self.bits)
        w = self.times(self.unpack(codes, dtype=blobs.activation), self.weight_factor)
        if not self.offsets:
            return w
        flat = w.view(layout=self.flat_layout)
        exact = flat - self.offset_tile()
        return exact.view(layout=self.codes_layout)

    def times(self, tile, factor: float):
        return tile * factor if factor != 1.0 else tile

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
        found = self.dot(ones, b[:, :16, :], before)
        for k in list(range(16, self.blobs.span, 16)):
            self.dot(ones, b[:, k : k + 16, :], found, out=found)
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
        """The scales and zero points of a group, [warps, rows, 1] float32."""
        blobs = self.blobs
        scale = self.numbers(mine, blobs.weight_bytes, span.group)
        if not blobs.has_zeros:
            return scale, None
        first = blobs.weight_bytes + blobs.groups * blobs.group_bytes
        zero = self.numbers(mine, first, span.group)
        return scale, self.times(zero, self.weight_scale)

    def left(self, weights, span, factors):
        """The operand of the tensor core: weights of a span less zero points, perhaps scaled."""
        begin = span.start % PART
        a = self.less(weights[:, :, begin : begin + self.blobs.span], factors[1])
        if not self.schedule.scale_weights:
            return a
        return a * self.times(factors[0], self.scale_factor).to(self.blobs.activation)

    def less(self, weights, zero):
        return weights - zero.to(self.blobs.activation) if self.subtracts_zeros else weights

    def add_up(self, m, bias_ptr, y_ptr, sums, row, nt, place, part, shares):
        """The last of the blocks that share a tile adds their sums, always in the same order.

        `place` is that of the tile among those of the last wave, or negative.
        """
        s = self.schedule
        shape = [s.rows, s.columns, 16 * s.tiles, TOKENS]
        shared = self.global_tensor(
            float32, [s.multiprocessors, len(self.columns), *shape], requires_clean=False
        )
        counts = self.global_tensor(int32, [s.multiprocessors], requires_clean=True)
        finishes: int32 = 1
        if shares > 1:
            first = place * shares
            for c in self.columns:
                self.store_global(
                    shared, sums[c], offsets=[first + part, c, 0, 0, 0, 0], dims=[2, 3, 4, 5]
                )
            count = counts[place].item_ptr()
            finishes = self.where(self.arrive_semaphore(count) == shares - 1, 1, 0)
            if finishes == 1:
                none = self.register_tensor(dtype=float32, shape=shape, init=0.0)
                for c in self.columns:
                    self.assign(sums[c], none)
                    for share in self.range(shares):
                        found = self.load_global(
                            shared,
                            offsets=[first + share, c, 0, 0, 0, 0],
                            shape=shape,
                            dims=[2, 3, 4, 5],
                        )
                        self.assign(sums[c], sums[c] + found)
                self.release_semaphore(count, 0)
        if finishes == 1:
            self.finish(m, bias_ptr, y_ptr, sums, row, nt)

    def finish(self, m, bias_ptr, y_ptr, sums, row, nt):
        """Add the bias, and store rows of y."""
        s, rows = self.schedule, self.schedule.blobs * self.blobs.block_n
        g_y = self.global_view(y_ptr, dtype=self.epilogue.out_dtype, shape=[m, self.blobs.n])
        tokens = s.columns * TOKENS
        s_y = self.shared_tensor(dtype=self.epilogue.out_dtype, shape=[2, tokens, rows])
        self.annotate_layout(s_y, self.s_y_layout)
        for c in self.columns:
            self.store(g_y, bias_ptr, s_y[c % 2], sums[c], row + c * tokens, nt)

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

    def total_of(self, acc, unit):
        """The sums of all warps, over the block's part of k: [rows, columns, 16 * tiles, 8]."""
        s = self.schedule
        y = self.times(acc if s.scale_weights else acc * unit, self.factor)
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


def _swizzled(shape: tuple[int, ...], base: int, bits: int, first: int = 0) -> SharedLayout:
    """Row-major; `bits` bits of the row, from `first`, exchange pieces of `1 << base` elements."""
    shift = shape[-1].bit_length() - 1 + first - base
    return shared_row_major(*shape).with_swizzle(Swizzle(base, bits, shift))
