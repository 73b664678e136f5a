"""Independent random streams from one seed."""

import hashlib

import torch


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator that depends on `seed` and the purpose alone, and not on other draws of random numbers.

    `generator(0, "order", stage, epoch)` and `generator(0, "task")` are independent streams.
    """
    name = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
