"""`QuantizedTensor`: its parts, exact numbers, moving and files."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import tilus
from tilus import TilusError, dtypes
from tilus.dtypes import LOW_PRECISION, DataType
from tilus.ops import NF4, QuantizedTensor, quantize
from tilus.ops.codes import unpack_bits

KINDS = [
    (tilus.uint4b, True),
    (tilus.uint3b, False),
    (tilus.int5b, False),
    (tilus.float6_e3m2, True),
    (tilus.float8_e4m3, True),
    (tilus.int8, True),
    (NF4, True),
]
IDS = ["u4", "u3 zeros", "i5 zeros", "e3m2", "e4m3", "i8", "NF4"]


def make(dtype: DataType = tilus.uint4b, symmetric: bool = True, k: int = 64) -> QuantizedTensor:
    w = torch.randn(10, k, generator=torch.Generator().manual_seed(0)) * 0.05
    return quantize(w, dtype, 32 if k % 32 == 0 else -1, symmetric)


# ---- numbers -------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.binary(min_size=1, max_size=40), st.integers(0, 7))
def test_unpacking_inverts_packing(nbits: int, data: bytes, spare: int):
    fields = np.frombuffer(data, np.uint8) & ((1 << nbits) - 1)
    stream = torch.from_numpy(dtypes.pack(fields, nbits).copy())
    count = max(1, len(fields) - spare)
    assert fields[:count].tolist() == unpack_bits(stream, nbits, count).tolist()


def exact(q: QuantizedTensor) -> list[Fraction]:
    """By rational arithmetic, from the definition."""
    values = q.dtype.decode(q.codes.numpy_carrier())
    numbers = []
    for n in range(q.shape[0]):
        for k in range(q.shape[1]):
            group = k // q.group_size
            zero = q.zero if q.zeros is None else float(q.zeros[group, n])
            value = Fraction(float(values[n, k])) - Fraction(zero)
            numbers.append(value * Fraction(float(q.scales[group, n])))
    return numbers


def nearest(number: Fraction, dtype: torch.dtype) -> float:
    """Rounded once, ties to even: the closest of the neighbours of a rough guess."""
    kind = {torch.bfloat16: ml_dtypes.bfloat16, torch.float16: np.float16}.get(dtype, np.float32)
    guess = np.array(float(number)).astype(kind)
    bits = {2: np.uint16, 4: np.uint32}[guess.dtype.itemsize]
    around = [guess.view(bits) + np.array(step).astype(bits) for step in (0, 1, -1)]
    candidates = [np.asarray(one).astype(bits).view(kind) for one in around]
    finite = [one for one in candidates if np.isfinite(one.astype(np.float64))]
    return float(
        min(
            finite,
            key=lambda one: (abs(Fraction(float(one)) - number), int(one.view(bits)) & 1),
        )
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("kind", "symmetric"), KINDS, ids=IDS)
def test_dequantising_rounds_once(kind: DataType, symmetric: bool, dtype: torch.dtype):
    q = make(kind, symmetric)
    if q.zeros is not None:  # zero points of all sizes, no integers
        noise = torch.randn(q.zeros.shape, generator=torch.Generator().manual_seed(1))
        q = QuantizedTensor(q.dtype, q.shape, 32, q.codes, q.scales, (q.zeros * noise).half())
    expected = [nearest(number, dtype) for number in exact(q)]
    assert expected == q.dequantize(dtype).double().flatten().tolist()


def test_rounding_twice_would_show():
    """(1 + 2^-10 + 2^-11 - 2^-30) x 1 is rounded up by way of float32, and down directly."""
    zeros = torch.tensor([[-(2.0**-30)]])
    codes = tilus.tensor.from_carrier(np.array([[0]], np.uint8), dtype := tilus.codebook(
        1, [1 + 2.0**-10 + 2.0**-11, 0.0]
    ))  # fmt: skip
    q = QuantizedTensor(dtype, (1, 1), 1, codes, torch.ones(1, 1), -zeros)
    twice = q.dequantize(torch.float32).half()
    assert (1 + 2 * 2.0**-10, 1 + 2.0**-10) == (twice.item(), q.dequantize(torch.float16).item())


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_every_code_means_what_the_dtype_says(dtype: DataType):
    count = 1 << dtype.nbits
    carrier = dtype.from_bits(np.arange(count, dtype=np.uint8)).reshape(1, count)
    codes = tilus.tensor.from_carrier(carrier, dtype)
    q = QuantizedTensor(dtype, (1, count), count, codes, torch.ones(1, 1))
    expected = torch.from_numpy(dtype.decode(carrier).astype(np.float64))
    torch.testing.assert_close(
        q.dequantize(torch.float64), expected, equal_nan=True, rtol=0, atol=0
    )


# ---- moving and copying --------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "symmetric"), KINDS, ids=IDS)
def test_copies_are_equal(dtype: DataType, symmetric: bool):
    q = make(dtype, symmetric)
    assert q.cpu() is q
    for copied in (copy.deepcopy(q), pickle.loads(pickle.dumps(q))):
        assert q.equal(copied) and copied.data is not q.data
    again = QuantizedTensor.from_tensors(q.dtype, q.shape, q.group_size, q.tensors(), q.zero)
    assert q.equal(again)
    assert (10, 64) == tuple(q.to("meta").codes.shape)


def test_a_difference_is_seen():
    q = make()
    flipped = copy.deepcopy(q)
    flipped.data[3] ^= 1
    other_scale = copy.deepcopy(q)
    other_scale.scales[0, 0] *= 2
    other_zero = QuantizedTensor(q.dtype, q.shape, 32, q.codes, q.scales, zero=7.0)
    zeros = torch.full_like(q.scales, 8)
    per_group = QuantizedTensor(q.dtype, q.shape, 32, q.codes, q.scales, zeros)
    for other in (flipped, other_scale, other_zero, per_group, make(tilus.int4b), make(k=96)):
        assert not q.equal(other)


@pytest.mark.gpu
def test_moving_to_a_gpu_and_back():
    q = make(tilus.uint3b, symmetric=False)
    assert "cuda" == q.cuda().device.type
    assert q.equal(q.cuda().cpu())
    assert torch.equal(q.dequantize(), q.cuda().dequantize().cpu())


def test_it_prints_what_it_is():
    expected = (
        "QuantizedTensor(uint4b[10, 64], group_size=32, zero=8, scales=torch.float16, device=cpu)"
    )
    assert expected == repr(make())
    assert "zero=per group" in repr(make(symmetric=False))


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [64, 50])
@pytest.mark.parametrize(("dtype", "symmetric"), KINDS, ids=IDS)
def test_files_round_trip(tmp_path: Path, dtype: DataType, symmetric: bool, k: int):
    q = make(dtype, symmetric, k)
    q.save(tmp_path / "w.safetensors")
    assert q.equal(QuantizedTensor.load(tmp_path / "w.safetensors"))
    assert ["w.safetensors"] == [file.name for file in tmp_path.iterdir()]


def rewrite(path: Path, metadata: dict[str, str | None], drop: str = "", **tensors: torch.Tensor):
    """The file of `make()` with other metadata and tensors."""
    make().save(path)
    kept = {name: tensor for name, tensor in load_file(path).items() if name != drop}
    described = {
        "format": "tilus.quantized", "version": "1", "dtype": "uint4b", "shape": "[10, 64]",
        "group_size": "32", "zero": "8.0",
    }  # fmt: skip
    merged = {k: v for k, v in {**described, **metadata}.items() if v is not None}
    save_file({**kept, **tensors}, path, merged)


def truncate(path: Path):
    make().save(path)
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: None, ["cannot be read", "written by QuantizedTensor.save"]),
        (lambda p: p.write_bytes(b"GGUF" * 9), ["cannot be read"]),
        (lambda p: p.write_bytes(b""), ["cannot be read"]),
        (truncate, ["cannot be read"]),
        (lambda p: save_file({"a": torch.ones(2)}, p), ["no quantised weight", "format None"]),
        (lambda p: rewrite(p, {"format": "gptq"}), ["no quantised weight", "'gptq'"]),
        (lambda p: rewrite(p, {"version": "2"}), ["version", "'2'", "'1'", "update tilus"]),
        (lambda p: rewrite(p, {"dtype": "uint9b"}), ["is damaged", "unknown data type"]),
        (lambda p: rewrite(p, {"dtype": "float16"}), ["is damaged", "1 to 8 bits"]),
        (lambda p: rewrite(p, {"dtype": None}), ["is damaged", "KeyError: 'dtype'"]),
        (lambda p: rewrite(p, {"shape": "[10]"}), ["is damaged", "ValueError"]),
        (lambda p: rewrite(p, {"shape": "10 x 64"}), ["is damaged", "JSONDecodeError"]),
        (lambda p: rewrite(p, {"shape": "[11, 64]"}), ["is damaged", "uint8[320]", "uint8[352]"]),
        (lambda p: rewrite(p, {"group_size": "64"}), ["is damaged", "scales have another shape"]),
        (lambda p: rewrite(p, {"group_size": "0"}), ["is damaged", "not a multiple"]),
        (lambda p: rewrite(p, {}, "scales"), ["is damaged", "codes", "codes, scales and maybe"]),
        (lambda p: rewrite(p, {}, "codes"), ["is damaged", "scales", "codes, scales and maybe"]),
        (lambda p: rewrite(p, {}, more=torch.ones(1)), ["is damaged", "codes, more, scales"]),
        (
            lambda p: rewrite(p, {}, zeros=torch.ones(2, 10).half()),
            ["is damaged", "or a common one, not both"],
        ),
        (
            lambda p: rewrite(p, {}, scales=torch.ones(2, 10).double()),
            ["is damaged", "dtype that kernels do not read", "float64"],
        ),
    ],
)
def test_a_damaged_or_foreign_file_is_named(tmp_path: Path, write, words: list[str]):
    path = tmp_path / "w.safetensors"
    write(path)
    with pytest.raises(TilusError) as info:
        QuantizedTensor.load(path)
    for word in ["w.safetensors", *words]:
        assert word in str(info.value)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch):
    path = tmp_path / "w.safetensors"
    make().save(path)

    def full(tensors, file, metadata):
        Path(file).write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(tilus.ops.weight_files, "save_file", full)
    with pytest.raises(TilusError, match="cannot be written"):
        make(tilus.int4b).save(path)
    assert make().equal(QuantizedTensor.load(path))
    assert [path] == list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(TilusError, match="cannot be written"):
        make().save(tmp_path / "no" / "w.safetensors")


# ---- parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda q: (q.dtype, q.shape, 32, q.codes, q.scales.T), ["scales have another shape"]),
        (lambda q: (q.dtype, q.shape, 32, q.codes, q.scales, q.scales[:1]), ["zeros have another"]),
        (lambda q: (tilus.int3b, q.shape, 32, q.codes, q.scales), ["codes do not fit", "int3b"]),
        (lambda q: (q.dtype, q.shape, 48, q.codes, q.scales), ["K = 64, group_size = 48"]),
        (lambda q: (q.dtype, q.shape, 32, q.codes, q.scales.double()), ["float64", "float16"]),
        (
            lambda q: (q.dtype, q.shape, 32, q.codes, q.scales, q.scales.float()),
            ["zeros are of a dtype", "the same for scales and zeros"],
        ),
        (lambda q: (q.dtype, q.shape, 32, q.codes, q.scales.to("meta")), ["scales do not lie"]),
        (
            lambda q: (q.dtype, q.shape, 32, q.codes, q.scales.T.contiguous().T),
            ["scales do not lie", "contiguous"],
        ),
        (lambda q: (q.dtype, q.shape, 32, q.codes, q.scales, q.scales, 8.0), ["not both"]),
    ],
)
def test_parts_that_do_not_fit_are_refused(build, words: list[str]):
    with pytest.raises(TilusError) as info:
        QuantizedTensor(*build(make()))
    for word in words:
        assert word in str(info.value)
