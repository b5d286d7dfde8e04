"""Codebooks: 2 to 4 bits that select one of a table's numbers.

The codes are the selectors of `prmt`, which looks up one byte of four values at a time; a byte that
is 0 in all values costs nothing.

The surprise: tables hold 16-bit numbers, and the numbers of a codebook seldom are. But since the
weights are scaled anyway, any multiple of the codebook will do, and `nearest_factor` finds one
whose numbers are all unusually near to 16-bit numbers: the error of NF4 is about half.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt

from tilus.dtypes import DataType, codebook
from tilus.ir.layout.bit_machine import Constant, Operand, Position, UnpackPlan, Writer
from tilus.ir.layout.bit_tiling import Field, fill
from tilus.ir.layout.bit_write import Outputs, write

Numbers = npt.NDArray[np.float64]
# Standard deviations of weights, as parts of the largest value: groups are scaled by their
# extremes, which are about two (16 weights) to four (thousands) standard deviations.
DEVIATIONS = (1 / 2, 1 / 3, 1 / 4)
FACTOR_MARGIN = 1 / 16  # of an interval, that a factor keeps away from its ends
NEGLIGIBLE = 2.0**-48  # squared error, beside the values': sums are rounded to 24 bits


# NormalFloat of 4 bits: quantiles of the normal distribution with an exact zero, scaled to [-1, 1]
# (Dettmers et al., "QLoRA", arXiv 2305.14314, Appendix E "NormalFloat 4-bit data type").
NF4 = codebook(
    4,
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
)  # fmt: skip


# ---- the factor ------------------------------------------------------------------------------


def nearest_factor(values: Numbers, target: DataType) -> float:
    """The c for which the numbers of `target` next to c * values are the best codebook.

    c is 1 where `values` are numbers of `target`; else it is of the octave that takes the largest
    value to [1, 4), and has the least error, sum p * (encode(c * v) / c - v)^2. Here p is how often
    v is the nearest value to a normally distributed weight. Of equally good ones it is one without
    lower bytes.

    The search is exhaustive: between two neighbouring factors at which some c * v passes the middle
    of two numbers, all encode(c * v) stay the same, and the best c is known in closed form.

    >>> from tilus.dtypes import float16
    >>> nearest_factor(np.array([0.0, 0.1, 0.2, 0.3]), float16)
    5.0
    """
    with np.errstate(over="ignore"):
        if np.array_equal(target.encode(values).astype(np.float64), values):
            return 1.0
    edges = _edges(values, target)
    low, high = edges[:-1, None], edges[1:, None]
    rounded = target.encode((low + high) / 2 * values).astype(np.float64)  # (intervals, values)
    weights = _frequencies(values)
    best = (weights * rounded**2).sum(-1) / (weights * rounded * values).sum(-1)
    margin = FACTOR_MARGIN * (high - low)
    factors = np.clip(best[:, None], low + margin, high - margin)
    error = (weights * (rounded / factors - values) ** 2).sum(-1)
    alike = error <= error.min() + NEGLIGIBLE * (weights * values**2).sum()
    looked_up = (target.to_bits(target.encode(rounded)) & 0xFF).any(-1)  # the lower bytes
    return float(factors[np.lexsort((looked_up, ~alike))[0], 0])


def _edges(values: Numbers, target: DataType) -> Numbers:
    """The ends of the octave, and the factors in it at which an encoded value changes."""
    sizes = np.unique(np.abs(values[values != 0]))
    first = 2.0 ** -math.floor(math.log2(sizes[-1]))
    infinity = ((1 << target.exponent_nbits) - 1) << target.mantissa_nbits
    patterns = np.arange(infinity, dtype=np.uint16)
    numbers = target.decode(target.from_bits(patterns)).astype(np.float64)
    middles = (numbers[1:] + numbers[:-1]) / 2
    found = [np.array([first, 2 * first])]
    for size in sizes:
        start, end = np.searchsorted(middles, [first * size, 2 * first * size])
        found.append(middles[start:end] / size)
    return np.unique(np.concatenate(found).clip(first, 2 * first))


def _frequencies(values: Numbers) -> Numbers:
    """How often each value is the nearest to a normally distributed weight."""
    order = np.argsort(values, kind="stable")
    middles = (values[order][1:] + values[order][:-1]) / 2
    frequencies = np.zeros_like(values)
    for deviation in DEVIATIONS:
        sigmas = middles / (deviation * np.abs(values).max())
        below = [0.0, *(0.5 + 0.5 * math.erf(s / math.sqrt(2)) for s in sigmas), 1.0]
        frequencies[order] += np.diff(below) / len(DEVIATIONS)
    return frequencies


# ---- the lookup ------------------------------------------------------------------------------


def plan_codebook(dtype: DataType, target: DataType) -> UnpackPlan:
    """Look up `encode(scale * value)`, in two tables of bytes.

    The codes of 4 bits keep their top bit aside: two lookups, and a select by a mask of bytes.
    """
    width = min(dtype.nbits, 3)
    field = Field(4, tuple(range(width)), (0,), (0.0,))
    if dtype.nbits == 4:
        selectors = Outputs(field, 1)
        selectors.extract(0, 0)
    else:
        filled = fill(field)
        selectors = write(Outputs(field, len(filled)), filled)
    scale = nearest_factor(np.array(dtype.values), target)
    lookup = _Lookup(dtype, scale, target, selectors.writer)
    placement: list[tuple[Position, ...]] = []
    for number, _, elements in selectors.found:
        for half in range(2):
            tops = lookup.look_up(number, half)
            for bits, top in itertools.zip_longest(elements[4 * half : 4 * half + 4], tops):
                placement.append((*bits, top) if top else bits)
    return UnpackPlan(
        dtype, target, len(placement), selectors.writer.words, tuple(placement),
        tuple(selectors.writer.steps), tuple(lookup.outputs), scale,
        (0.0,) * len(lookup.outputs), tuple(range(1 << dtype.nbits)),
    )  # fmt: skip


class _Lookup:
    """Looks up the values of four codes at a time, byte by byte."""

    def __init__(self, dtype: DataType, scale: float, target: DataType, writer: Writer):
        halves = target.to_bits(target.encode(scale * np.array(dtype.values)))
        self.tables = [bytes((halves >> shift & 0xFF).astype(np.uint8)) for shift in (0, 8)]
        self.wide = dtype.nbits == 4
        self.writer = writer
        self.outputs: list[int] = []

    def look_up(self, selector: int, half: int) -> list[Position]:
        """Append the two outputs of the codes in that half; returns where their top bits lie."""
        chosen: Operand = selector
        if half:  # prmt reads the lower half of its selector
            chosen = self.writer.step("shf", selector, Constant(0), detail=16)
        mask, tops = self._mask(half) if self.wide else (None, [])
        low, high = (self._bytes(table, chosen, mask) for table in self.tables)
        for pair in (0x5140, 0x7362):
            self.outputs.append(self.writer.step("prmt", low, high, Constant(pair)))
        return tops

    def _mask(self, half: int) -> tuple[int, list[Position]]:
        """0xff in the byte of each code whose top bit is set; and where these bits are."""
        source = self.writer.step("shf", Constant(0), 0, detail=4) if half else 0
        tops = [(0, 8 * byte + (3 if half else 7)) for byte in range(4)]
        return self.writer.step("prmt", source, Constant(0), Constant(0xBA98)), tops

    def _bytes(self, table: bytes, chosen: Operand, mask: int | None) -> Operand:
        """The bytes that the four codes stand for; a table of zeros needs no lookup."""
        if not any(table):
            return Constant(0)
        words = np.frombuffer(table.ljust(4, b"\0"), "<u4")
        constants = [Constant(int(word)) for word in words]
        lower = self.writer.step("prmt", constants[0], constants[len(constants) > 1], chosen)
        if mask is None:
            return lower
        upper = self.writer.step("prmt", constants[2], constants[3], chosen)
        return self.writer.step("lop3", lower, upper, mask, detail=0xD8)  # (a & ~c) | (b & c)
