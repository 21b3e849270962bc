"""Order of the tests, and what this machine can run."""

import os

import pytest
import torch

RANK = {"slow": 1, "browser": 2, "network": 3}


def pytest_collection_modifyitems(config, items):
    """Fast tests first, then slow ones, then the browser's; GPU tests skipped without a GPU."""
    if not torch.cuda.is_available():
        reason = pytest.mark.skip(reason="no GPU: torch sees no CUDA device")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(reason)
    items.sort(
        key=lambda item: max(
            (rank for name, rank in RANK.items() if item.get_closest_marker(name)), default=0
        )
    )


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    """One thread: the tests' tensors are small, and threads that wait for a busy core spin.

    `tests.matrix` asks for two.
    """
    torch.set_num_threads(int(os.environ.get("BNBOOK_TEST_THREADS", "1")))
