"""QuantizedLinear and quantize_model, on a random llama-like model of 2 layers."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import tilus
from tilus import TilusError
from tilus.nn import QuantizedLinear, quantize_model, warmup
from tilus.ops import NF4, QuantizedTensor, matmul, quantize
from tilus.runtime import launch

HIDDEN, KV, INNER, HEADS, VOCABULARY = 576, 192, 320, 9, 50  # K = 576 and N = 192 as in SmolLM2


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.RMSNorm(HIDDEN), nn.RMSNorm(HIDDEN)])
        self.q_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.k_proj = nn.Linear(HIDDEN, KV, bias=False)
        self.v_proj = nn.Linear(HIDDEN, KV, bias=True)
        self.o_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.gate_proj = nn.Linear(HIDDEN, INNER, bias=False)
        self.up_proj = nn.Linear(HIDDEN, INNER, bias=False)
        self.down_proj = nn.Linear(INNER, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norms[0](x)
        q, k, v = (
            projection(y).unflatten(-1, (-1, HIDDEN // HEADS)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        k, v = (t.repeat_interleave(HIDDEN // KV, 1) for t in (k, v))
        attention = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o_proj(attention.transpose(1, 2).flatten(2))
        y = self.norms[1](x)
        return x + self.down_proj(nn.functional.silu(self.gate_proj(y)) * self.up_proj(y))


class TinyLlama(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed_tokens = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList([Block(), Block()])
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        self.lm_head.weight = self.embed_tokens.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(x)


TOKENS = torch.arange(12).reshape(2, 6)


def make_layer(dtype=tilus.uint4b, bias: bool = True, **options) -> QuantizedLinear:
    torch.manual_seed(0)
    return QuantizedLinear.from_linear(nn.Linear(96, 40, bias=bias), dtype, 32, **options)


def round_trip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# ---- the layer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_layer_multiplies_by_its_rounded_weight(dtype: torch.dtype):
    linear = nn.Linear(96, 40)
    layer = QuantizedLinear.from_linear(linear, tilus.uint3b, 32, symmetric=False, method="mse")
    weight = quantize(linear.weight, tilus.uint3b, 32, False, "mse")
    assert weight.equal(layer.weight) and layer.bias is linear.bias
    x = torch.randn(2, 5, 96).to(dtype)
    assert torch.equal(matmul(x, weight, bias=linear.bias), layer(x))


def test_a_layer_learns_its_bias_and_passes_gradients_on():
    layer = make_layer()
    x = torch.randn(3, 96, requires_grad=True)
    layer(x).sum().backward()
    assert layer.bias is not None and x.grad is not None
    assert [3.0] * 40 == layer.bias.grad.tolist()
    torch.testing.assert_close(x.grad, torch.ones(3, 40) @ layer.weight.dequantize())
    assert ["bias"] == [name for name, _ in layer.named_parameters()]


@pytest.mark.parametrize("save", ["torch", "safetensors"])
@pytest.mark.parametrize(
    ("dtype", "symmetric"),
    [(tilus.uint4b, True), (tilus.int3b, False), (tilus.float8_e4m3, True), (NF4, True)],
    ids=["u4", "i3 zeros", "e4m3", "NF4"],
)
def test_state_dicts_round_trip(tmp_path: Path, save: str, dtype, symmetric: bool):
    layer = make_layer(dtype, symmetric=symmetric)
    other = QuantizedLinear(96, 40, dtype, 32, zeros=layer.zeros is not None, zero=layer.zero)
    if save == "torch":
        state = round_trip(layer.state_dict())
    else:
        save_file(layer.state_dict(), tmp_path / "state.safetensors")
        state = load_file(tmp_path / "state.safetensors")
    other.load_state_dict(state)
    assert layer.weight.equal(other.weight)
    x = torch.randn(3, 96)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), other(x), rtol=0, atol=1e-3)  # bias is float16 there


def test_loading_by_assignment_into_a_layer_without_memory():
    layer = make_layer()
    other = QuantizedLinear(96, 40, tilus.uint4b, 32, zero=8.0, device="meta")
    other.load_state_dict(layer.state_dict(), assign=True)
    assert layer.weight.equal(other.weight)


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (lambda: QuantizedLinear(96, 40, tilus.int4b, 32), "int4b"),
        (lambda: QuantizedLinear(96, 40, tilus.uint4b, 32, zero=7.0), "7.0"),
        (lambda: QuantizedLinear(96, 40, tilus.uint4b, 32, zeros=True), "per group"),
        (lambda: QuantizedLinear(96, 40, tilus.uint4b, 96, zero=8.0), '"group_size": 96'),
    ],
)
def test_the_state_of_another_type_is_refused(other, word: str):
    with pytest.raises(TilusError, match="that of another quantised layer") as info:
        other().load_state_dict(make_layer().state_dict())
    assert word in str(info.value) and "uint4b" in str(info.value)


def test_a_damaged_state_is_refused():
    layer = make_layer()
    state = {**layer.state_dict(), "_extra_state": torch.tensor([1, 2], dtype=torch.uint8)}
    with pytest.raises(TilusError, match="is damaged"):
        layer.load_state_dict(state)


@pytest.mark.parametrize("dtype", [tilus.uint4b, tilus.float8_e4m3, tilus.int8], ids=str)
def test_converting_a_model_leaves_the_weight_alone(dtype):
    layer = make_layer(dtype)
    before = copy.deepcopy(layer.weight)
    for convert in (layer.bfloat16, layer.half, layer.float, layer.double):
        convert()
        assert before.equal(layer.weight)
    assert layer.bias is not None and torch.float64 == layer.bias.dtype
    assert before.equal(layer.to("cpu", torch.float16).weight)
    moved = layer.to("meta", torch.bfloat16)
    assert {"meta"} == {tensor.device.type for tensor in moved.weight.tensors().values()}
    assert torch.float16 == moved.scales.dtype


def test_converting_to_float64_is_an_error_when_it_multiplies():
    with pytest.raises(TilusError, match="activations are of a dtype") as info:
        make_layer()(torch.randn(2, 96).double())
    assert "float64" in str(info.value)
    with pytest.raises(TilusError, match="bias does not fit") as info:
        make_layer().double()(torch.randn(2, 96))
    assert "float64" in str(info.value)


@pytest.mark.parametrize("inference", [False, True], ids=["normal", "inference tensors"])
def test_a_loaded_layer_multiplies_by_its_new_weight(inference: bool):
    """Also in inference mode, where torch does not count writes to a tensor."""
    with torch.inference_mode(inference), tilus.option.context(engine="interpreter"):
        layer = copy.deepcopy(make_layer())
        other = QuantizedLinear.from_quantized(
            quantize(torch.randn(40, 96), tilus.uint4b, 32), layer.bias
        )
        x = torch.randn(2, 96).half()
        before = layer(x)
        layer.load_state_dict(other.state_dict())
        assert not torch.equal(before, layer(x))
        assert torch.equal(other(x), layer(x))


def test_a_deep_copy_is_independent():
    layer = make_layer()
    x = torch.randn(2, 96).half()
    with tilus.option.context(engine="interpreter"), torch.no_grad():
        before = layer(x)
        twin = copy.deepcopy(layer)
        twin.codes.zero_()
        assert torch.equal(before, layer(x)) and not torch.equal(before, twin(x))


def test_it_prints_what_it_is():
    expected = (
        "QuantizedLinear(in_features=96, out_features=40, bias=False, dtype=uint4b, "
        "group_size=32, zero=8)"
    )
    assert expected == repr(make_layer(bias=False))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: QuantizedLinear.from_linear(nn.ReLU(), tilus.uint4b), ["ReLU", "nn.Linear"]),
        (lambda: QuantizedLinear(100, 8, tilus.uint4b, 64), ["K = 100"]),
        (lambda: QuantizedLinear(64, 8, tilus.float16, 64), ["1 to 8 bits"]),
        (
            lambda: QuantizedLinear(64, 8, tilus.uint4b, 64, scale_dtype=torch.float64),
            ["dtype that kernels do not read", "float64"],
        ),
    ],
)
def test_bad_layers_are_named(call, words: list[str]):
    with pytest.raises(TilusError) as info:
        call()
    for word in words:
        assert word in str(info.value)


# ---- the model -----------------------------------------------------------------------------------


@torch.no_grad()
def fake_quantised(model: nn.Module, report, symmetric: bool) -> nn.Module:
    """The model with dequantised weights in ordinary layers."""
    twin = copy.deepcopy(model)
    for layer in report.layers:
        linear = twin.get_submodule(layer.name)
        rounded = quantize(linear.weight, layer.dtype, layer.group_size, symmetric)
        linear.weight.copy_(rounded.dequantize())
    return twin


@pytest.mark.parametrize(
    ("dtype", "symmetric"),
    [(tilus.uint4b, False), (tilus.int3b, True), (tilus.float6_e3m2, True), (NF4, True)],
    ids=["u4 zeros", "i3", "e3m2", "NF4"],
)
def test_a_model_computes_with_its_rounded_weights(dtype, symmetric: bool):
    model = TinyLlama()
    original = copy.deepcopy(model)
    report = quantize_model(model, dtype, group_size=64, symmetric=symmetric, progress=False)
    assert 14 == len(report.layers)
    expected = fake_quantised(original, report, symmetric)(TOKENS)
    torch.testing.assert_close(model(TOKENS), expected, rtol=1e-4, atol=1e-4)
    assert (model(TOKENS) - original(TOKENS)).abs().max() > 1e-2


def test_a_model_runs_through_the_real_kernel():
    model = TinyLlama().half()
    quantize_model(model, tilus.uint4b, group_size=64, progress=False)
    expected = model(TOKENS)
    with tilus.option.context(engine="interpreter"):
        through_kernel = model(TOKENS)
    assert (through_kernel - expected).norm() < 5e-3 * expected.norm()


def test_a_compiled_model():
    torch._dynamo.reset()
    model = TinyLlama()
    quantize_model(model, tilus.uint4b, group_size=64, progress=False)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for length in (6, 9):
            tokens = torch.arange(2 * length).reshape(2, length)
            torch.testing.assert_close(compiled(tokens), model(tokens))


def test_a_quantised_model_round_trips():
    model = TinyLlama()
    quantize_model(model, tilus.uint3b, group_size=64, symmetric=False, progress=False)
    other = TinyLlama()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    quantize_model(other, tilus.uint3b, group_size=64, symmetric=False, progress=False)
    assert not torch.equal(model(TOKENS), other(TOKENS))
    other.load_state_dict(round_trip(model.state_dict()))
    assert torch.equal(model(TOKENS), other(TOKENS))


def test_groups_that_do_not_fit_are_made_smaller():
    model = TinyLlama()
    report = quantize_model(model, tilus.uint4b, group_size=128, progress=False)
    groups = {(layer.shape[1], layer.group_size, layer.note) for layer in report.layers}
    assert groups == {
        (576, 64, "K = 576 is no multiple of 128"),
        (320, 64, "K = 320 is no multiple of 128"),
    }
    assert 4 + 16 / 64 == report.bits_per_weight
    odd = nn.Sequential(nn.Linear(50, 4), nn.Linear(4, 2))
    report = quantize_model(odd, tilus.uint4b, group_size=16, progress=False)
    assert [(50, 50), (4, 4)] == [(layer.shape[1], layer.group_size) for layer in report.layers]


def test_what_is_skipped_and_why():
    model = TinyLlama()
    model.layers[0].o_proj.register_forward_hook(lambda *_: None)
    model.layers[0].attention = nn.MultiheadAttention(8, 2)
    report = quantize_model(
        model, tilus.uint4b, group_size=64, skip=("k_proj", "layers.1.*_proj"), progress=False
    )
    reasons = {skipped.name: skipped.reason for skipped in report.skipped}
    assert "named in skip" == reasons["layers.0.k_proj"] == reasons["layers.1.down_proj"]
    assert "it has hooks, which may read the weight" == reasons["layers.0.o_proj"]
    assert "whose code may read" in reasons["layers.0.attention.out_proj"]
    assert "its weight is also that of embed_tokens, a Embedding" == reasons["lm_head"]
    assert {"q", "v", "gate", "up", "down"} == {
        one.name.removeprefix("layers.0.").removesuffix("_proj") for one in report.layers
    }
    for name in reasons:
        assert not isinstance(model.get_submodule(name), QuantizedLinear)


def test_tied_layers_stay_tied():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64, bias=False), nn.Linear(64, 8))
    model[1].weight = model[0].weight
    report = quantize_model(model, tilus.uint4b, group_size=64, progress=False)
    assert model[0].codes is model[1].codes and model[0].scales is model[1].scales
    assert ["", "tied to 0", ""] == [layer.note for layer in report.layers]
    assert 4 + 16 / 64 == report.bits_per_weight


def test_a_layer_tied_to_one_that_is_left_is_left():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 8))
    model[1].weight = model[0].weight
    report = quantize_model(model, tilus.uint4b, group_size=64, skip=("1",), progress=False)
    assert {
        "0": "its weight is also that of 1, which is left: named in skip",
        "1": "named in skip",
    } == {one.name: one.reason for one in report.skipped}


def test_one_layer_in_two_places_is_replaced_in_both():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    model.append(model[0])
    quantize_model(model, tilus.uint4b, group_size=64, progress=False)
    assert isinstance(model[0], QuantizedLinear) and model[0] is model[2]


def test_the_report_prints_a_row_a_layer():
    text = str(quantize_model(TinyLlama(), tilus.uint4b, group_size=64, progress=False))
    assert "layers.1.down_proj  576 x 320  uint4b       64          4.250" in text
    assert "skipped lm_head: named in skip" in text
    assert text.endswith("14 layers, 4.250 bits per weight")


@pytest.mark.parametrize(
    ("terminal", "progress", "shown"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_a_progress_bar_is_shown_to_those_who_watch(
    monkeypatch, capsys, terminal: bool, progress: bool, shown: bool
):
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    quantize_model(TinyLlama(), tilus.uint4b, group_size=64, progress=progress)
    captured = capsys.readouterr()
    assert (shown, "") == ("layers.1.down_proj as uint4b" in captured.err, captured.out)


def poisoned() -> nn.Module:
    model = TinyLlama()
    with torch.no_grad():
        model.layers[1].up_proj.weight[0, 0] = float("nan")
    return model


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (nn.ReLU, {}, ["no torch.nn.Linear", "ReLU"]),
        (lambda: nn.Linear(64, 8), {}, ["itself", "QuantizedLinear.from_linear"]),
        (TinyLlama, {"group_size": 48}, ["group_size = 48", "16, 32, 64"]),
        (TinyLlama, {"dtype": tilus.float16}, ["1 to 8 bits"]),
        (TinyLlama, {"method": "best"}, ['"rtn" or "mse"']),
        (TinyLlama, {"scale_dtype": torch.float64}, ["scales are not kept"]),
        (poisoned, {}, ["layers.1.up_proj", "NaN", "check the checkpoint"]),
        (lambda: TinyLlama().to("meta"), {}, ["layers.0.q_proj", "meta", "load the checkpoint"]),
    ],
)
def test_bad_models_are_named_and_left_as_they_were(model, options, words: list[str]):
    original = model()
    with pytest.raises(TilusError) as info:
        quantize_model(original, **{"dtype": tilus.uint4b, "progress": False, **options})
    for word in words:
        assert word in str(info.value)
    assert not any(isinstance(module, QuantizedLinear) for module in original.modules())


def test_a_quantised_tensor_makes_a_layer_without_copying():
    weight = quantize(torch.randn(8, 64), tilus.uint4b, 64)
    layer = QuantizedLinear.from_quantized(weight)
    assert layer.codes is weight.data and isinstance(layer.weight, QuantizedTensor)


# ---- before serving ------------------------------------------------------------------------------


@pytest.fixture
def nothing_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(launch, "_kernels", WeakKeyDictionary())


def alike(count: int, bias: bool = False) -> nn.Module:
    """Layers of one shape, and an odd one."""
    layers = [nn.Linear(64, 64, bias=bias) for _ in range(count)]
    model = nn.Sequential(*layers, nn.Linear(64, 24))
    quantize_model(model, tilus.uint4b, group_size=64, progress=False)
    return model


@pytest.mark.usefixtures("nothing_compiled")
def test_layers_of_equal_shape_are_warmed_up_once():
    model = alike(3)
    report = warmup(model, tokens=(1, 8), progress=False)
    assert (2, 2, 0) == (report.kernels, report.compiled, report.found)
    again = warmup(model, tokens=(1, 8), progress=False)
    assert (2, 0, 2) == (again.kernels, again.compiled, again.found)


@pytest.mark.usefixtures("nothing_compiled")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_activations_are_those_of_the_model(dtype: torch.dtype):
    """The odd layer's bias was converted with the model."""
    report = warmup(alike(1, bias=True).to(dtype), tokens=(1,), progress=False)
    model = alike(1, bias=True).to(dtype)
    assert 2 == report.kernels
    assert 0 == warmup(model, (1,), dtype, progress=False).compiled
    other = torch.float16 if dtype == torch.bfloat16 else torch.bfloat16
    assert 2 == warmup(model, (1,), other, progress=False).compiled


@pytest.mark.usefixtures("nothing_compiled")
def test_a_progress_bar_tells_of_kernels(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    warmup(alike(1), tokens=(1,))
    captured = capsys.readouterr()
    assert (True, "") == ("compiling kernels" in captured.err, captured.out)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4)), {}, ["no quantised layer", "quantize_model"]),
        (lambda: alike(1).to("meta"), {}, ["a weight on meta"]),
        (lambda: alike(1), {"tokens": (0,)}, ["numbers of tokens are positive"]),
        (lambda: alike(1), {"dtype": torch.float32}, ["activations of this dtype"]),
    ],
)
def test_a_model_that_cannot_be_warmed_up(model, options, words: list[str]):
    with pytest.raises(TilusError) as info:
        warmup(model(), **{"progress": False, **options})
    for word in words:
        assert word in str(info.value)


def test_a_layer_without_gradients_multiplies_the_same():
    """Without them the operator is called below torch's own machinery for gradients."""
    layer = make_layer()
    x = torch.randn(3, 96)
    expected = layer(x)
    assert expected.requires_grad
    with torch.no_grad():
        assert torch.equal(expected, layer(x)) and not layer(x).requires_grad
    with torch.inference_mode():
        assert torch.equal(expected, layer(x))
    frozen = make_layer(bias=False)
    assert not frozen(x).requires_grad and frozen(x.requires_grad_()).requires_grad


def test_a_bias_may_come_and_go():
    layer = make_layer(bias=False)
    x = torch.randn(3, 96)
    without = layer(x)
    assert ["codes", "scales", "_extra_state"] == list(layer.state_dict())
    layer.bias = nn.Parameter(torch.ones(40))
    torch.testing.assert_close(without + 1, layer(x))
    layer.bias = None
    assert torch.equal(without, layer(x))
