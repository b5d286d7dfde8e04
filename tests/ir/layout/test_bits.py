"""Bit layouts: placements of elements in 32-bit words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layout_strategies import bit_layouts
from tilus.ir.layout import BitLayout, LayoutError, bit_layout


def reference_pack(layout, codes):
    """Bit by bit, on Python integers."""
    words = [0] * layout.words
    for k, code in enumerate(codes):
        for bit in range(layout.nbits):
            position = int(layout.positions()[k, bit])
            words[position // 32] |= (code >> bit & 1) << (position % 32)
    return words


@pytest.mark.parametrize("nbits", range(1, 9))
def test_stream_is_little_endian(nbits):
    layout = BitLayout.stream(12, nbits)
    assert -(-12 * nbits // 32) == layout.words
    assert layout.is_stream
    codes = [(k * 37 + 5) % (1 << nbits) for k in range(12)]
    number = sum(code << (k * nbits) for k, code in enumerate(codes))
    packed = layout.pack(np.array(codes))
    assert number == sum(int(word) << (32 * w) for w, word in enumerate(packed))
    assert np.uint32 == packed.dtype


def test_interleaved_nibbles():
    layout = bit_layout(8, 4, [2, 4, 4], [4, 8, 1])
    assert [0x73625140] == layout.pack(np.arange(8)).tolist()


def test_modes_number_words_and_bits():
    # element = (word, byte), bits in the low nibble of each byte: 4-bit values in bytes
    split = BitLayout.modes(8, 8, [2, 4, 8], [0], [1, 2])
    assert BitLayout.stream(8, 8) == split
    crossed = BitLayout.modes(8, 4, [4, 2, 4], [1], [0, 2])
    assert [[0, 1, 2, 3], [32, 33, 34, 35], [4, 5, 6, 7]] == crossed.positions()[:3].tolist()
    assert 2 == crossed.words


@given(bit_layouts(), st.data())
def test_pack_is_the_definition_and_unpack_its_inverse(layout, data):
    code = st.integers(0, (1 << layout.nbits) - 1)
    codes = [
        data.draw(st.lists(code, min_size=layout.count, max_size=layout.count)) for _ in range(2)
    ]
    words = layout.pack(np.array(codes).reshape(2, 1, layout.count))
    assert [[reference_pack(layout, row)] for row in codes] == words.tolist()
    assert [[row] for row in codes] == layout.unpack(words).tolist()


@given(bit_layouts())
def test_inverse(layout):
    inverse = layout.inverse()
    assert layout.words * 32 == inverse.size
    assert np.array_equal(
        np.arange(layout.count * layout.nbits), inverse[layout.positions().ravel()]
    )
    assert layout.count * layout.nbits == np.count_nonzero(inverse >= 0)


@given(bit_layouts(), st.data())
def test_permute_elements(layout, data):
    order = data.draw(st.permutations(range(layout.count)))
    moved = layout.permute_elements(order)
    assert np.array_equal(layout.positions()[list(order)], moved.positions())


@given(bit_layouts(), st.integers(1, 3))
def test_repeat(layout, times):
    repeated = layout.repeat(times)
    codes = np.arange(layout.count * times) % (1 << layout.nbits)
    expected = layout.pack(codes.reshape(times, -1)).ravel()
    assert np.array_equal(expected, np.resize(repeated.pack(codes), expected.shape))


@pytest.mark.parametrize("nbits", [12, 16, 24, 32, 64])
def test_wide_elements(nbits):
    layout = BitLayout.stream(3, nbits)
    codes = np.array([0, (1 << nbits) - 1, 1 << (nbits - 1)], dtype=np.uint64)
    assert codes.tolist() == layout.unpack(layout.pack(codes)).tolist()


def test_signed_codes_keep_their_low_bits():
    assert [0xFE] == BitLayout.stream(2, 4).pack(np.array([-2, -1], dtype=np.int8)).tolist()


def test_text():
    assert "bit_layout(8, 4)" == str(BitLayout.stream(8, 4))
    assert "bit_layout(8, 4, [2, 4, 4], [4, 8, 1])" == str(bit_layout(8, 4, [2, 4, 4], [4, 8, 1]))
    assert "bit_layout(3, 1, table=[2, 0, 5])" == str(BitLayout.table(3, 1, [2, 0, 5]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BitLayout.stream(0, 4), "at least 1"),
        (lambda: BitLayout.stream(4, 65), "too wide"),
        (lambda: BitLayout.table(2, 2, [0, 1, 2]), "needs a position"),
        (lambda: BitLayout.table(2, 2, [0, 1, 2, 2]), "share a position"),
        (lambda: BitLayout.table(2, 1, [0, -1]), "at least 0"),
        (lambda: BitLayout.table(2, 1, [0.5, 1.0]), "must be integers"),
        (lambda: BitLayout.strided(2, 4, [2, 4], [1, 1]), "share a position"),
        (lambda: BitLayout.strided(2, 4, [2, 3], [3, 1]), "does not split"),
        (lambda: BitLayout.strided(2, 4, [2, 4], [1]), "one stride"),
        (lambda: BitLayout.modes(8, 8, [8, 8], [], [0, 1]), "exceed a word"),
        (lambda: BitLayout.modes(8, 4, [8, 4], [0], [0]), "exactly one of"),
        (lambda: bit_layout(8, 4, [32]), "modes with their strides"),
        (lambda: BitLayout.stream(4, 4).permute_elements([0, 1, 2, 2]), "permutation"),
        (lambda: BitLayout.stream(4, 4).pack(np.zeros(3, dtype=int)), "integer codes"),
        (lambda: BitLayout.stream(4, 4).pack(np.zeros(4)), "integer codes"),
        (lambda: BitLayout.stream(4, 4).unpack(np.zeros(2, np.uint32)), "words of this layout"),
        (lambda: BitLayout.stream(4, 4).unpack(np.zeros(1, np.int64)), "words of this layout"),
    ],
)
def test_mistakes_are_explained(build, message):
    with pytest.raises(LayoutError) as caught:
        build()
    assert message in caught.value.message
