"""How benchmarks compare: works take turns, and medians count."""

import time
from collections.abc import Callable

import numpy as np
import torch


def in_turns(works: dict[str, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[str, float]:
    """The median seconds of each, after one turn that does not count."""
    times = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(found[1:])) for name, found in times.items()}


def product_rate(device: str = "cpu", size: int = 1024, repeats: int = 40) -> float:
    """FLOP/s of a large matrix product."""
    a = torch.randn(size, size, device=device)
    return 2 * size**3 / in_turns({"product": lambda: a @ a}, repeats, device)["product"]
