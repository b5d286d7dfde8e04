"""Those that ours is timed beside: what they refuse, what they pack, and that a wrong one is found.

No GPU is needed: the Triton kernel runs in its interpreter and is compiled for GPUs that are not
here, tinygemm has operators for the CPU, and packages are recorded fakes that check what they get.
"""

from __future__ import annotations

import os
import subprocess
import sys
import types
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tilus
from benchmarks import bench, compile_time, static, static_tables
from benchmarks.peers import (
    PEERS,
    Arithmetic,
    Prepared,
    Problem,
    check,
    humming,
    installed,
    marlin,
    tinygemm,
    triton_peer,
)
from benchmarks.peers.codes import pack_stream, pack_words, remembered, round_weight
from benchmarks.peers.cutlass import pack_pairs
from benchmarks.peers.gemlite import partial_sums
from benchmarks.peers.ours import Ours
from benchmarks.static_kernels import Case, triton_cases
from tilus import TilusError
from tilus.demo import parse_types
from tilus.dtypes import LOW_PRECISION
from tilus.ops.codes import unpack_bits
from tilus.utils import cdiv

ROOT = Path(__file__).parents[2]
N, K, GROUP = 128, 256, 128
U4 = Problem(4, N, K, "u4")
TYPES = [
    *(f"{kind}{bits}" for kind in "ui" for bits in range(1, 9)),
    "e2m1",
    "e3m2",
    "e4m3",
    "e5m2",
]


def weight(n=N, k=K):
    return 0.05 * torch.randn(n, k, generator=torch.Generator().manual_seed(0))


def tokens(m=4, k=K, dtype=torch.float16):
    return torch.randn(m, k, generator=torch.Generator().manual_seed(1)).to(dtype)


def peer_of(name="paper", **attributes):
    return SimpleNamespace(name=name, **attributes)


# ---- the protocol --------------------------------------------------------------------------------


def test_the_order_of_peers():
    expected = "tilus cublas tinygemm triton gemlite humming marlin cutlass"
    assert expected.split() == list(PEERS) == [peer.name for peer in PEERS.values()]


@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_every_adapter_keeps_the_protocol(peer):
    assert isinstance(peer.version(), str) and peer.version()
    missing = peer.missing()
    assert isinstance(missing, str) if not torch.cuda.is_available() else True
    accepted = [
        (dtype, activation)
        for dtype in (*TYPES, "f16")
        for activation in ("float16", "bfloat16")
        if peer.refuses(replace(U4, dtype=dtype, activation=activation)) is None
    ]
    assert accepted == ACCEPTED[peer.name]


def both(types):
    return [(dtype, activation) for dtype in types for activation in ("float16", "bfloat16")]


INTEGERS = [dtype for dtype in TYPES if dtype[0] in "ui"]
POWERS = [dtype for dtype in INTEGERS if dtype[1:] in ("1", "2", "4", "8")]
ACCEPTED = {
    "tilus": both(TYPES),
    "cublas": [("f16", "float16")],
    "tinygemm": [("u4", "bfloat16"), ("i4", "bfloat16")],
    "triton": [(dtype, "float16") for dtype in POWERS],
    "gemlite": both([*POWERS, "e4m3", "e5m2"]),
    "humming": both(TYPES),
    "marlin": both(["u4", "u8", "i4", "i8", "e4m3"]),
    "cutlass": [("u4", "bfloat16"), ("i4", "bfloat16")],
}


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("tilus", {"k": 200}, "no multiple of the group size"),
        ("tinygemm", {"group_size": 16, "activation": "bfloat16"}, "not 16"),
        ("tinygemm", {"n": 12, "activation": "bfloat16"}, "n = 12 is no multiple of 8"),
        ("triton", {"group_size": 64}, "multiples of 128"),
        ("gemlite", {"group_size": 8}, "at least 16"),
        ("humming", {"n": 72}, "n = 72 is no multiple of 64"),
        ("marlin", {"n": 72}, "n = 72 is no multiple of 64"),
        ("marlin", {"dtype": "e2m1"}, "groups of 16"),
        ("marlin", {"dtype": "e4m3", "group_size": 64}, "groups are of 128, not 64"),
        ("marlin", {"k": 128}, "a single group"),
        ("marlin", {"n": 192, "k": 192, "group_size": 64}, "neither n = 192 nor k = 192"),
        ("cutlass", {"group_size": 64, "activation": "bfloat16"}, "multiples of 128"),
        ("cutlass", {}, "activations are bfloat16"),
    ],
)
def test_refusals_name_their_reason(name, changes, reason):
    assert reason in (PEERS[name].refuses(replace(U4, **changes)) or "")


# ---- missing -------------------------------------------------------------------------------------


def test_a_package_that_is_not_installed():
    assert "the package no-such-thing is not installed" == installed.why_missing(
        ("no-such-thing",), lambda: None
    )


def gpu(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ImportError("cannot import name 'x' from 'deep.inside'"), "deep.inside"),
        (OSError("libcudart.so.12: cannot open shared object file"), "libcudart.so.12"),
        (RuntimeError("no heuristics for this device"), "RuntimeError: no heuristics"),
    ],
)
def test_an_import_that_fails_is_told(monkeypatch, error, text):
    def load():
        raise error

    gpu(monkeypatch, (9, 0))
    assert text in (installed.why_missing(("torch",), load) or "")


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((7, 5), "it needs capability 8.0, this is 7.5"),
        ((10, 0), "it runs on GPUs of capability 9.0, this is 10.0"),
        ((9, 0), None),
    ],
)
def test_the_capability_of_the_gpu(monkeypatch, capability, expected):
    gpu(monkeypatch, capability)
    only = None if capability == (7, 5) else (9, 0)
    assert expected == installed.why_missing((), lambda: None, (8, 0), only)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_all_are_missing():
    reasons = {name: peer.missing() for name, peer in PEERS.items()}
    for name in ("tilus", "cublas", "tinygemm", "triton"):
        assert "there is no CUDA device" == reasons[name]
    for name, package in (("gemlite", "gemlite"), ("humming", "humming-kernels"),
                          ("marlin", "sglang"), ("cutlass", "mslk-cuda")):  # fmt: skip
        absent = installed.version_of(package) is None
        assert absent == (f"the package {package} is not installed" == reasons[name])


def test_nothing_optional_is_imported_with_the_adapters():
    code = (
        "import sys, benchmarks.peers; "
        "print([n for n in ('triton', 'gemlite', 'humming', 'sglang', 'mslk', 'tvm_ffi') "
        "if n in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "[]" == result.stdout.strip()


# ---- quantised values ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
def test_codes_are_the_nearest_values(dtype):
    """As exhaustive search finds them; what they stand for is what the dtype says."""
    w = weight(8, 256)
    rounded = round_weight(w, dtype, GROUP)
    (of,) = parse_types(dtype)
    every = torch.arange(1 << of.nbits, dtype=torch.uint8)
    values = torch.from_numpy(of.decode(of.from_bits(every.numpy())).astype("float64"))
    values = values - (1 << of.nbits - 1 if of.kind == "uint" else 0)
    assert torch.equal(
        rounded.weight.double().reshape(8, 2, GROUP),
        values[rounded.codes.long()].reshape(8, 2, GROUP) * rounded.scales.double()[..., None],
    )
    numbers = values[values.isfinite()] * rounded.scales.double()[..., None, None]
    best = (numbers - w.double().reshape(8, 2, GROUP, 1)).abs().amin(-1)
    found = (rounded.weight.double() - w.double()).abs().reshape(8, 2, GROUP)
    assert float((found - best).abs().max()) < 1e-8


def test_signed_codes_are_the_unsigned_ones_with_the_highest_bit_inverted():
    for bits in range(1, 9):
        signed, unsigned = (round_weight(weight(), f"{k}{bits}", GROUP) for k in "iu")
        mask = 1 << (bits - 1)
        assert torch.equal(signed.codes & (1 << bits) - 1, unsigned.codes ^ mask)
        assert torch.equal(signed.weight, unsigned.weight)


def test_a_group_of_zeros():
    assert 0 == round_weight(torch.zeros(2, 128), "u4", 128).weight.abs().max()


def test_what_is_derived_from_a_weight_goes_with_it():
    w, made = weight(), []
    for name in ("u4", "u4", "u2", "u4"):
        remembered(w, name, "key", lambda name=name: made.append(name))
    assert ["u4", "u2", "u4"] == made
    assert round_weight(w, "u4", 128) is round_weight(w, "u4", 128)
    assert round_weight(w, "u4", 128) is not round_weight(w.clone(), "u4", 128)


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_stream_of_bits_is_read_back(bits):
    codes = torch.randint(0, 1 << bits, (7, 11), dtype=torch.uint8)
    assert torch.equal(codes.flatten(), unpack_bits(pack_stream(codes, bits), bits, 77))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_words_hold_codes_from_the_lowest_bit_on(bits):
    codes = torch.randint(0, 1 << bits, (64, 5), dtype=torch.uint8)
    words = pack_words(codes, bits)
    count = 32 // bits
    for row in range(64):
        found = words[row // count] >> (row % count * bits) & ((1 << bits) - 1)
        assert torch.equal(found.to(torch.uint8), codes[row])


# ---- the check -----------------------------------------------------------------------------------


def product(w, x):
    return (x.double() @ w.double().T).to(x.dtype)


def test_a_right_result_passes():
    w, x = weight(), tokens()
    assert 0.9 < check(peer_of(), Prepared(lambda x: product(w, x), w, 0), x) < 1.1


def spoiled_column(y):
    y[:, 5] = 0


def spoiled_row(y):
    y[-1] = y[0]


def spoiled_number(y):
    y[0, 7] += 1


def spoiled_by_nothing(y):
    y[0, 0] = float("nan")


SPOILED = [spoiled_column, spoiled_row, spoiled_number, spoiled_by_nothing]


@pytest.mark.parametrize("m", [4, 300])
@pytest.mark.parametrize("spoil", SPOILED, ids=lambda f: f.__name__)
def test_a_wrong_result_is_refused(spoil, m):
    w, x = weight(), tokens(m)

    def run(x):
        y = product(w, x)
        spoil(y)
        return y

    with pytest.raises(TilusError, match="the result of paper is wrong"):
        check(peer_of(), Prepared(run, w, 0), x)


def test_the_weight_of_another_scale_is_refused():
    w, x = weight(), tokens()
    with pytest.raises(TilusError, match="is wrong"):
        check(peer_of(), Prepared(lambda x: product(w * 1.01, x), w, 0), x)


@pytest.mark.parametrize("result", [torch.zeros(4, N), torch.zeros(4, N + 1).half()])
def test_another_form_is_refused(result):
    with pytest.raises(TilusError, match="another form"):
        check(peer_of(), Prepared(lambda x: result, weight(), 0), tokens())


def test_known_roundings_are_allowed_for():
    """A sum of 16-bit parts is what the arithmetic of a peer says, or an error."""
    w, x = weight(64, 8192), tokens(4, 8192)

    def run(x):
        y = torch.zeros(4, 64).half()
        for at in range(0, 8192, 32):
            y += product(w[:, at : at + 32], x[:, at : at + 32])
        return y

    prepared = Prepared(run, w, 0)
    with pytest.raises(TilusError, match="explains 0"):
        check(peer_of(), prepared, x)
    assert check(peer_of(arithmetic=Arithmetic(sums=256)), prepared, x) > 3


def test_roundings_that_grow_with_k():
    """Parts of 16 rows, as GemLite adds up for few tokens: more roundings than 16, and than 3
    times those of a float32 product.
    """
    w, x = weight(64, 8192), tokens(4, 8192)

    def run(x):
        y = torch.zeros(len(x), 64).half()
        for at in range(0, 8192, 16):
            y += product(w[:, at : at + 16], x[:, at : at + 16])
        return y

    prepared = Prepared(run, w, 0)
    with pytest.raises(TilusError, match="is wrong"):
        check(peer_of(arithmetic=Arithmetic(sums=16)), prepared, x)
    assert check(peer_of(arithmetic=Arithmetic(sums=partial_sums)), prepared, x) > 3
    assert (16, 16) == (partial_sums(5, 8192), partial_sums(1, 128))


def test_rounded_weights_are_allowed_for():
    w, x = weight(64, 8192), tokens(4, 8192)
    prepared = Prepared(lambda x: product(w.half().float(), x), w, 0)
    found = check(peer_of(arithmetic=Arithmetic(weights=1)), prepared, x)
    assert 1 < found < 3


# ---- adapters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u4", "i3", "e3m2", "e4m3"])
def test_ours_multiplies_by_its_own_codes(dtype):
    peer, problem = Ours(), Problem(3, 72, K, dtype)
    w = weight(72)
    prepared = peer.prepare(w, problem)
    assert torch.equal(prepared.weight, round_weight(w, dtype, GROUP).weight)
    assert prepared.nbytes == 72 * K * int(parse_types(dtype)[0].nbits) // 8 + 2 * 72 * K // GROUP
    with tilus.option.context(engine="interpreter"):
        assert check(peer, prepared, tokens(3)) < 3


def test_copies_are_memory_of_their_own():
    w = weight()
    first, second = (Ours().prepare(w, U4).run.args[0].data for _ in range(2))
    assert first.data_ptr() != second.data_ptr() and torch.equal(first, second)


def test_cublas_multiplies_by_halves():
    prepared = PEERS["cublas"].prepare(weight(), replace(U4, dtype="f16"))
    assert torch.equal(prepared.weight, weight().half().float()) and prepared.nbytes == 2 * N * K
    assert check(PEERS["cublas"], prepared, tokens()) < 3


def test_tinygemm_by_its_operators_of_the_cpu():
    problem = replace(U4, activation="bfloat16")
    prepared = PEERS["tinygemm"].prepare(weight(), problem)
    assert prepared.nbytes == N * K // 2 + 4 * N * K // GROUP
    assert check(PEERS["tinygemm"], prepared, tokens(dtype=torch.bfloat16)) < 30


def test_tinygemm_scales_are_where_they_belong():
    """Each group of each row has one of its own."""
    w = weight() * torch.arange(1, N + 1)[:, None] * torch.tensor([1.0, 7.0]).repeat_interleave(128)
    prepared = PEERS["tinygemm"].prepare(w, replace(U4, activation="bfloat16"))
    assert check(PEERS["tinygemm"], prepared, tokens(dtype=torch.bfloat16)) < 30


def test_tinygemm_packs_bytes_for_cuda(monkeypatch):
    """Two codes a byte, the first one highest."""
    seen = []

    def convert(halves, tiles):
        seen.append((halves.dtype, tuple(halves.shape), tiles))
        return halves

    monkeypatch.setattr(torch.ops.aten, "_convert_weight_to_int4pack", convert, raising=False)
    codes = torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8)
    packed, multiply = tinygemm.pack(_OnCuda(codes))
    assert [[0x12, 0xF0]] == packed.tolist()
    assert seen == [(torch.uint8, (1, 2), tinygemm.INNER_TILES)]
    assert multiply == torch.ops.aten._weight_int4pack_mm


class _OnCuda:
    """Codes that say that they are on CUDA."""

    device = torch.device("cuda")

    def __init__(self, codes):
        self.codes = codes

    def __getitem__(self, key):
        return self.codes[key]


def test_pairs_of_signed_codes():
    codes = torch.tensor([[0x1, 0xF, 0x8, 0x7]], dtype=torch.uint8)
    assert [[-15, 0x78]] == pack_pairs(codes).tolist()


class FakeGemLite:
    """Version 0.6.0.post2, as far as its interface goes."""

    DType = SimpleNamespace(FP16=1, BF16=2)

    class GemLiteLinear:
        def __init__(self, bits, *, group_size, in_features, out_features, input_dtype,
                     output_dtype):  # fmt: skip
            assert bits in (1, 2, 4, 8) and input_dtype == output_dtype
            self.bits, self.shape = bits, (out_features, in_features)
            self.group, self.dtype = group_size, (None, torch.float16, torch.bfloat16)[input_dtype]

        def pack(self, codes, scales, zeros, bias):
            assert bias is None and tuple(codes.shape) == self.shape
            assert tuple(scales.shape) == (self.shape[0], self.shape[1] // self.group)
            assert scales.dtype == self.dtype
            if codes.dtype == torch.uint8:
                assert int(codes.max()) < 1 << self.bits and isinstance(zeros, int)
                values = codes.float() - zeros
            else:
                assert self.bits == 8 and codes.is_floating_point() and zeros is None
                values = codes.float()
            self.W_q, self.scales = codes, scales
            self.weight = values * scales.float().repeat_interleave(self.group, 1)

        def __call__(self, x):
            assert x.dtype == self.dtype
            return product(self.weight, x)


@pytest.mark.parametrize("dtype", ["u1", "u4", "i4", "i8", "e4m3", "e5m2"])
@pytest.mark.parametrize("activation", ["float16", "bfloat16"])
def test_what_gemlite_is_given(monkeypatch, dtype, activation):
    monkeypatch.setitem(sys.modules, "gemlite", FakeGemLite)
    peer = PEERS["gemlite"]
    prepared = peer.prepare(weight(), replace(U4, dtype=dtype, activation=activation))
    assert check(peer, prepared, tokens(dtype=getattr(torch, activation))) < 3


class FakeHummingLayer:
    """Version 0.1.19, as far as its interface goes; it rounds to a sixteenth."""

    def __init__(self, *, shape_n, shape_k, weight_config, torch_dtype):
        assert weight_config == {
            "dtype": "float6e3m2",
            "group_size": GROUP,
            "scale_dtype": "float16",
        }
        self.shape, self.dtype, self.is_transformed = (shape_n, shape_k), torch_dtype, False
        self.weight_schema = SimpleNamespace(dequant_tensors=lambda t: t["weight"] / 16)

    def to(self, device):
        return self

    def load_from_unquantized(self, w):
        assert tuple(w.shape) == self.shape
        self.weight, self.weight_scale = (w * 16).round().int(), torch.ones(1)

    def load_from_tensors(self, tensors):
        self.weight, self.weight_scale = tensors["weight"].clone(), tensors["weight_scale"].clone()

    def transform(self):
        self.is_transformed = True

    def __call__(self, x):
        assert self.is_transformed and x.dtype == self.dtype
        return product(self.weight / 16, x)


def test_what_humming_is_asked(monkeypatch):
    layer = types.ModuleType("humming.layer")
    layer.HummingLayer = FakeHummingLayer
    monkeypatch.setitem(sys.modules, "humming", types.ModuleType("humming"))
    monkeypatch.setitem(sys.modules, "humming.layer", layer)
    peer, w = PEERS["humming"], weight()
    first, second = (peer.prepare(w, replace(U4, dtype="e3m2")) for _ in range(2))
    assert first.weight is second.weight  # it was rounded once
    assert first.run.weight.data_ptr() != second.run.weight.data_ptr()
    assert check(peer, first, tokens()) < 3


def test_names_of_types_in_humming():
    names = [humming.name_of(dtype) for dtype in ("u1", "i8", "e2m1", "e4m3", "e5m2")]
    assert ["int1", "int8", "float4e2m1", "float8e4m3", "float8e5m2"] == names


def fake_marlin(bits, is_float):
    """The two functions of sglang 0.5.10.post1; weights stay as they are packed."""

    def repack(words, order, packed, k, n, number_of_bits):
        assert number_of_bits == bits and order.numel() == 0 and order.dtype == torch.int32
        assert words.dtype == packed.dtype == torch.int32
        assert tuple(words.shape) == (k * bits // 32, n)
        assert tuple(packed.shape) == (k // 16, n * 16 * bits // 32)
        packed.copy_(words.reshape(packed.shape))

    def multiply(
        a, b, scales, global_scale, zeros, g_idx, order, c, c_tmp, a_tmp, workspace,
        type_id, is_k_full, atomic, fp32_reduce, zp_float,
    ):  # fmt: skip
        (m, k), n = a.shape, scales.shape[1]
        assert tuple(c.shape) == (m, n) and c.dtype == a.dtype == scales.dtype
        assert all(t.numel() == 0 for t in (global_scale, zeros, g_idx, order, a_tmp))
        assert (is_k_full, atomic, fp32_reduce, zp_float) == (True, False, True, False)
        assert c_tmp.dtype == torch.float32 and workspace.dtype == torch.int32
        assert c_tmp.numel() == workspace.numel() * 256 * min((m + 15) // 16 * 16, 64)
        words = b.reshape(k * bits // 32, n)
        shifts = torch.arange(32 // bits) * bits
        codes = (words[:, None] >> shifts[None, :, None]).reshape(k, n) & ((1 << bits) - 1)
        inverse = marlin.permuted(torch.arange(n)[None])[0].argsort()
        if is_float:
            values = codes.to(torch.uint8).view(torch.float8_e4m3fn).float() * 2.0**-8
        else:
            values = codes.float() - (1 << (bits - 1))
        wanted = values * scales.float()[:, inverse].repeat_interleave(GROUP, 0)
        c.copy_(product(wanted.T, a))

    return multiply, repack


@pytest.mark.parametrize(("dtype", "bits"), [("u4", 4), ("i8", 8), ("e4m3", 8)])
def test_what_marlin_is_given(monkeypatch, dtype, bits):
    monkeypatch.setattr(marlin, "multiprocessors", lambda device: 132)
    functions = fake_marlin(bits, dtype == "e4m3")
    problem = replace(U4, dtype=dtype)
    prepared = marlin.prepare(weight(), problem, lambda activation: functions)
    assert prepared.nbytes == N * K * bits // 8 + 2 * N * K // GROUP
    assert check(PEERS["marlin"], prepared, tokens()) < 3


def test_numbers_of_types_in_marlin():
    """8 bits of mantissa, a bias of 128 and NaNs of kind 1, though integers have none; 4 bits of
    exponent, 3 of mantissa, a sign, no infinities, NaNs of kind 2.
    """
    assert marlin.form_of("u8").number == 8 << 8 | 128 << 17 | 1 << 50
    assert marlin.form_of("e4m3").number == 4 | 3 << 8 | 1 << 16 | 1 << 49 | 2 << 50


def test_what_cutlass_is_given(monkeypatch):
    def shuffle(packed, scales):
        assert packed.dtype == torch.int8 and tuple(packed.shape) == (N, K // 2)
        assert scales.dtype == torch.bfloat16 and tuple(scales.shape) == (K // GROUP, N)
        return packed, scales

    def multiply(x, packed, scales, zeros):
        assert x.dtype == zeros.dtype == torch.bfloat16 and zeros.shape == scales.shape
        low, high = packed << 4 >> 4, packed >> 4  # arithmetic shifts of signed bytes
        codes = torch.stack([low, high], -1).reshape(N, K).float()
        spread = [part.float().T.repeat_interleave(GROUP, 1) for part in (scales, zeros)]
        return product(codes * spread[0] + spread[1], x)

    monkeypatch.setattr("benchmarks.peers.cutlass._operators", lambda: (shuffle, multiply))
    prepared = PEERS["cutlass"].prepare(weight(), replace(U4, activation="bfloat16"))
    assert check(PEERS["cutlass"], prepared, tokens(dtype=torch.bfloat16)) < 3


# ---- Triton --------------------------------------------------------------------------------------

triton_here = pytest.mark.skipif(
    installed.version_of("triton") is None, reason="triton is not installed"
)

INTERPRETED = """
import torch
from types import SimpleNamespace
from benchmarks.peers import Arithmetic, Prepared, check
from benchmarks.peers.codes import pack_words, round_weight
from benchmarks.peers.triton_w4a16 import BITS, Point, multiply

POINTS = [
    Point(16, 64, 128, 4, 2, True, 2), Point(32, 32, 64, 4, 2), Point(16, 32, 64, 4, 2, False, 4)
]
peer = SimpleNamespace(name="triton", arithmetic=Arithmetic(weights=1))
torch.manual_seed(0)
w = 0.05 * torch.randn(80, 640)
for bits in BITS:
    rounded = round_weight(w, f"u{bits}", 128)
    packed, scales = pack_words(rounded.codes.T, bits), rounded.scales.T.contiguous()
    for m, point in zip((5, 35, 1), POINTS):
        x = torch.randn(m, 640).half()
        run = lambda x: multiply(point, x, packed, scales, bits, 128)
        assert check(peer, Prepared(run, rounded.weight, 0), x) < 3
        print(bits, point)
"""


@triton_here
def test_the_triton_kernel_in_its_interpreter():
    """All widths; rows and columns beside the tiles, parts of k, of which one may be empty."""
    result = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == result.returncode, result.stderr
    assert 12 == len(result.stdout.splitlines())


@triton_here
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_the_triton_kernel_compiled_for_a_gpu_that_is_not_here(arch):
    from benchmarks.peers import triton_static, triton_w4a16
    from tilus.runtime.inspect import Inspection
    from tilus.target import target_from_name

    point = triton_w4a16.Point(16, 64, 128, 4, 3, scale_last=True)
    binary = triton_static.compiled(triton_w4a16, point, 4, target_from_name(arch))
    found = Inspection(binary, "B", reuse=1)
    assert found.weights == 64 * 128 / 128  # one step of a warp's lanes
    assert found.per_turn["matrix"] == 64 * 128 / (8 * 16) / 4
    assert 1 < found.per_weight["issue"] < 20
    used = triton_static.reported(binary)
    assert 32 < used.registers <= 255 and used.spill_stores == 0


@triton_here
def test_the_best_point_of_many_tokens(monkeypatch):
    """On Hopper, warps multiply in groups of four; tiles of 64 tokens unpack each weight twice."""
    from benchmarks.peers import triton_static, triton_w4a16

    tile = triton_w4a16.Point(64, 128, 64, 4, 3)
    monkeypatch.setattr(triton_w4a16, "POINTS", {64: (tile,)})
    found = triton_static.count(4, 128, "sm_90a")
    assert found["unpacked"] == 2 and found["tried"] == 1 and found["point"]["block_n"] == 128
    assert found["weights_per_turn"] == 64 * 128 / 128
    assert found["warps_per_sm"] == 4 * found["blocks_per_sm"] and found["spill_bytes"] == 0


@triton_here
def test_points_for_a_problem():
    from benchmarks.peers.triton_w4a16 import POINTS, bucket_of, points_for

    few = points_for(1, 8192, 8192, 128, 132)
    assert {point.split for point in few} == {1, 2, 4, 8, 16}
    assert {replace(point, split=1) for point in few} == set(POINTS[16])
    for point in few:
        assert point.blocks(1, 8192) * point.split >= 132
    assert all(128 % point.block_k == 0 for point in few)
    assert [16, 16, 32, 64, 128] == [bucket_of(m) for m in (1, 16, 17, 64, 4096)]
    assert {1} == {point.split for point in points_for(4096, 8192, 8192, 128, 132)}


def test_the_fastest_point_is_taken():
    from triton.runtime.errors import OutOfResources

    def too_large():
        raise OutOfResources(300000, 232448, "shared memory")

    called = []
    calls = {
        "slow": lambda: called.append("slow"),
        "large": too_large,
        "fast": lambda: called.append("fast"),
    }
    times = {"slow": 2.0, "fast": 1.0}
    assert "fast" == triton_peer.fastest(calls, lambda call: times[call() or called[-1]])
    with pytest.raises(TilusError, match="no point of the Triton kernel runs"):
        triton_peer.fastest({"large": too_large}, lambda call: 0.0)


def test_what_the_triton_kernel_is_given(monkeypatch):
    """On a recorded kernel: words along k, scales by group, and the point that was fastest."""

    def multiply(point, x, packed, scales, bits, group_size):
        assert packed.dtype == torch.int32 and tuple(packed.shape) == (K * bits // 32, N)
        shifts = torch.arange(32 // bits) * bits
        codes = (packed[:, None] >> shifts[None, :, None]).reshape(K, N) & ((1 << bits) - 1)
        values = codes.float() - (1 << (bits - 1))
        return product((values * scales.float().repeat_interleave(group_size, 0)).T, x)

    kernels = SimpleNamespace(
        multiply=multiply, bucket_of=lambda m: 16, points_for=lambda *problem: ["a", "b"]
    )
    monkeypatch.setattr(triton_peer, "_kernels", lambda: kernels)
    monkeypatch.setattr(triton_peer, "_fastest", {})
    monkeypatch.setattr(triton_peer, "graph_clock", lambda call: 1.0)
    properties = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    prepared = PEERS["triton"].prepare(weight(), U4)
    assert prepared.nbytes == N * K // 2 + 2 * N * K // GROUP
    assert check(PEERS["triton"], prepared, tokens()) < 3
    assert ["a"] == list(triton_peer._fastest.values())


# ---- make bench ----------------------------------------------------------------------------------


def test_an_update_renews_rows_and_leaves_others():
    def log(command, **rows):
        named = [{**asdict(Case(w, "float16", "sm_90a", 8)), "n": n} for w, n in rows.items()]
        return {
            "command": command,
            "commit": {},
            "versions": {},
            "rows": named,
            "traffic": [],
            "triton": named,
        }

    old = log("all", u1=1, u2=1)
    twice = log("part", u2=2, u3=2)
    found = static.updated(static.updated(old, twice), log("part", u2=3))
    numbers = {row["weight"]: row["n"] for row in found["rows"]}
    assert numbers == {"u1": 1, "u2": 3, "u3": 2}
    assert found["triton"] == found["rows"] and found["command"] == "all"
    assert ["part"] == [update["command"] for update in found["updates"]]


def test_compile_times_of_some_types_are_renewed():
    def log(command, **types):
        lean = {"8": {"total": 2.0}, "64": None}  # one that has no such kernel
        made = {
            name: {kind: {"total": s} for kind in ("uncached", "first", "on_disk")}
            | {"lean": {**lean, "64": {"total": s}} if name == "u1" else lean}
            for name, s in types.items()
        }
        facts = {"command": command, "commit": "", "machine": "", "versions": {}}
        return {**facts, "medians": {}, "import": [0.5], "types": made}

    found = compile_time.updated(log("all", u1=1.0, u2=3.0), log("part", u2=9.0))
    stages = {"uncached": 5.0, "first": 5.0, "on_disk": 5.0}
    assert found["medians"] == {**stages, "lean_8": 2.0, "lean_64": 1.0, "import": 0.5}
    assert found["command"] == "all" and found["updates"][0]["types"] == ["u2"]


def test_which_triton_kernels_are_counted():
    cases = [
        Case(weight, activation, arch, m)
        for weight in ("u3", "u4")
        for activation in ("float16", "bfloat16")
        for arch in ("sm_80", "sm_90a")
        for m in (1, 8, 32, 4096)
    ]
    assert triton_cases(cases) == [Case("u4", "float16", "sm_90a", m) for m in (16, 64)]


def test_ours_and_triton_side_by_side():
    def row(case, issue, **counts):
        slots = {"issue": issue, "alu": issue / 2}
        return {**asdict(case), "per_weight": slots, "registers": 100, "spill_bytes": 0, **counts}

    case = Case("u4", "float16", "sm_90a", 8)
    rows = static_tables.by_case([row(replace(case, m=m), 1.0, unpacked=1) for m in (8, 16, 256)])
    others = [row(replace(case, m=m), 6.0, unpacked=cdiv(m, 128), triton="3") for m in (16, 256)]
    log = {"triton": [*others, {**asdict(replace(case, m=64)), "missing": "no nvdisasm"}]}
    lines = static_tables.triton_section(rows, log, "sm_90a")
    assert "by Triton 3:" in lines[0]
    cells = [cell.strip() for cell in lines[2].splitlines()[-1].strip("|").split("|")]
    ours, triton = "1.00 / 0.50, 100", "6.00 / 3.00, 100"
    assert cells == ["u4", ours, triton, ours, triton, "-", "-", ours, "6.00 / 3.00 x2, 100"]
    assert [] == static_tables.triton_section(rows, {}, "sm_90a")


def test_what_bench_asks_for_is_known(monkeypatch):
    """Its arguments are those of the commands, and a step that fails does not stop the others."""
    asked = []
    monkeypatch.setattr(static, "main", lambda argv: asked.append(argv) or 0)
    assert 0 == bench.run_static(2)
    arguments = static.parse_arguments(asked[0])
    static.check(arguments)
    assert arguments.update and arguments.readme and arguments.m == bench.TOKENS
    known = [dtype.name for dtype in LOW_PRECISION]
    assert set(bench.COMPILED) <= set(known)


def test_a_step_that_fails(monkeypatch, capsys):
    ran = []
    steps = [
        (name, lambda jobs, name=name: ran.append((name, jobs)) or name == "b") for name in "abc"
    ]
    monkeypatch.setattr(bench, "STEPS", steps)
    assert 1 == bench.main(["--jobs", "3"])
    assert ran == [("a", 3), ("b", 3), ("c", 3)] and "failed: b" in capsys.readouterr().err
