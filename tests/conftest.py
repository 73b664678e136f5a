"""One torch thread per test process: more of them wait for each other on a busy machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and scikit-learn start their threads
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

torch.set_num_threads(1)
