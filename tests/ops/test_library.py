"""The operators torch knows: what `opcheck` demands, gradients, and compilation."""

from __future__ import annotations

import shutil

import pytest
import torch

import tilus
from tilus import TilusError
from tilus.dtypes import DataType
from tilus.nn import QuantizedLinear
from tilus.ops import NF4, matmul, quantize

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
