"""The operators torch knows: what `opcheck` demands, gradients, and compilation."""

from __future__ import annotations

import copy
import gc
import shutil
import weakref
from importlib import import_module

import pytest
import torch

import tilus
from tilus import TilusError
from tilus.dtypes import DataType
from tilus.nn import QuantizedLinear
from tilus.ops import NF4, QuantizedTensor, matmul, quantize
from tilus.ops.storage import forget_packed

matmul_module = import_module("tilus.ops.matmul")  # `tilus.ops.matmul` is the function

N, K = 24, 64


def operands(dtype: DataType = tilus.uint4b, symmetric: bool = True, m: int = 3, bias: bool = True):
    generator = torch.Generator().manual_seed(0)
    weight = quantize(torch.randn(N, K, generator=generator), dtype, 32, symmetric)
    x = torch.randn(m, K, generator=generator).half()
    return x, weight, torch.randn(N, generator=generator) if bias else None


def arguments(x, weight, bias):
    description = (weight.dtype.name, weight.shape, weight.group_size, weight.zero)
    return (x, weight.data, weight.scales, weight.zeros, bias, *description)


CASES = [
    operands(),
    operands(tilus.int3b, symmetric=False),
    operands(tilus.float6_e3m2, bias=False),
    operands(NF4, m=0),
]


@pytest.mark.parametrize("case", CASES, ids=["u4", "i3 zeros", "e3m2", "NF4 M=0"])
def test_opcheck(case):
    x, weight, bias = case
    plain = arguments(x, weight, bias)
    torch.library.opcheck(torch.ops.tilus.matmul.default, plain)
    torch.library.opcheck(torch.ops.tilus.matmul.default, (*plain, torch.float32))
    out = torch.empty(len(x), N)
    torch.library.opcheck(torch.ops.tilus.matmul.out, plain, {"out": out})
    parts = plain[1:4] + plain[5:]
    torch.library.opcheck(torch.ops.tilus.dequantize.default, (*parts, torch.float16))


@pytest.mark.parametrize("out_dtype", [None, torch.float32], ids=str)
def test_opcheck_with_gradients(out_dtype: torch.dtype | None):
    x, weight, bias = operands()
    assert bias is not None
    plain = arguments(x.requires_grad_(), weight, bias.requires_grad_())
    torch.library.opcheck(torch.ops.tilus.matmul.default, (*plain, out_dtype))


@pytest.mark.parametrize("leading", [(), (5,), (2, 3)], ids=str)
def test_gradients_are_those_of_the_dequantised_weight(leading: tuple[int, ...]):
    _, weight, bias = operands(tilus.uint4b, symmetric=False)
    assert bias is not None
    x = torch.randn(*leading, K)
    ours, theirs = ([t.clone().requires_grad_() for t in (x, bias)] for _ in range(2))
    seed = torch.randn(*leading, N)
    matmul(ours[0], weight, bias=ours[1]).backward(seed)
    torch.nn.functional.linear(theirs[0], weight.dequantize(), theirs[1]).backward(seed)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_gradients_have_the_dtype_of_their_operands():
    x, weight, bias = operands()
    assert bias is not None
    x, bias = x.requires_grad_(), bias.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        matmul(x, weight, bias=bias).sum().backward()
    assert x.grad is not None and bias.grad is not None
    assert (torch.float16, torch.bfloat16) == (x.grad.dtype, bias.grad.dtype)
    expected = torch.ones(3, N) @ weight.dequantize()
    assert torch.equal(expected.half(), x.grad)


@pytest.fixture
def compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counter:
    """A backend that counts the graphs it is given."""

    def __init__(self):
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph, inputs):
        self.graphs.append(graph)
        return graph.forward


@pytest.mark.usefixtures("compiled")
def test_one_graph_serves_every_m_above_one():
    """torch specialises M = 1, and for the rest M is a symbol."""
    _, weight, bias = operands()
    counter = Counter()
    function = torch.compile(
        lambda x: matmul(x, weight, bias=bias) + 1, fullgraph=True, dynamic=True, backend=counter
    )
    for m in (5, 2, 64, 33):
        x = torch.randn(m, K).half()
        assert torch.equal(matmul(x, weight, bias=bias) + 1, function(x))
    assert 1 == len(counter.graphs)
    assert ["tilus.matmul.default"] == [
        str(node.target) for node in counter.graphs[0].graph.nodes if "tilus" in str(node.target)
    ]


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("engine", ["auto", "interpreter"])
@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=pytest.mark.skipif(
                shutil.which("g++") is None, reason="inductor needs a C++ compiler for the CPU"
            ),
        ),
    ],
)
def test_a_compiled_module_multiplies_and_differentiates(backend: str, engine: str):
    x, weight, bias = operands()
    layer = QuantizedLinear.from_quantized(weight, bias)
    function = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    with tilus.option.context(engine=engine):
        for m in (1, 4, 7, 0):
            x = torch.randn(m, K).half()
            with torch.no_grad():
                assert torch.equal(layer(x), function(x))
        ours, theirs = (x.new_ones(2, K).requires_grad_() for _ in range(2))
        function(ours).sum().backward()
        layer(theirs).sum().backward()
    assert ours.grad is not None
    assert torch.equal(theirs.grad, ours.grad)


@pytest.mark.usefixtures("compiled")
def test_the_out_form_compiles():
    x, weight, bias = operands()
    out = torch.zeros(3, N)
    function = torch.compile(
        lambda x, out: matmul(x, weight, bias=bias, out=out), fullgraph=True, backend="aot_eager"
    )
    with torch.no_grad():
        function(x, out)
    assert torch.equal(matmul(x, weight, bias=bias, out_dtype=torch.float32), out)


@pytest.mark.usefixtures("compiled")
def test_a_compiled_module_sees_new_weights():
    """Loading writes to the memory that packed forms came from."""
    x, weight, _ = operands()
    layer = QuantizedLinear.from_quantized(weight)
    other = QuantizedLinear.from_quantized(quantize(torch.randn(N, K), tilus.uint4b, 32))
    function = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with tilus.option.context(engine="interpreter"), torch.no_grad():
        before = function(x)
        layer.load_state_dict(other.state_dict())
        after = function(x)
        assert not torch.equal(before, after)
        assert torch.equal(other(x), after)


def test_parts_that_do_not_fit_are_refused():
    x, weight, bias = operands()
    plain = list(arguments(x, weight, bias))
    for engine in ("auto", "interpreter"):
        with tilus.option.context(engine=engine):
            with pytest.raises(TilusError, match="not those of uint5b"):
                torch.ops.tilus.matmul(*plain[:5], "uint5b", *plain[6:])
            with pytest.raises(TilusError, match="scales have another shape"):
                torch.ops.tilus.matmul(*plain[:7], 16, 8.0)


def test_the_fake_kernel_checks_too():
    x, weight, bias = (None if t is None else t.to("meta") for t in operands())
    assert torch.ops.tilus.matmul(*arguments(x, weight, bias)).shape == (3, N)
    with pytest.raises(TilusError, match="last extent"):
        torch.ops.tilus.matmul(*arguments(x[:, 1:], weight, bias))


# ---- calls that are ready ------------------------------------------------------------------------


@pytest.fixture
def kernel():
    """The kernel runs, and what was made ready for it is used again."""
    with tilus.option.context(engine="interpreter"):
        yield


def fresh(x, weight, bias=None, out_dtype=None):
    """The result with a copy of the weight, of which nothing is known."""
    return matmul(x, copy.deepcopy(weight), bias=bias, out_dtype=out_dtype)


@pytest.mark.usefixtures("kernel")
def test_a_call_is_made_once_for_a_range_of_tokens(monkeypatch):
    x, weight, bias = operands(m=20)
    made = []
    product_of = matmul_module.product_of
    monkeypatch.setattr(
        matmul_module, "product_of", lambda *args: made.append(args) or product_of(*args)
    )
    for m in (1, 7, 8, 5, 9, 16, 2, 17, 20):
        assert torch.equal(fresh(x[:m], weight, bias), matmul(x[:m], weight, bias=bias))
    copies = 9
    assert 3 + copies == len(made) and 3 == len(weight.calls)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("shape", [(4,), (1, 4), (2, 3), (2, 1, 3), ()], ids=str)
def test_a_ready_call_takes_any_shape(shape: tuple[int, ...]):
    x, weight, bias = operands()
    matmul(x, weight, bias=bias)
    x = torch.randn(*shape, K).half()
    expected = fresh(x, weight, bias)
    assert expected.shape == (*shape, N)
    for _ in range(2):
        assert torch.equal(expected, matmul(x, weight, bias=bias))
        out = torch.empty(*shape, N).half()
        assert matmul(x, weight, bias=bias, out=out) is out and torch.equal(expected, out)


@pytest.mark.usefixtures("kernel")
def test_a_ready_call_is_for_its_dtypes():
    x, weight, bias = operands()
    assert bias is not None
    for _ in range(2):
        for a in (x, x.bfloat16()):
            for b in (None, bias, bias.half()):
                for out_dtype in (torch.float16, torch.float32):
                    y = matmul(a, weight, bias=b, out_dtype=out_dtype)
                    assert y.dtype == out_dtype
                    assert torch.equal(fresh(a, weight, b, out_dtype), y)
    assert 2 * 3 * 2 == len(weight.calls)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("which", ["x", "bias", "out"])
def test_operands_that_are_not_aligned(which: str):
    """They begin 2 bytes behind a multiple of 16, before and after aligned ones were seen."""
    x, weight, bias = operands()
    assert bias is not None
    tensors = {"x": x, "bias": bias.half(), "out": torch.empty(3, N).half()}
    expected = fresh(tensors["x"], weight, tensors["bias"])
    moved = torch.empty(tensors[which].numel() + 1, dtype=torch.float16)[1:]
    shifted = {**tensors, which: moved.view(tensors[which].shape).copy_(tensors[which])}
    for each in (shifted, tensors, shifted, tensors):
        each["out"].zero_()
        matmul(each["x"], weight, bias=each["bias"], out=each["out"])
        assert torch.equal(expected, each["out"])


@pytest.mark.usefixtures("kernel")
def test_operands_that_are_not_contiguous():
    x, weight, bias = operands()
    assert bias is not None
    expected = matmul(x, weight, bias=bias)
    for _ in range(2):
        spread = torch.stack([x, x], -1)[..., 0]
        assert torch.equal(expected, matmul(spread, weight, bias=bias))
        assert torch.equal(expected, matmul(x, weight, bias=torch.stack([bias, bias], -1)[:, 0]))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("part", ["data", "scales", "zeros"])
@pytest.mark.parametrize("way", ["written to", "replaced in the tensor", "replaced in the weight"])
def test_a_ready_call_never_uses_an_old_weight(part: str, way: str):
    x, weight, _ = operands(tilus.uint4b, symmetric=False)
    before = matmul(x, weight)
    for step in range(4):  # memory that is let go is given out again
        tensor = getattr(weight, part)
        new = tensor + 17 if part == "data" else tensor * (step + 2)
        if way == "written to":
            tensor.copy_(new)
        elif way == "replaced in the tensor":
            tensor.data = new
        else:
            setattr(weight, part, new)
        del tensor, new
        after = matmul(x, weight)
        assert not torch.equal(before, after)
        assert torch.equal(fresh(x, weight), after)
        before = after


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("part", ["codes", "scales", "zeros"])
def test_another_weight_in_the_memory_of_one_that_is_gone(part: str):
    """As an allocator does that gives out memory again: torch counts no write to it."""
    x, weight, _ = operands(tilus.uint4b, symmetric=False)
    parts = weight.tensors()
    memory = bytearray(parts[part].numpy().tobytes())
    results = []
    for step in range(3):
        values = torch.frombuffer(memory, dtype=parts[part].dtype).view(parts[part].shape)
        values.numpy()[...] = values.numpy() + step  # by way of NumPy
        assert 0 == values._version
        meaning = weight.dtype, weight.shape, weight.group_size
        placed = QuantizedTensor.from_tensors(*meaning, {**parts, part: values})
        results.append(matmul(x, placed))
        assert torch.equal(fresh(x, placed), results[-1])
        del values, placed
    assert not torch.equal(results[0], results[1]) and not torch.equal(results[1], results[2])


@pytest.mark.usefixtures("kernel")
def test_the_meaning_of_codes_is_compared_at_every_call():
    x, weight, _ = operands()
    plain = arguments(x, weight, None)
    operator = torch.ops.tilus.matmul
    first = operator(*plain)
    shifted = operator(*plain[:8], 7.0)
    signed = operator(*plain[:5], "int4b", *plain[6:8], 0.0)
    for _ in range(2):
        assert torch.equal(first, operator(*plain))
        assert torch.equal(shifted, operator(*plain[:8], 7.0))
        assert torch.equal(signed, operator(*plain[:5], "int4b", *plain[6:8], 0.0))
    assert not torch.equal(first, shifted) and not torch.equal(first, signed)
    with pytest.raises(TilusError, match="not those of uint5b"):
        operator(*plain[:5], "uint5b", *plain[6:])


def test_the_engine_is_asked_for_at_every_call():
    x, weight, bias = operands()
    exact = matmul(x, weight, bias=bias, out_dtype=torch.float32)
    with tilus.option.context(engine="interpreter"):
        matmul(x, weight, bias=bias, out_dtype=torch.float32)
    with tilus.option.context(engine="cuda"), pytest.raises(TilusError, match="on CUDA tensors"):
        matmul(x, weight, bias=bias, out_dtype=torch.float32)
    assert torch.equal(exact, matmul(x, weight, bias=bias, out_dtype=torch.float32))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w, b: matmul(x[:, 1:], w, bias=b), "last extent"),
        (lambda x, w, b: matmul(x[0, 0], w, bias=b), "last extent"),
        (lambda x, w, b: matmul(x.reshape(-1, K // 2), w, bias=b), "last extent"),
        (lambda x, w, b: matmul(x.float(), w, bias=b), "activations are of a dtype"),
        (lambda x, w, b: matmul(x, w, bias=b[1:]), "bias does not fit"),
        (lambda x, w, b: matmul(x, w, bias=b.reshape(N, 1)), "bias does not fit"),
        (lambda x, w, b: matmul(x, w, bias=b.double()), "bias does not fit"),
        (lambda x, w, b: matmul(x, w, bias=b, out_dtype=torch.int32), "result is of a dtype"),
        (lambda x, w, b: matmul(x, w, bias=b, out=torch.empty(4, N).half()), "out does not fit"),
        (lambda x, w, b: matmul(x, w, bias=b, out=torch.empty(3 * N).half()), "out does not fit"),
        (lambda x, w, b: matmul(x, w, bias=b, out=torch.empty(N, 3).half().T), "out does not fit"),
    ],
)
def test_bad_input_is_named_after_good_input(call, message: str):
    x, weight, bias = operands()
    matmul(x, weight, bias=bias)
    with pytest.raises(TilusError, match=message):
        call(x, weight, bias)


@pytest.mark.usefixtures("kernel")
def test_ready_calls_go_with_the_weight():
    x, weight, bias = operands()
    matmul(x, weight, bias=bias)
    (call,) = weight.calls.values()
    gone = weakref.ref(call)
    del call, weight
    gc.collect()
    assert gone() is None


@pytest.mark.usefixtures("kernel")
def test_inference_tensors_are_forgotten_where_that_is_asked_for():
    with torch.inference_mode():
        x, weight, _ = operands()
        before = matmul(x, weight)
        weight.data.bitwise_xor_(255)
        forget_packed(weight.data)
        after = matmul(x, weight)
        assert not torch.equal(before, after) and torch.equal(fresh(x, weight), after)
