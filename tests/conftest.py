"""One torch thread per test process: more of them wait for each other on a busy machine."""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and scikit-learn start their threads
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def threads_are_put_back() -> Iterator[None]:
    """No test, and nothing that it calls, leaves another number of threads to the next test."""
    yield
    left = torch.get_num_threads()
    torch.set_num_threads(1)
    assert left == 1, f"torch was left with {left} threads; use mechocl.runs.processes.torch_threads"
