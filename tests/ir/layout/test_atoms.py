"""Tensor-core atoms against the formulas of the PTX manual, and block tiles made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tilus.ir.layout import (
    ATOMIC_MMAS,
    LayoutError,
    atomic_mma_configs,
    find_atomic_mma,
    local,
    mma_dot_config,
    resolve_dot_config,
    spatial,
)


@dataclass(frozen=True)
class Dtype:
    name: str


F16, BF16, F32, I8, I32 = map(Dtype, ("float16", "bfloat16", "float32", "int8", "int32"))


def manual_fragments(atom):
    """{operand: [(row, column) for lane, register]} as PTX ISA 9.7.14.5 writes them."""
    lanes = [(lane // 4, lane % 4) for lane in range(32)]
    c = [(g + 8 * (i // 2), t * 2 + i % 2) for g, t in lanes for i in range(4)]
    if atom.k == 16:
        a = [
            (g if i < 2 or 4 <= i < 6 else g + 8, t * 2 + (i & 1) + (8 if i >= 4 else 0))
            for g, t in lanes
            for i in range(8)
        ]
        b = [(t * 2 + (i & 1) + (8 if i >= 2 else 0), g) for g, t in lanes for i in range(4)]
    else:
        a = [
            (g if i < 4 or 8 <= i < 12 else g + 8, t * 4 + (i & 3) + (16 if i >= 8 else 0))
            for g, t in lanes
            for i in range(16)
        ]
        b = [(t * 4 + (i & 3) + (16 if i >= 4 else 0), g) for g, t in lanes for i in range(8)]
    return {"la": a, "lb": b, "lc": c}


@pytest.mark.parametrize("atom", ATOMIC_MMAS, ids=lambda atom: atom.name)
def test_fragments_are_those_of_the_manual(atom):
    for operand, expected in manual_fragments(atom).items():
        layout = getattr(atom, operand)
        places = [layout.indices(t, i) for t in range(32) for i in range(layout.local_size)]
        assert expected == places
    assert ((atom.m, atom.k), (atom.k, atom.n), (atom.m, atom.n)) == (
        atom.la.shape,
        atom.lb.shape,
        atom.lc.shape,
    )


def test_names_and_opcodes():
    atom = atomic_mma_configs.m16n8k16_f16_f32
    assert "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" == atom.opcode
    atom = atomic_mma_configs.m16n8k32_i8_i32
    assert "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32" == atom.opcode
    atom = atomic_mma_configs.m16n8k32_e4m3_e5m2_f32
    assert "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32" == atom.opcode
    assert (8, 9) == atom.min_capability
    assert len(ATOMIC_MMAS) == len({atom.name for atom in ATOMIC_MMAS})


def test_fields_of_the_f16_fragments():
    atom = atomic_mma_configs.m16n8k16_f16_f32
    assert "register_layout([16, 16], [2, 8, 2, 4, 2], [1, 3], [2, 0, 4])" == str(atom.la)
    assert "register_layout([16, 8], [2, 4, 2, 8], [3, 1], [0, 2])" == str(atom.lb)
    assert "register_layout([16, 8], [2, 8, 4, 2], [1, 2], [0, 3])" == str(atom.lc)


def fragments(layout, warp, shape):
    """(repeats..., 32, registers): the logical index a warp holds, cut into atoms."""
    table = layout.logical_indices()[warp * 32 : warp * 32 + 32]
    return np.moveaxis(table.reshape(32, *shape, -1), 0, -2)


@pytest.mark.parametrize("warps", [(1, 1), (2, 2), (4, 1), (1, 3)])
@pytest.mark.parametrize("repeat", [(1, 1, 1), (2, 3, 2)])
def test_every_warp_multiplies_the_right_atoms(warps, repeat):
    """The config computes a matrix product when run atom by atom, warp by warp."""
    config = mma_dot_config(atomic_mma_configs.m16n8k16_f16_f32, warps, repeat)
    atom, (rm, rn, rk) = config.atom, repeat
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 9, (config.m, config.k)), rng.integers(-9, 9, (config.k, config.n))
    c = np.zeros((config.m, config.n), dtype=np.int64)
    for warp in range(config.num_warps):
        places_a = fragments(config.la, warp, (rm, rk))
        places_b = fragments(config.lb, warp, (rk, rn))
        places_c = fragments(config.lc, warp, (rm, rn))
        for i, j, k in np.ndindex(rm, rn, rk):
            tile_a, tile_b = np.zeros((16, 16), int), np.zeros((16, 8), int)
            tile_a.flat[atom.la.logical_indices()] = a.flat[places_a[i, k]]
            tile_b.flat[atom.lb.logical_indices()] = b.flat[places_b[k, j]]
            product = tile_a @ tile_b
            c.flat[places_c[i, j]] += product.flat[atom.lc.logical_indices()]
    assert np.array_equal(a @ b, c)


def test_warps_along_n_replicate_a():
    config = mma_dot_config(atomic_mma_configs.m16n8k16_f16_f32, (1, 2), (1, 1))
    atom = config.atom
    assert local(1, 1).replicated(1, 1, num_workers=2) * atom.la == config.la
    assert spatial(1, 2) * atom.lb == config.lb
    assert spatial(1, 2) * atom.lc == config.lc


@pytest.mark.parametrize(
    ("expected", "m", "n", "num_warps"),
    [
        (((1, 4), (1, 2, 1)), 16, 64, 4),
        (((2, 2), (2, 4, 1)), 64, 64, 4),
        (((4, 1), (1, 1, 1)), 64, 8, 4),
        (((1, 1), (2, 2, 1)), 32, 16, 1),
        (((2, 4), (4, 4, 1)), 128, 128, 8),
        (((1, 3), (1, 1, 1)), 16, 24, 3),
    ],
)
def test_resolve_takes_the_placement_with_the_least_traffic(expected, m, n, num_warps):
    config = resolve_dot_config(F16, F32, m=m, n=n, k=16, num_warps=num_warps)
    assert expected == (config.warp_spatial, config.warp_repeat)
    assert (m, n, 16, num_warps) == (config.m, config.n, config.k, config.num_warps)
    assert 32 * num_warps == config.la.num_threads == config.lb.num_threads == config.lc.num_threads


def test_resolve_finds_the_atom():
    assert "m16n8k16_bf16_f32" == find_atomic_mma(BF16, BF16, F32).name
    assert 4 == resolve_dot_config(I8, I32, m=16, n=8, k=128, num_warps=1).warp_repeat[2]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: find_atomic_mma(F32, F32, F32), "no tensor-core instruction"),
        (lambda: find_atomic_mma(BF16, BF16, F16), "no tensor-core instruction"),
        (lambda: resolve_dot_config(F16, F32, m=8, n=8, k=16, num_warps=1), "along m"),
        (lambda: resolve_dot_config(F16, F32, m=16, n=12, k=16, num_warps=1), "along n"),
        (lambda: resolve_dot_config(I8, I32, m=16, n=8, k=16, num_warps=1), "along k"),
        (lambda: resolve_dot_config(F16, F32, m=16, n=8, k=16, num_warps=2), "2 warps cannot"),
        (lambda: resolve_dot_config(F16, F32, m=16, n=8, k=16, num_warps=0), "at least 1"),
        (lambda: mma_dot_config(ATOMIC_MMAS[0], (1, 1, 2), (1, 1)), "share the k dimension"),
        (lambda: mma_dot_config(ATOMIC_MMAS[0], (1,), (1, 1)), "entry for m, n"),
        (lambda: mma_dot_config(ATOMIC_MMAS[0], (1, 0), (1, 1)), "at least 1"),
    ],
)
def test_mistakes_are_explained(build, message):
    with pytest.raises(LayoutError) as caught:
        build()
    assert message in caught.value.message
