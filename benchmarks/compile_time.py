"""How long it takes from the quantised matmul of every 1..8-bit type to its machine code.

    python benchmarks/compile_time.py                 # writes benchmarks/results/compile_time.json

No GPU is needed. A row is a type: 4096 x 4096 weights in groups of 128, float16 activations, for
sm_90a; from the program as written, through the passes, the CUDA text and NVRTC. The matmul is that
for every target, for up to 16 tokens, whose steps are a loop.

uncached    NVRTC is loaded and has compiled the matmul of another type; the median of processes
first       the first compilation of a process, NVRTC's loading included; a process for each type
on disk     the same program again, when memory has forgotten its code and the cache has it
lean        as uncached, the script's own translation included: what Hopper runs for up to 8 and for
            64 tokens, whose steps are written out; none where a type takes the other matmul
import      `import tilus` where torch is imported already

Targets on a machine with two cores: medians over the types of 0.25 s, 0.5 s and 5 ms, and 0.3 s.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
TARGETS = {"uncached": 0.25, "first": 0.5, "on_disk": 0.005, "import": 0.3}  # seconds
STAGES = ("passes", "text", "binary")
ARCH = "sm_90a"
EXTENT, GROUP_SIZE, TOKENS = 4096, 128, 16
LEAN_TOKENS = (8, 64)


# ---- what is measured, in processes of their own -------------------------------------------------


def measure_import(_):
    """Seconds of `import tilus`, once torch has taken its own."""
    import torch  # noqa: F401

    start = time.perf_counter()
    import tilus  # noqa: F401

    return time.perf_counter() - start


def measure_first(name):
    """The first compilation of this process, and the same from disk."""
    dtype = by_name(name)
    first = timed_source(dtype)
    return {"first": first, "on_disk": timed_source(dtype)}


def timed_source(dtype):
    """Seconds from a program as written to its binary, as a Script's first launch takes it."""
    from tilus.runtime.compile import compile_source
    from tilus.target import target_from_name

    program = matmul_program(dtype, GROUP_SIZE)
    start = time.perf_counter()
    cubin = compile_source(program, target_from_name(ARCH)).cubin
    total = time.perf_counter() - start
    assert cubin[:4] == b"\x7fELF"
    return {"total": total}


def measure_uncached(names):
    """Each type for the first time; NVRTC has just compiled that of the type before."""
    dtypes = [by_name(name) for name in names.split(",")]
    timed_compile(dtypes[-1], group_size=GROUP_SIZE // 2)  # another text: loads NVRTC
    return {dtype.name: timed_compile(dtype) for dtype in dtypes}


def measure_lean(names):
    """The kernels that are unrolled; NVRTC is loaded."""
    from tilus.runtime.nvrtc import compile_cuda

    compile_cuda('extern "C" __global__ void f() {}', "f", ARCH)
    return {
        name: {str(tokens): timed_lean(by_name(name), tokens) for tokens in LEAN_TOKENS}
        for name in names.split(",")
    }


def timed_lean(dtype, tokens):
    """Seconds from the script to the binary; None where a type has no such kernel."""
    from tilus.errors import TilusError
    from tilus.ops.shapes import Layer
    from tilus.ops.tune import problem_of, space
    from tilus.runtime.devices import H100
    from tilus.runtime.launch import compile_kernel

    try:
        problem = problem_of(Layer("", EXTENT, EXTENT), dtype, tokens)
    except TilusError:
        return None
    usual = space(problem, H100)[0]
    start = time.perf_counter()
    cubin = compile_kernel(usual.kernel(), H100.target).binary.cubin
    assert cubin[:4] == b"\x7fELF"
    return {"total": time.perf_counter() - start}


def by_name(name):
    from tilus.dtypes import dtype_from_name

    return dtype_from_name(name)


def timed_compile(dtype, group_size=GROUP_SIZE):
    """Seconds of each stage from the program to the binary, which is forgotten."""
    from tilus.codegen.kernel import generate
    from tilus.passes import compile_program
    from tilus.runtime.build import build
    from tilus.target import scope, target_from_name

    target = target_from_name(ARCH)
    program = matmul_program(dtype, group_size)
    with scope(target):
        times = [time.perf_counter()]
        compiled = compile_program(program)
        times.append(time.perf_counter())
        source, _ = generate(compiled, target)
        times.append(time.perf_counter())
        cubin = build(source, target).cubin
        times.append(time.perf_counter())
    assert cubin[:4] == b"\x7fELF"
    stages = [end - start for start, end in itertools.pairwise(times)]
    return {**dict(zip(STAGES, stages, strict=True)), "total": sum(stages)}


def matmul_program(dtype, group_size):
    """The matmul of `dtype` weights as `tilus.ops.matmul` writes it, before any pass."""
    import torch

    from tilus.dtypes import float16
    from tilus.ops.kernels import QuantizedMatmul, TileFormat

    tiles = TileFormat(dtype, float16, EXTENT, EXTENT, block_k=64)
    kernel = QuantizedMatmul(tiles, group_size, dtype.kind == "uint", float16, TOKENS)
    buffers = [torch.empty(64, dtype=torch.uint8) for _ in range(5)]
    return kernel.source_program(TOKENS, *buffers)


MEASUREMENTS = {
    "import": measure_import,
    "first": measure_first,
    "uncached": measure_uncached,
    "lean": measure_lean,
}


def in_process(kind, argument=""):
    """The result of a measurement in a fresh process with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        settings = {name: v for name, v in os.environ.items() if not name.startswith("TILUS_")}
        result = subprocess.run(
            [sys.executable, __file__, "--measure", kind, argument],
            env={**settings, "TILUS_CACHE_DIR": cache},
            capture_output=True,
            text=True,
            check=False,
        )
    if result.returncode:
        sys.exit(f"{kind} {argument}:\n{result.stderr}")
    return json.loads(result.stdout)


# ---- the tables ----------------------------------------------------------------------------------


def measure_all(names, repeats):
    """{type: {uncached, first, on_disk, lean: seconds of each stage}}, and those of the imports."""
    runs = [in_process("uncached", ",".join(names)) for _ in range(repeats)]
    lean = in_process("lean", ",".join(names))
    imports = [in_process("import") for _ in range(repeats + 2)]
    return {
        name: {
            "uncached": middle([run[name] for run in runs]),
            **in_process("first", name),
            "lean": lean[name],
        }
        for name in names
    }, imports


def middle(measurements):
    """The measurement with the median total."""
    return sorted(measurements, key=lambda each: each["total"])[len(measurements) // 2]


def medians_of(types, imports):
    kinds = ("uncached", "first", "on_disk")
    return {
        **{k: statistics.median(each[k]["total"] for each in types.values()) for k in kinds},
        **{f"lean_{tokens}": median_of_lean(types, str(tokens)) for tokens in LEAN_TOKENS},
        "import": statistics.median(imports),
    }


def median_of_lean(types, tokens):
    """Of the types that have such a kernel."""
    found = [each["lean"][tokens] for each in types.values()]
    return statistics.median(each["total"] for each in found if each)


def command_of(options):
    """As somebody else would type it: where the results went is nobody's business."""
    told = list(options)
    if "--output" in told:
        at = told.index("--output")
        del told[at : at + 2]
    return " ".join(["python benchmarks/compile_time.py", *told])


def updated(old, new):
    """The results of all types with those that a part of them measured anew, and how; the same
    part is told once.
    """
    types = {**old["types"], **new["types"]}
    others = [one for one in old.get("updates", []) if one["command"] != new["command"]]
    update = {key: new[key] for key in ("command", "commit", "machine", "versions")}
    return {
        **old,
        "medians": medians_of(types, new["import"]),
        "import": new["import"],
        "types": types,
        "updates": [*others, {**update, "types": list(new["types"])}],
    }


def report(types, imports):
    """Prints the tables; returns the medians."""
    from tabulate import tabulate

    rows = [
        (name, *(1e3 * each["uncached"][stage] for stage in (*STAGES, "total")),
         1e3 * each["first"]["total"], 1e3 * each["on_disk"]["total"],
         *(1e3 * found["total"] if found else None for found in each["lean"].values()))
        for name, each in types.items()
    ]  # fmt: skip
    headings = ("type", "passes", "text", "NVRTC", "uncached", "first", "on disk")
    headings += tuple(f"lean, m = {tokens}" for tokens in LEAN_TOKENS)
    columns = list(zip(*rows, strict=True))[1:]
    rows.append(("median", *(statistics.median(filter(None, column)) for column in columns)))
    print(tabulate(rows, [f"{h}{', ms' if h != 'type' else ''}" for h in headings], floatfmt=".1f"))
    medians = medians_of(types, imports)
    verdicts = [
        (kind, 1e3 * found, 1e3 * TARGETS[kind], "yes" if found <= TARGETS[kind] else "no")
        for kind, found in medians.items()
        if kind in TARGETS
    ]
    print(tabulate(verdicts, ("median of", "ms", "target, ms", "met"), floatfmt=".1f"))
    return medians


def circumstances():
    """What the numbers depend on."""
    from provenance import commit, machine
    from torch import __version__ as torch_version

    from tilus import __version__
    from tilus.runtime.nvrtc import nvrtc_release

    return {
        "command": command_of(sys.argv[1:]),
        "commit": commit(),
        "machine": machine(),
        "target": ARCH,
        "versions": {
            "tilus": __version__,
            "python": platform.python_version(),
            "torch": str(torch_version),
            "nvrtc": nvrtc_release(),
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--types", help="as in uint4b,float6_e3m2 (default: all of 1..8 bits)")
    parser.add_argument("--repeats", type=int, default=3, help="processes (default: 3)")
    parser.add_argument("--update", action="store_true", help="renew these types of the JSON alone")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "compile_time.json")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # what a process is asked
    arguments = parser.parse_args()
    if arguments.measure:
        kind, argument = arguments.measure
        print(json.dumps(MEASUREMENTS[kind](argument)))
        return 0
    from tilus.dtypes import LOW_PRECISION

    known = [dtype.name for dtype in LOW_PRECISION]
    names = arguments.types.split(",") if arguments.types else known
    if unknown := set(names) - set(known):
        parser.error(f"no type of 1..8 bits: {', '.join(sorted(unknown))}")
    facts = circumstances()
    for name, value in facts.items():
        print(f"{name}: {value}")
    types, imports = measure_all(names, arguments.repeats)
    medians = report(types, imports)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    everything = {**facts, "medians": medians, "import": imports, "types": types}
    if arguments.update:
        everything = updated(json.loads(arguments.output.read_text()), everything)
    arguments.output.write_text(json.dumps(everything, indent=1) + "\n")
    return 0 if all(medians[kind] <= most for kind, most in TARGETS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
