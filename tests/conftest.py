"""One torch thread per test process: more of them wait for each other on a busy machine.

TEST_THREADS=2 gives each as many, to see that no test depends on it.
"""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault(
    "OMP_NUM_THREADS", os.environ.get("TEST_THREADS", "1")
)  # before torch and scikit-learn start their threads
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

THREADS = int(os.environ.get("TEST_THREADS", "1"))
torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def threads_are_put_back() -> Iterator[None]:
    """No test, and nothing that it calls, leaves another number of threads to the next test."""
    yield
    left = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    assert left == THREADS, f"torch was left with {left} threads; use mechocl.runs.processes.torch_threads"
