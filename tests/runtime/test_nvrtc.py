"""CUDA C++ to cubins, and its errors at the user's lines."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tilus.errors import TilusError
from tilus.runtime import nvrtc
from tilus.runtime.nvrtc import CudaCompileError, compile_cuda, compile_ptx, nvrtc_version

ADD_ONE = 'extern "C" __global__ void add_one(float* x) { x[threadIdx.x] += 1.0f; }'


@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120a"])
def test_every_target_gives_a_cubin_and_its_ptx(arch):
    compiled = compile_cuda(ADD_ONE, "add_one", arch, want_ptx=True)
    assert b"\x7fELF" == compiled.cubin[:4]
    assert f".target {arch}" in compiled.ptx and ".entry add_one(" in compiled.ptx
    assert f"for '{arch}'" in compiled.log


def test_ptx_is_given_only_where_asked_for():
    assert compile_cuda(ADD_ONE, "add_one", "sm_80").ptx is None


def test_ptx_can_be_had_without_machine_code():
    assert ".target sm_90a" in compile_ptx(ADD_ONE, "add_one", "sm_90a")


def test_line_info_names_the_users_file():
    text = ADD_ONE.replace("{", '{\n#line 7 "/somewhere/kernel.py"\n')
    assert "/somewhere/kernel.py" in compile_ptx(text, "add_one", "sm_80")
    assert "/somewhere/kernel.py" not in compile_ptx(text, "add_one", "sm_80", line_info=False)


def test_an_error_is_at_the_line_of_the_users_program(tmp_path):
    kernel = tmp_path / "kernel.py"
    kernel.write_text("first = 1\nself.store(gx, y)\n")
    text = f'extern "C" __global__ void f(float* x) {{\n#line 2 "{kernel}"\nx[0] = y;\nz();\n}}'
    with pytest.raises(CudaCompileError) as caught:
        compile_cuda(text, "f", "sm_80")
    error = caught.value
    assert 'identifier "y" is undefined' == error.found
    assert (str(kernel), 2) == (error.location.file, error.location.line)
    assert "    2 | self.store(gx, y)" in str(error)
    assert "TILUS_DUMP" in error.hint
    assert "2 errors detected" in error.log


def test_an_error_before_any_line_directive_shows_the_cuda_text():
    with pytest.raises(CudaCompileError) as caught:
        compile_cuda("\nthis is no C++;", "f", "sm_80")
    assert "    2 | this is no C++;" in str(caught.value)
    assert "f.cu:2:1: error: the generated CUDA text does not compile" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('asm("nonsense;");', "Not a name of any known instruction: 'nonsense'"),
        ("missing();", "Unresolved extern function 'missing'"),
    ],
)
def test_an_error_of_the_assembler_has_no_line(body, found):
    text = f'extern "C" __device__ void missing();\nextern "C" __global__ void f() {{ {body} }}'
    with pytest.raises(CudaCompileError) as caught:
        compile_cuda(text, "f", "sm_80")
    assert (found, None) == (caught.value.found, caught.value.location)


def test_an_architecture_that_nvrtc_does_not_know():
    with pytest.raises(TilusError) as caught:
        compile_cuda(ADD_ONE, "add_one", "sm_77")
    assert "cannot compile for sm_77" in caught.value.message
    assert "install a newer nvidia-cuda-nvrtc" == caught.value.hint


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    nvrtc._nvrtc.cache_clear()
    try:
        with pytest.raises(TilusError) as caught:
            nvrtc_version()
    finally:
        nvrtc._nvrtc.cache_clear()
    assert 'pip install "tilus-vm[cu13]"' in caught.value.hint


def test_the_version_is_at_least_12():
    assert nvrtc_version() >= (12, 0)
    assert nvrtc.nvrtc_release().startswith("{}.{}".format(*nvrtc_version()))


def test_threads_compile_at_the_same_time():
    texts = [ADD_ONE.replace("1.0f", f"{i}.0f") for i in range(8)]
    alone = [compile_cuda(text, "add_one", "sm_80").cubin for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: compile_cuda(text, "add_one", "sm_80").cubin, texts))
    assert alone == together
    assert len(set(alone)) == len(texts)
