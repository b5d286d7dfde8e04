"""Host tensors: storage, casting, views of memory and the mistakes a caller can make."""

import numpy as np
import pytest
import torch

from tilus import dtypes, tensor
from tilus.dtypes import ALL_DTYPES, LOW_PRECISION, codebook, float_, storage_nbytes, ufloat8_e8m0
from tilus.errors import TilusError
from tilus.tensor import Tensor, from_torch, view_torch

TORCH_DTYPES = {
    torch.int8: dtypes.int8, torch.int16: dtypes.int16, torch.int32: dtypes.int32,
    torch.int64: dtypes.int64, torch.uint8: dtypes.uint8, torch.uint16: dtypes.uint16,
    torch.uint32: dtypes.uint32, torch.uint64: dtypes.uint64, torch.bool: dtypes.boolean,
    torch.float16: dtypes.float16, torch.bfloat16: dtypes.bfloat16, torch.float32: dtypes.float32,
    torch.float64: dtypes.float64, torch.float8_e4m3fn: dtypes.float8_e4m3,
    torch.float8_e5m2: dtypes.float8_e5m2, torch.float8_e8m0fnu: dtypes.ufloat8_e8m0,
}  # fmt: skip
CODEBOOK = codebook(3, [-4, -2, -1, 0, 1, 2, 4, 8])
UNUSUAL = [float_(3, 4), CODEBOOK]  # 8 bits that torch does not know, and a codebook


# dtypes of torch


@pytest.mark.parametrize("torch_dtype", TORCH_DTYPES, ids=str)
def test_torch_dtypes_map_both_ways(torch_dtype):
    assert TORCH_DTYPES[torch_dtype] == tensor.dtype_from_torch(torch_dtype)
    assert torch_dtype == tensor.dtype_to_torch(TORCH_DTYPES[torch_dtype])


def test_tfloat32_and_pointers_are_held_by_wider_types():
    assert torch.float32 == tensor.dtype_to_torch(dtypes.tfloat32)
    assert torch.int64 == tensor.dtype_to_torch(~dtypes.float16)


def test_dtypes_without_counterpart():
    with pytest.raises(TilusError, match="torch has no dtype for int4b"):
        tensor.dtype_to_torch(dtypes.int4b)
    with pytest.raises(TilusError, match=r"no data type corresponds to torch.complex64"):
        from_torch(torch.zeros(2, dtype=torch.complex64))


@pytest.mark.parametrize("torch_dtype", TORCH_DTYPES, ids=str)
def test_from_torch_shares_memory_and_keeps_values(torch_dtype):
    source = torch.tensor([[1, 2, 0], [1, 1, 4]]).to(torch_dtype)
    made = from_torch(source)
    assert (2, 3) == made.shape
    assert 6 == made.numel
    assert source.data_ptr() == made.data_ptr()
    numbers = made.dtype.decode(made.numpy_carrier()).astype(np.float64)
    np.testing.assert_array_equal(source.to(torch.float32).numpy(), numbers)
    assert made.torch() is made.storage


def test_a_tensor_with_gradient_is_detached():
    assert not from_torch(torch.zeros(2, requires_grad=True)).torch().requires_grad


# Storage and carriers


@pytest.mark.parametrize("dtype", [*ALL_DTYPES, *UNUSUAL], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 7), (2, 0, 3)], ids=str)
def test_carrier_round_trip(dtype, shape):
    bits = np.random.default_rng(0).integers(0, 2, shape).astype(f"u{dtype.carrier.itemsize}")
    made = tensor.from_carrier(dtype.from_bits(bits), dtype)
    assert shape == made.shape
    assert storage_nbytes(dtype, bits.size) == made.storage.numel() * made.storage.itemsize
    np.testing.assert_array_equal(bits, dtype.to_bits(made.numpy_carrier()))


def test_sub_byte_storage_is_a_little_endian_bit_stream():
    made = tensor.from_carrier(np.array([[1, 2], [3, 4]], np.uint8), dtypes.uint3b)
    stream = 1 | 2 << 3 | 3 << 6 | 4 << 9
    assert list(stream.to_bytes(2, "little")) == made.storage.tolist()
    assert (torch.uint8, "Tensor(uint3b[2, 2], device=cpu)") == (made.storage.dtype, repr(made))


def test_numpy_carrier_is_a_copy():
    made = tensor.zeros([2], dtypes.int8)
    made.numpy_carrier()[:] = 1
    assert [0, 0] == made.torch().tolist()


# Casting


@pytest.mark.parametrize("dtype", [*LOW_PRECISION, *UNUSUAL], ids=str)
def test_to_and_back_rounds_as_the_dtype_does(dtype):
    source = torch.linspace(-9, 9, 101)
    back = from_torch(source).to(dtype).to(dtypes.float32)
    np.testing.assert_array_equal(dtype.decode(dtype.encode(source.numpy())), back.torch().numpy())


@pytest.mark.parametrize("torch_dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_to_equals_torch_for_wide_floats(torch_dtype):
    source = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 1e6
    actual = from_torch(source).to(TORCH_DTYPES[torch_dtype]).torch()
    torch.testing.assert_close(source.to(torch_dtype), actual, rtol=0, atol=0)


def test_to_the_same_dtype_is_the_tensor_itself():
    made = tensor.ones([2], dtypes.int4b)
    assert made.to(dtypes.int4b) is made


def test_clone_has_memory_of_its_own():
    made = tensor.zeros([4], dtypes.uint2b)
    copy = made.clone()
    made.storage.fill_(0xFF)
    assert [0] * 4 == copy.to(dtypes.int32).torch().tolist()


def test_torch_of_a_sub_byte_tensor_says_what_to_do():
    with pytest.raises(TilusError, match="torch has no dtype for uint3b") as caught:
        tensor.zeros([2], dtypes.uint3b).torch()
    assert ".storage" in caught.value.hint


# Views


def test_view_shares_memory_and_packs_and_unpacks_extents():
    source = torch.arange(16, dtype=torch.uint8)
    nibbles = from_torch(source).view(dtype=dtypes.uint4b)
    assert (32,) == nibbles.shape
    expected = [half for k in range(16) for half in (k % 16, k // 16)]
    assert expected == nibbles.to(dtypes.int32).torch().tolist()
    words = nibbles.view(dtype=dtypes.int32, shape=[2, -1])
    assert (2, 2) == words.shape
    assert source.data_ptr() == words.data_ptr()
    assert source.view(torch.int32).tolist() == words.torch().reshape(-1).tolist()


def test_view_changes_the_shape_alone():
    made = tensor.zeros([3, 5], dtypes.int3b)
    assert (15,) == made.view(shape=-1).shape
    assert (5, 3) == made.view(shape=[5, 3]).shape
    assert (5,) == tensor.zeros([5]).view(dtype=dtypes.int32).shape


def test_the_last_byte_may_have_bits_left_over():
    source = torch.tensor([0b01_000_001, 0b0_000_111_0], dtype=torch.uint8)
    made = view_torch(source, dtype=dtypes.uint3b, shape=[5])
    assert [1, 0, 1, 7, 0] == made.to(dtypes.int32).torch().tolist()
    assert source.tolist() == made.view(dtype=dtypes.uint8, shape=[2]).torch().tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tensor.zeros([3]).view(shape=[2]), r"float32\[2\] does not fill this memory"),
        (lambda: tensor.zeros([3], dtypes.uint4b).view(shape=[4]), "does not fill this memory"),
        (lambda: tensor.zeros([3], dtypes.uint8).view(dtype=dtypes.int16), "has no view as int16"),
        (lambda: tensor.zeros([]).view(dtype=dtypes.int8), "has no view as int8"),
        (lambda: tensor.zeros([4]).view(shape=[-1, 3]), "does not fill this memory"),
        (lambda: tensor.zeros([4]).view(shape=[-1, -1]), "not negative"),
        (lambda: tensor.zeros([4]).view(shape=[-1, 0]), "does not fill this memory"),
        (
            lambda: view_torch(torch.zeros(9, dtype=torch.uint8)[1:], dtype=dtypes.int16, shape=4),
            "not aligned to int16",
        ),
        (
            lambda: view_torch(torch.zeros(3, 4).T, dtype=dtypes.int8, shape=48),
            "not contiguous",
        ),
        (lambda: from_torch(torch.zeros(3, 4)[:, :2]), "not contiguous"),
    ],
)
def test_views_that_are_refused(make, message):
    with pytest.raises(TilusError, match=message):
        make()


@pytest.mark.parametrize(
    ("dtype", "shape", "storage"),
    [
        (dtypes.int4b, (3,), torch.zeros(3, dtype=torch.uint8)),
        (dtypes.int4b, (2,), torch.zeros(1, dtype=torch.int8)),
        (dtypes.float16, (2,), torch.zeros(2)),
        (dtypes.float32, (2, 3), torch.zeros(6)),
    ],
    ids=str,
)
def test_storage_of_another_form_is_refused(dtype, shape, storage):
    with pytest.raises(TilusError, match="this storage does not hold") as caught:
        Tensor(dtype, shape, storage)
    assert "view_torch" in caught.value.hint


# Making tensors


@pytest.mark.parametrize("dtype", [*LOW_PRECISION, dtypes.bfloat16, dtypes.boolean], ids=str)
def test_zeros_ones_and_full(dtype):
    assert {0.0} == set(tensor.zeros([2, 3], dtype).to(dtypes.float32).torch().flatten().tolist())
    if dtype != dtypes.int1b:
        assert [1.0] * 3 == tensor.ones(3, dtype).to(dtypes.float32).torch().tolist()
    filled = tensor.full([2], dtype.min_value, dtype)
    assert [float(dtype.min_value)] * 2 == filled.to(dtypes.float32).torch().tolist()


@pytest.mark.parametrize("dtype", [dtypes.int4b, dtypes.float16, ufloat8_e8m0], ids=str)
def test_empty_has_the_storage(dtype):
    made = tensor.empty([2, 3], dtype)
    assert (2, 3) == made.shape
    assert storage_nbytes(dtype, 6) == made.storage.numel() * made.storage.itemsize


def test_random_tensors_come_from_the_generator_of_torch():
    torch.manual_seed(7)
    uniform, normal = tensor.rand([100]).torch(), tensor.randn([100]).torch()
    integers = tensor.randint(-3, 3, [100], dtypes.int3b)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(100), uniform)
    assert torch.equal(torch.randn(100), normal)
    assert torch.randint(-3, 3, [100]).tolist() == integers.to(dtypes.int32).torch().tolist()


def test_random_floats_are_rounded_to_the_dtype():
    numbers = tensor.randn([500], dtypes.float4_e2m1).to(dtypes.float32).torch()
    magnitudes = {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0}
    assert set(numbers.abs().tolist()) <= magnitudes
    assert len(numbers.unique()) > 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tensor.zeros([2, -1]), "not negative"),
        (lambda: tensor.zeros([2.5]), "a shape is a list of integers"),
        (lambda: tensor.zeros(2.5), "a shape is a list of integers"),
        (lambda: tensor.full([2], 8, dtypes.int4b), "out of range of int4b"),
        (lambda: tensor.ones([2], dtypes.int1b), "out of range of int1b"),
        (lambda: tensor.zeros([2], ufloat8_e8m0), "out of range of ufloat8_e8m0"),
        (lambda: tensor.rand([2], dtypes.int4b), "rand makes floats, not int4b"),
        (lambda: tensor.randn([2], dtypes.uint8), "randn makes floats, not uint8"),
        (lambda: tensor.randint(3, 3, [2]), "no integer to draw"),
        (lambda: tensor.randint(0, 2**63, [2], dtypes.uint64), "out of range of int64"),
        (lambda: tensor.randint(0, 9, [2], dtypes.uint3b), "out of range of uint3b"),
        (lambda: tensor.randint(0, 18, [2], dtypes.float4_e2m1), "out of range of float4_e2m1"),
        (lambda: tensor.randint(0, 6, [2], dtypes.float4_e2m1), "cannot represent 5"),
        (lambda: tensor.from_carrier(np.zeros(2), dtypes.int4b), "does not hold int4b"),
    ],
)
def test_tensors_that_cannot_be_made(make, message):
    with pytest.raises(TilusError, match=message):
        make()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [dtypes.int4b, dtypes.float6_e3m2, dtypes.bfloat16], ids=str)
def test_tensors_on_the_gpu(dtype):
    source = torch.arange(-7, 7, device="cuda").to(torch.float32)
    made = from_torch(source).to(dtype)
    assert "cuda" == made.device.type == made.storage.device.type
    expected = dtype.decode(dtype.encode(source.cpu().numpy()))
    np.testing.assert_array_equal(expected, made.to(dtypes.float32).torch().cpu().numpy())
