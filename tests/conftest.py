"""What every room's tests share: short and full counts, reference data, and what a marker needs."""

import os
from pathlib import Path

import pytest
from hypothesis import settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run every test with its full count")


def pytest_configure(config: pytest.Config) -> None:
    # A shared machine's pauses are no defect of the code, so no example has a deadline.
    settings.register_profile("short", max_examples=25, deadline=None)
    settings.register_profile("soak", max_examples=2000, deadline=None)
    settings.load_profile("soak" if config.getoption("--soak") else "short")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
    if item.get_closest_marker("cluster") is not None and "KUBECONFIG" not in os.environ:
        pytest.skip("needs a Kubernetes API server: set KUBECONFIG")


@pytest.fixture(scope="session")
def soak(pytestconfig: pytest.Config) -> bool:
    """Whether tests should run their full counts (`make soak`) instead of the short ones."""
    return bool(pytestconfig.getoption("--soak"))


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of reference pictures and weights; skips the test where there is none."""
    folder = os.environ.get("REFERENCE_DATA")
    if not folder:
        pytest.skip("needs reference pictures: set REFERENCE_DATA to their folder")
    return Path(folder)
