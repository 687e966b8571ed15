"""Device, threads, dtype, seeds and memory."""

import ctypes
import gc
import hashlib
import os
import platform
import random
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch


def setup(threads: int, seed: int) -> int:
    """Fix the thread count and the global random states; returns the number of threads in force."""
    threads = threads or cores()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory costs time and shows only reads of unset values.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  # unknown to mypy
    return threads


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def product_dtype(device: torch.device | None = None) -> torch.dtype:
    """What matrix products are computed in on this device, the default one if none is named: bfloat16 where it has
    instructions for it, else float32, which is then several times as fast."""
    return torch.bfloat16 if _multiplies_bfloat16((device or default()).type) else torch.float32


@cache
def _multiplies_bfloat16(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported()
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def dtype_name(dtype: torch.dtype) -> str:
    """As settings and other tools write it, "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def autocast(device: torch.device, held: torch.dtype = torch.float32) -> torch.autocast:
    """`product_dtype` for the matrix products, float32 for weights, norms and losses; where weights are held in a
    shorter dtype already, that one for the products."""
    dtype = held if held in (torch.bfloat16, torch.float16) else product_dtype(device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def seed_for(seed: int, *parts: object) -> int:
    """A seed in [0, 2**63) that depends on the run's seed and on what it is for, and on nothing else."""
    text = "\x1f".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *parts: object) -> torch.Generator:
    """A CPU random generator of its own for one purpose."""
    return torch.Generator().manual_seed(seed_for(seed, *parts))


def arithmetic() -> dict[str, str]:
    """What sums of floats depend on beside their terms: how many threads share them, the dtype of products, and by
    which versions and instructions they are made."""
    return {
        "threads": str(torch.get_num_threads()),
        "matrix products": dtype_name(product_dtype()),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def random_state() -> dict[str, Any]:
    """The global random states of Python, NumPy, CPU and GPUs, in plain values and tensors."""
    of_numpy = np.random.get_state(legacy=False)
    of_numpy["state"]["key"] = of_numpy["state"]["key"].tolist()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": of_numpy,
        "cpu": torch.get_rng_state(),
        **{f"cuda:{number}": state for number, state in enumerate(gpus)},
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on from these, as far as their devices are here."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["cpu"])
    for number in range(torch.cuda.device_count()):
        if f"cuda:{number}" in state:
            torch.cuda.set_rng_state(state[f"cuda:{number}"], number)


def release_memory() -> None:
    """Return to the system what is no longer used; glibc would keep most of it for this process."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
