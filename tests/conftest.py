"""What every test shares: the gpu marker, Hypothesis profiles, one torch thread per worker.

`pytest --hypothesis-profile=thorough` searches longer, and differently each time.
"""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

# Same examples in every run and on every machine: a failure in CI is a failure here.
settings.register_profile(
    "default-tilus",
    deadline=None,  # the first call of anything compiles or imports
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("default-tilus")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores already


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device; torch.cuda.is_available() is False")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see the default settings, whatever the developer's shell exports."""
    for variable in [name for name in os.environ if name.startswith("TILUS_")]:
        monkeypatch.delenv(variable)
