"""The matmul with low-precision weights for few tokens: bound by memory, so lean per weight.

    y^T [n, m] = W [n, k] x^T [k, m]

Weights are the tensor core's A operand, 16 of n by 16 of k, so that 8 tokens waste nothing. They
are unpacked to `plan.scale * value + plan.base` and not corrected: the accumulators start from what
bases and a common zero point contribute, which the tensor core computes from constant fragments.
Scales multiply accumulators, once a group. The warps of a block share k and add up in the end.

The surprise: within 32 of k the order is the kernel's own. It is the one in which a thread's part
of x^T is 16 bytes in a row, so that activations go from the cache straight into fragments.
"""
# A kernel's annotations are the language (`~uint8` is a pointer), not Python types.
# pyright: reportInvalidTypeForm=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportOperatorIssue=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportOptionalSubscript=false, reportOptionalMemberAccess=false

from dataclasses import dataclass

from tilus.dtypes import DataType, float32, int32, uint8, void_p
from tilus.ir.layout import local, register_layout, replicated, spatial
from tilus.lang.script import Script
from tilus.ops.blobs import LANES, PART, TOKENS, VECTOR, BlobFormat, Piece
from tilus.utils import cdiv

IN_FLIGHT = 48 * 1024  # bytes of weights on their way to an SM: latency times bandwidth
# Stages whose steps are written out, so that their addresses are constants; fewer where the
# registers are needed for more columns of tokens.
MOST_UNROLLED = {1: 8, 2: 4, 4: 2}
LEAST_WRITTEN = {1: 6, 2: 1, 4: 1}  # steps of a turn of the loop, if it is one of whole rings
LEAST_LACK = 16 * 1024  # bytes in flight that matter more than a step
COLUMNS = (1, 2, 4)  # of 8 tokens, that a block multiplies with weights unpacked once
MOST_SHARED = 227 * 1024  # bytes of a block, on sm_90


@dataclass(frozen=True)
class Schedule:
    """How a launch is cut: warps of a block, stages of its pipeline, blocks that share k."""

    warps: int
    stages: int
    split: int = 1

    @staticmethod
    def of(blobs: BlobFormat, split: int = 1, shared_bytes: int = MOST_SHARED) -> "Schedule":
        """The schedule with `IN_FLIGHT` bytes on their way, or nearly, in the fewest steps.

        `shared_bytes` is what a block may have of shared memory.
        """
        found = [s for w in range(1, 9) if (s := Schedule._with(blobs, split, w, shared_bytes))]
        return min(found, key=lambda s: s._rank(blobs))

    @staticmethod
    def _with(blobs: BlobFormat, split: int, warps: int, shared_bytes: int) -> "Schedule | None":
        """With this many warps; None where two stages do not fit."""
        scratch = warps * blobs.block_n * TOKENS * 4  # in which the warps add up
        fitting = (shared_bytes - scratch) // (warps * blobs.blob_bytes)
        wanted = cdiv(IN_FLIGHT, warps * blobs.weight_bytes) + 1
        steps = cdiv(blobs.chunks, warps * split)
        stages = min(max(2, min(wanted, steps + 1)), fitting)
        return Schedule(warps, stages, split) if stages >= 2 else None

    def _rank(self, blobs: BlobFormat) -> tuple[int, int, int]:
        steps = cdiv(blobs.chunks, self.warps * self.split)
        on_the_way = min(self.stages - 1, steps) * self.warps * blobs.weight_bytes
        return max(0, IN_FLIGHT - on_the_way) // LEAST_LACK, steps, self.warps


def range_of(piece: Piece) -> list[int]:
    """The steps of the tensor core, of those of its part, that a piece takes."""
    return list(range(piece.start // 16, (piece.start + piece.size) // 16))


@dataclass(frozen=True)
class Epilogue:
    """What becomes of the sums: another dtype, and a bias [n] of the dtype `bias`, if any."""

    out_dtype: DataType
    bias: DataType | None = None


class SmallMatmul(Script):
    """y [m, n] = x [m, k] W^T + bias, for blobs of `blobs` and `8 * columns` tokens a block."""

    def __init__(
        self, blobs: BlobFormat, schedule: Schedule, epilogue: Epilogue, columns: int, zero: float
    ):
        super().__init__()
        self.blobs, self.schedule, self.epilogue = blobs, schedule, epilogue
        self.zero = 0.0 if blobs.has_zeros else zero
        self.steps = cdiv(blobs.chunks, schedule.warps * schedule.split)
        self.ragged = self.steps * schedule.warps * schedule.split != blobs.chunks
        self.columns = list(range(columns))
        self.x_factor = blobs.x_factor
        self.block_m = TOKENS * columns
        self.unrolled = schedule.stages <= MOST_UNROLLED[columns]
        # Registers hold the activations of the next step too, unless there are many of them.
        self.ahead = self.columns if columns <= 2 else []
        self.ring = list(range(schedule.stages))
        self.turn = schedule.stages * max(1, LEAST_WRITTEN[columns] // schedule.stages)
        self.written, self.rest = list(range(self.turn)), list(range(self.steps % self.turn))
        self._layouts()
        self._corrections()
        self.factor = 1.0 / (blobs.plan.scale * self.x_factor)

    def _layouts(self) -> None:
        blobs, warps = self.blobs, self.schedule.warps
        alone = spatial(warps, 1, 1)
        config = blobs.config(PART)
        vectors = blobs.part_bytes // (LANES * VECTOR)
        self.codes_layout = alone * config.la.unsqueeze(0)
        self.bits = blobs.plan.layout.repeat(config.la.local_size // blobs.plan.elements)
        self.bytes_layout = spatial(warps, 1).local(1, vectors).spatial(1, LANES).local(1, VECTOR)
        spans = PART // blobs.span
        self.x_layout = register_layout(
            [TOKENS, warps, PART],
            [TOKENS, warps, spans, 4, PART // spans // 4],
            [1, 0, 3],
            [2, 4],
        )
        self.fragment_layout = alone * config.lb.unsqueeze(0)
        self.scale_layout = (alone * config.lc.unsqueeze(0)).reduce(2, keepdims=True)
        self.scale_bytes_layout = (
            spatial(warps, TOKENS)
            * replicated(1, 1, num_workers=4)
            * local(1, blobs.group_bytes // TOKENS)
        )
        # Of each part its pieces, the first of a group with all pieces of the group.
        self.mates = [[p for p in blobs.pieces if p.group == g] for g in range(blobs.groups)]
        self.parts = [
            (
                part,
                [
                    (p, self.mates[p.group] if p is self.mates[p.group][0] else None)
                    for p in blobs.pieces
                    if p.part == part
                ],
            )
            for part in range(blobs.chunk // PART)
        ]

    def _corrections(self) -> None:
        """-(base + zero) of the registers of a fragment, for each 16 of k in a part."""
        plan, k_steps = self.blobs.plan, PART // 16
        lanes = [b for b in plan.base for _ in range(plan.elements // len(plan.base) // 2)]
        values = [-(b + plan.scale * self.zero) for b in lanes] * (4 * k_steps)
        self.corrections = [values[4 * j : 4 * j + 4] for j in range(k_steps)]
        self.corrected = any(v != 0 for row in self.corrections for v in row)

    def __call__(self, m: int32, x_ptr: void_p, blobs_ptr: ~uint8, bias_ptr: void_p, y_ptr: void_p):
        blobs, warps, stages = self.blobs, self.schedule.warps, self.schedule.stages
        self.attrs.blocks = [blobs.n_tiles, self.schedule.split, cdiv(m, self.block_m)]
        self.attrs.warps = warps
        g_x = self.global_view(
            x_ptr,
            dtype=blobs.activation,
            shape=[m, blobs.chunks, blobs.chunk],
            strides=[blobs.padded_k, blobs.chunk, 1],
        )
        g_blobs = self.global_view(
            blobs_ptr, dtype=uint8, shape=[blobs.n_tiles, blobs.chunks, blobs.blob_bytes]
        )
        s_w = self.shared_tensor(dtype=uint8, shape=[stages, warps, blobs.blob_bytes])
        nt = self.blockIdx.x
        first = self.blockIdx.y * self.steps
        row = self.blockIdx.z * self.block_m
        for stage in self.ring[:-1]:
            self.fetch(g_blobs, s_w, nt, first + stage, stage)
            self.copy_async_commit_group()
        x = [self.load_x(g_x, row + TOKENS * c, first) for c in self.ahead]
        base = [self.constant(m, four) for four in self.corrections]
        ones = [self.constant(m, [1.0] * 4)] * len(base)
        acc = [self.accumulator(blobs.block_n) for _ in self.columns]
        if self.unrolled:
            for turn in self.range(self.steps // self.turn):
                for s in self.written:
                    step = first + turn * self.turn + s
                    slot, last = s % stages, (s + stages - 1) % stages
                    self.multiply(
                        g_blobs, g_x, s_w, base, ones, x, acc, nt, row, first, step, slot, last
                    )
            for s in self.rest:
                step = first + self.steps // self.turn * self.turn + s
                slot, last = s % stages, (s + stages - 1) % stages
                self.multiply(
                    g_blobs, g_x, s_w, base, ones, x, acc, nt, row, first, step, slot, last
                )
        else:
            slot: int32 = 0
            last: int32 = stages - 1
            for turn in self.range(self.steps // 2):
                for s in [0, 1]:
                    step = first + turn * 2 + s
                    self.multiply(
                        g_blobs, g_x, s_w, base, ones, x, acc, nt, row, first, step, slot, last
                    )
                    last = slot
                    slot = self.where(slot == stages - 1, 0, slot + 1)
            if self.steps % 2:
                step = first + self.steps - 1
                self.multiply(
                    g_blobs, g_x, s_w, base, ones, x, acc, nt, row, first, step, slot, last
                )
        self.copy_async_wait_all()
        if self.schedule.split == 1:
            for c in self.columns:
                total = self.sum(acc[c], dim=0)
                self.finish(m, bias_ptr, y_ptr, total, nt, row + TOKENS * c)
        else:
            self.add_up(m, bias_ptr, y_ptr, acc, nt, row)

    def accumulator(self, rows: int):
        return self.register_tensor(
            dtype=float32, shape=[self.schedule.warps, rows, TOKENS], init=0.0
        )

    def constant(self, m, v):
        """An A operand [warps, 16, 16] with the numbers `v` in its four registers."""
        return self.register_tensor(
            dtype=self.blobs.activation,
            shape=[self.schedule.warps, 16, 16],
            # m is not negative. That the compiler does not know it keeps equal registers apart,
            # so that the fragment is not put together anew for each product.
            init=lambda w, i, j: self.where(
                j < 8,
                self.where(
                    i < 8,
                    self.where(m < -1, 0.0, v[0]),
                    self.where(m < -2, 0.0, v[1]),
                ),
                self.where(
                    i < 8,
                    self.where(m < -3, 0.0, v[2]),
                    self.where(m < -4, 0.0, v[3]),
                ),
            ),
        )

    def fetch(self, g_blobs, s_w, nt, step, stage):
        """Start copying the blobs of a step, which lie in a row."""
        self.copy_async(
            g_blobs,
            s_w[stage],
            offsets=[nt, step * self.schedule.warps, 0],
            dims=[1, 2],
            evict="evict_first",
            check_bounds=self.ragged,
        )

    def load_x(self, g_x, row, step):
        """x^T of the chunks of a step, in parts [warps, part, 8]."""
        return [self.load_part(g_x, row, step, part) for part, _ in self.parts]

    def load_part(self, g_x, row, step, part: int):
        warps = self.schedule.warps
        x = self.load_global(
            g_x,
            offsets=[row, step * warps, part * PART],
            shape=[TOKENS, warps, PART],
            padding="edge",  # rows that are no tokens are not stored, chunks beyond k have scale 0
        )
        self.annotate_layout(x, self.x_layout)
        return (x * self.x_factor if self.x_factor != 1.0 else x).view(layout=self.fragment_layout)

    def multiply(self, g_blobs, g_x, s_w, base, ones, x, acc, nt, row, first, step, s, before):
        """Multiply the blobs of one step, while those of the next ones are on their way."""
        stages = self.schedule.stages
        if not self.ahead:
            x = [self.load_x(g_x, row + TOKENS * c, step) for c in self.columns]
        self.copy_async_wait_group(stages - 2)
        self.sync()
        if step + stages - 1 < first + self.steps:
            self.fetch(g_blobs, s_w, nt, step + stages - 1, before)
        self.copy_async_commit_group()
        mine = s_w[s]
        following = min(step + 1, first + self.steps - 1)
        ahead = [self.load_x(g_x, row + TOKENS * c, following) for c in self.ahead]
        sums = None
        for part, pieces in self.parts:
            sums = self.multiply_part(mine, base, ones, x, acc, sums, part, pieces)
        for c in self.ahead:
            for part, _ in self.parts:
                self.assign(x[c][part], ahead[c][part])

    def multiply_part(self, mine, base, ones, x, acc, sums, part, pieces):
        """The sums of the group that goes on behind a part, by columns."""
        w = self.unpacked(mine, part)
        for piece, group in pieces:
            # The first piece of a group is multiplied on top of the group's correction.
            if group is not None:
                sums = [self.corrected_start(base, x[c], group) for c in self.columns]
            sums = self.products(self.cut(w, piece, 2), x, sums, piece)
            if piece.ends:
                self.accumulate(mine, ones, x, acc, sums, piece)
        return sums

    def products(self, a, x, sums, piece):
        return [self.dot(a, self.cut(x[c][piece.part], piece, 1), sums[c]) for c in self.columns]

    def unpacked(self, mine, part):
        """The weights of a part, [warps, block_n, part], scaled and offset as the plan has it."""
        blobs = self.blobs
        loaded = self.load_shared(mine[:, part * blobs.part_bytes : (part + 1) * blobs.part_bytes])
        self.annotate_layout(loaded, self.bytes_layout)
        codes = loaded.view(dtype=blobs.dtype, layout=self.codes_layout, bits=self.bits)
        return self.unpack(codes, dtype=blobs.activation)

    def cut(self, tile, piece, dim: int):
        """The part of a fragment along k that a piece has."""
        if piece.size == PART:
            return tile
        end = piece.start + piece.size
        if dim == 2:
            return tile[:, :, piece.start : end]
        return tile[:, piece.start : end, :]

    def over_group(self, constants, x, group):
        """[warps, 16, 8]: x of a group times constant fragments; its rows 0..7 and 8..15 are equal.

        There is a fragment for each 16 of k of a part, `constants[j]`.
        """
        places = [(piece.part, j) for piece in group for j in range_of(piece)]
        total = self.over_16(constants, x, *places[0])
        for part, j in places[1:]:
            self.over_16(constants, x, part, j, total)
        return total

    def over_16(self, constants, x, part, j, total=None):
        """The products of 16 of k, added to `total` in place."""
        return self.dot(constants[j], x[part][:, 16 * j : 16 * j + 16, :], total, out=total)

    def corrected_start(self, base, x, group):
        """[warps, block_n, 8]: minus what bases and the common zero point will contribute."""
        if not self.corrected:
            return None
        return self.over_group(base, x, group).repeat([1, self.blobs.block_n // 16, 1])

    def numbers(self, mine, first: int, group: int):
        """The scales or zero points of a group, [warps, block_n, 1] float32."""
        blobs = self.blobs
        begin = first + group * blobs.group_bytes
        loaded = self.load_shared(mine[:, begin : begin + blobs.group_bytes])
        self.annotate_layout(loaded, self.scale_bytes_layout)
        found = loaded.view(dtype=blobs.scale_dtype, layout=self.scale_layout)
        return found if blobs.scale_dtype == float32 else found.to(float32)

    def accumulate(self, mine, ones, x, acc, sums, piece):
        """acc += scale * (sums - zero * sum of x), for the group that ends."""
        blobs = self.blobs
        scale = self.numbers(mine, blobs.weight_bytes, piece.group)
        for c in self.columns:
            if blobs.has_zeros:
                first = blobs.weight_bytes + blobs.groups * blobs.group_bytes
                zero = self.numbers(mine, first, piece.group)
                zero = zero * blobs.plan.scale if blobs.plan.scale != 1.0 else zero
                x_sum = self.over_group(ones, x[c], self.mates[piece.group])
                rows = x_sum.repeat([1, blobs.block_n // 16, 1])
                self.assign(acc[c], acc[c] + scale * (sums[c] - zero * rows))
            else:
                self.assign(acc[c], acc[c] + scale * sums[c])

    def add_up(self, m, bias_ptr, y_ptr, acc, nt, row):
        """The last of the blocks that share k adds their sums, always in the same order."""
        n, rows, split = self.blobs.n, self.blobs.block_n, self.schedule.split
        shares = self.global_tensor(float32, [split, n, m], requires_clean=False)
        counts = self.global_tensor(
            int32, [cdiv(m, self.block_m), self.blobs.n_tiles], requires_clean=True
        )
        for c in self.columns:
            offsets = [self.blockIdx.y, nt * rows, row + TOKENS * c]
            self.store_global(shares, self.sum(acc[c], dim=0), offsets=offsets, dims=[1, 2])
        count = counts[self.blockIdx.z, nt].item_ptr()
        if self.arrive_semaphore(count) == split - 1:
            for c in self.columns:
                total = self.register_tensor(dtype=float32, shape=[rows, TOKENS], init=0.0)
                for share in self.range(split):
                    total += self.load_global(
                        shares,
                        offsets=[share, nt * rows, row + TOKENS * c],
                        shape=[rows, TOKENS],
                        dims=[1, 2],
                    )
                self.finish(m, bias_ptr, y_ptr, total, nt, row + TOKENS * c)
            self.release_semaphore(count, 0)

    def finish(self, m, bias_ptr, y_ptr, total, nt, row):
        """Store sums [block_n, 8] of all of k as the rows of y."""
        n, out = self.blobs.n, self.epilogue.out_dtype
        g_y = self.global_view(y_ptr, dtype=out, shape=[n, m], strides=[1, n])
        y = total * self.factor if self.factor != 1.0 else total
        if self.epilogue.bias is not None:
            g_bias = self.global_view(bias_ptr, dtype=self.epilogue.bias, shape=[n])
            bias = self.load_global(
                g_bias, offsets=[nt * self.blobs.block_n], shape=[self.blobs.block_n]
            )
            y = y + bias.to(float32).unsqueeze(1)
        self.store_global(g_y, y.to(out), offsets=[nt * self.blobs.block_n, row])
