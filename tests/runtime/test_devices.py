"""The table of devices: names, sources, and figures that other statements of NVIDIA imply."""

from __future__ import annotations

import pytest

from benchmarks import static_counts
from tilus.errors import TilusError
from tilus.runtime.devices import (
    A100,
    B200,
    DEVICES,
    FIGURES,
    H100,
    H200,
    L40S,
    RTX_4090,
    device_of,
)
from tilus.runtime.inspect import RESERVED_SHARED

ALL = pytest.mark.parametrize("device", DEVICES.values(), ids=list(DEVICES))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("H100", H100),
        ("h200", H200),
        ("NVIDIA H100 80GB HBM3", H100),
        ("NVIDIA H200", H200),
        ("NVIDIA A100-SXM4-80GB", A100),
        ("NVIDIA L40S", L40S),
        ("NVIDIA GeForce RTX 4090", RTX_4090),
        ("rtx-4090", RTX_4090),
        ("NVIDIA B200", B200),
    ],
)
def test_devices_by_name(name, expected):
    assert expected is device_of(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("NVIDIA H100 PCIe", "did you mean"),  # 114 multiprocessors
        ("NVIDIA A100-SXM4-40GB", "did you mean NVIDIA A100-SXM4-80GB?"),  # slower memory
        ("NVIDIA GeForce RTX 4090 D", "did you mean NVIDIA GeForce RTX 4090?"),
        ("abacus", None),
    ],
)
def test_other_boards_are_not_known(name, hint):
    with pytest.raises(TilusError, match="does not know this device") as caught:
        device_of(name)
    assert repr(name) == caught.value.found
    assert "one of H100, H200, A100, L40S, RTX 4090, B200" == caught.value.expected
    assert hint is None or hint in caught.value.hint


@ALL
def test_every_figure_has_a_source(device):
    assert FIGURES == set(device.sources)
    assert all(len(source) > 10 for source in device.sources.values())
    unknown = {name for name in FIGURES if getattr(device, name) is None}
    assert unknown == {n for n, source in device.sources.items() if source == "not published"}
    assert "CUDA C++ Programming Guide" in device.rates.source


@ALL
def test_figures_agree_with_each_other(device):
    properties = device.target.properties
    assert device is device_of(device.name)
    assert properties.shared_memory_per_block + RESERVED_SHARED <= (
        device.multiprocessor.shared_memory
    )
    assert 65536 == device.registers  # the same table: "Number of 32-bit registers per SM"
    # No pipe takes more than is issued, and all of a wave's reads come through the L2 cache.
    rates = device.rates
    assert max(rates.alu, rates.fma, rates.half, rates.xu) <= rates.issue
    assert device.usable_rate < device.memory_rate < (device.l2_rate or float("inf"))


@pytest.mark.parametrize(
    ("device", "flops_a_clock"),
    [
        # Architecture white papers: dense float16 operations a clock and multiprocessor.
        (A100, 2048),
        (L40S, 1024),
        (RTX_4090, 512),
        (H100, 0.62 * 4096),  # what mma.sync reaches of them
        (H200, 0.62 * 4096),
        (B200, 8192),
    ],
)
def test_tensor_cores_do_powers_of_two(device, flops_a_clock):
    assert device.matrix_rate * 2 * 16 * 8 * 16 == pytest.approx(flops_a_clock, rel=0.06)


@pytest.mark.parametrize("device", [H100, H200], ids=["H100", "H200"])
def test_hopper_is_the_one_of_the_static_bounds(device):
    """benchmarks/static.py bounds times by the same figures."""
    assert static_counts.SMS == device.multiprocessors
    assert device.clock == pytest.approx(static_counts.CLOCKS_PER_US * 1e6)
    assert device.usable_rate == pytest.approx(static_counts.BYTES_PER_US[device.name] * 1e6)
    assert static_counts.A_CLOCK["issue"] == device.rates.issue
    assert static_counts.A_CLOCK["alu"] == device.rates.alu
    assert device.matrix_rate == pytest.approx(static_counts.A_CLOCK["matrix"], rel=1e-3)
