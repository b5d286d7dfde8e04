"""The import order is a law: a module of tilus imports from its own layer, or from layers above it.

Every import statement counts, also those inside functions and under `if TYPE_CHECKING:`. Longer
names win, so `tilus.ir.layout` has a place of its own although it lies in `tilus.ir`.
`tilus/__init__.py` may import everything; only the command line may import from it. `tilus.ptx`
stands alone: it judges the code generator, so it shares nothing with it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tilus

# The modules that hand programs to the emulator, and show what it counted.
JUDGES = ("tilus.runtime.emulate", "tilus.runtime.profile")
LAYERS: tuple[tuple[str, ...], ...] = (
    ("tilus.errors",),
    ("tilus.config", "tilus.option", "tilus.dtypes", "tilus.target", "tilus.syntax"),
    ("tilus.tensor", "tilus.utils"),
    ("tilus.ir.layout",),
    ("tilus.ir",),
    ("tilus.codegen", "tilus.interp"),
    ("tilus.instructions",),
    ("tilus.passes", "tilus.codegen.kernel"),
    ("tilus.lang",),
    ("tilus.runtime", *JUDGES),
    ("tilus.ops", "tilus.testing"),
    ("tilus.nn",),
    ("tilus",),
    ("tilus.demo_weights", "tilus.demo", "tilus.cli", "tilus.__main__"),
)
ALONE = {"tilus.ptx": {"tilus.ptx", "tilus.errors"}}
LAYER_OF = {name: index for index, names in enumerate(LAYERS) for name in names}

PACKAGE = Path(tilus.__path__[0])


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place(module: str) -> str | None:
    """The longest listed name that `module` is, or lies in; the bare package holds only itself."""
    names = [*LAYER_OF, *ALONE]
    fitting = [n for n in names if module == n or (n != "tilus" and module.startswith(n + "."))]
    return max(fitting, key=len, default=None)


def imported_modules(tree: ast.AST, package: str, modules: set[str]) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of tilus, relative ones resolved against `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")
            above = above[: len(above) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"  # `from tilus import ir` names a module, not a name
                yield node.lineno, inner if inner in modules else base


def violations(root: Path) -> list[str]:
    files = {module_name(file, root): file for file in sorted(root.rglob("*.py"))}
    found = []
    for module, file in files.items():
        if module == "tilus":
            continue
        if place(module) is None:
            found.append(f"{module} has no layer")
            continue
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        tree = ast.parse(file.read_text(), str(file))
        for line, target in imported_modules(tree, package, set(files)):
            if target.split(".")[0] == "tilus" and not may_import(module, target):
                found.append(f"{module}:{line} imports {target}")
    return found


def may_import(module: str, target: str) -> bool:
    here, there = place(module), place(target)
    if here is None or there is None:
        return False
    if here in ALONE:
        return there in ALONE[here]
    if here in JUDGES and there in ALONE:
        return True
    return there in LAYER_OF and LAYER_OF[there] <= LAYER_OF[here]


def test_the_package_obeys_the_order():
    assert [] == violations(PACKAGE)


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("errors.py", "import os", []),
        ("errors.py", "from tilus.config import context", ["tilus.errors:1 imports tilus.config"]),
        ("ir/tensor.py", "from tilus.ir.layout import spatial", []),
        (
            "ir/layout/register.py",
            "\nfrom tilus.ir.tensor import RegisterTensor",
            ["tilus.ir.layout.register:2 imports tilus.ir.tensor"],
        ),
        ("ir/layout/register.py", "from . import shared", []),
        (
            "ir/layout/register.py",
            "from .. import tensor",
            ["tilus.ir.layout.register:1 imports tilus.ir"],
        ),
        (
            "ir/stmt.py",
            "def late():\n    import tilus.passes.manager",
            ["tilus.ir.stmt:2 imports tilus.passes.manager"],
        ),
        (
            "ir/stmt.py",
            "if TYPE_CHECKING:\n    from tilus.lang.script import Script",
            ["tilus.ir.stmt:2 imports tilus.lang.script"],
        ),
        ("instructions/mma.py", "from tilus.codegen.writer import Writer", []),
        (
            "instructions/mma.py",
            "from tilus.codegen.kernel import generate",
            ["tilus.instructions.mma:1 imports tilus.codegen.kernel"],
        ),
        ("lang/script.py", "from tilus import errors", []),
        ("lang/script.py", "from tilus import Script", ["tilus.lang.script:1 imports tilus"]),
        ("cli/demo.py", "from tilus import __version__", []),
        ("ptx/parse.py", "from tilus.errors import TilusError\nfrom . import machine", []),
        ("ptx/parse.py", "import tilus.ir", ["tilus.ptx.parse:1 imports tilus.ir"]),
        ("runtime/emulate.py", "import tilus.ptx", []),
        ("runtime/cache.py", "import tilus.ptx", ["tilus.runtime.cache:1 imports tilus.ptx"]),
        ("sundry.py", "", ["tilus.sundry has no layer"]),
    ],
)
def test_the_check_itself(tmp_path, file, source, expected):
    root = tmp_path / "tilus"
    for name in ("errors.py", "ir/layout/shared.py", "ptx/machine.py", file):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source if name == file else "")
    assert expected == violations(root)
