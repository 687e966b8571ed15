"""Device, threads, dtype and seeds."""

import hashlib
import os
import platform
import random
import timeit
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from starling import device


@pytest.fixture
def global_state() -> Iterator[None]:
    """Put back what `setup` changes for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def test_a_seed_is_the_hash_of_what_it_is_for() -> None:
    digest = hashlib.sha256(b"42\x1ftune\x1f3").digest()
    assert device.seed_for(42, "tune", 3) == int.from_bytes(digest[:8], "big") // 2


def test_seeds_lie_in_the_range_of_torch_and_differ() -> None:
    seeds = [device.seed_for(seed, "sample", draw) for seed in range(20) for draw in range(50)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


def test_parts_of_a_purpose_do_not_run_together() -> None:
    assert len({device.seed_for(*parts) for parts in ((1, "ab"), (1, "a", "b"), (11, "b"), (1, "1", "b"), (1,))}) == 5


def test_a_generator_depends_on_its_purpose_alone() -> None:
    torch.rand(3)
    first = torch.rand(5, generator=device.generator(1, "fit", 0))
    torch.manual_seed(99)
    assert torch.equal(torch.rand(5, generator=device.generator(1, "fit", 0)), first)
    assert not torch.equal(torch.rand(5, generator=device.generator(1, "fit", 1)), first)


def drawn() -> list[float]:
    """A number from each global generator."""
    return [random.random(), float(np.random.rand()), float(np.random.standard_normal()), float(torch.rand(()))]


def test_every_global_generator_goes_on_from_a_state_that_was_saved(global_state: None, tmp_path: Path) -> None:
    device.setup(1, 7)
    np.random.standard_normal()  # draws two, and keeps one for the next call
    torch.save(device.random_state(), tmp_path / "state.pt")
    first = drawn()
    assert drawn() != first
    device.set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert drawn() == first


def test_setup_fixes_threads_and_the_random_states(global_state: None) -> None:
    assert device.setup(1, 7) == 1
    assert torch.get_num_threads() == 1
    first = drawn()
    device.setup(1, 7)
    assert drawn() == first
    assert torch.are_deterministic_algorithms_enabled()


def test_zero_threads_are_all_that_the_process_may_use(global_state: None) -> None:
    assert device.setup(0, 7) == torch.get_num_threads() >= 1


def test_autocast_multiplies_in_what_is_fast_and_keeps_weights_in_float32(products: torch.dtype) -> None:
    layer = torch.nn.Linear(4, 4)
    with device.autocast(torch.device("cpu")):
        assert layer(torch.ones(1, 4)).dtype == products
    assert layer.weight.dtype == torch.float32
    assert layer(torch.ones(1, 4)).dtype == torch.float32


def test_products_are_in_what_this_processor_multiplies_faster() -> None:
    def seconds(dtype: torch.dtype) -> float:
        left, right = (torch.randn(512, 1024).to(dtype) for _ in range(2))
        return min(timeit.repeat(lambda: left @ right.T, number=5, repeat=5))

    rounds = [(seconds(torch.float32), seconds(torch.bfloat16)) for _ in range(3)]
    in_float32, in_bfloat16 = (min(found) for found in zip(*rounds, strict=True))
    if max(in_float32, in_bfloat16) > 1.5 * min(in_float32, in_bfloat16):  # else either will do
        faster = torch.bfloat16 if in_bfloat16 < in_float32 else torch.float32
        assert device.product_dtype(torch.device("cpu")) == faster


@pytest.mark.parametrize(
    ("machine", "instructions", "expected"),
    [("x86_64", True, torch.bfloat16), ("AMD64", True, torch.bfloat16), ("x86_64", False, torch.float32)],
)
def test_on_x86_the_instructions_for_bfloat16_decide(
    machine: str, instructions: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # oneDNN says that it supports bfloat16 on any AVX-512, where without these instructions it is slower than float32
    monkeypatch.setattr(device, "_multiplies_bfloat16", device._multiplies_bfloat16.__wrapped__)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    assert device.product_dtype(torch.device("cpu")) == expected


@pytest.mark.parametrize("supported", [True, False])
def test_a_graphics_processor_that_only_emulates_bfloat16_multiplies_float32(
    supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_multiplies_bfloat16", device._multiplies_bfloat16.__wrapped__)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    expected = torch.bfloat16 if supported else torch.float32
    assert device.product_dtype(torch.device("cuda")) == expected


def test_the_default_device_is_the_accelerator_where_there_is_one() -> None:
    assert device.default().type == ("cuda" if torch.cuda.is_available() else "cpu")


def resident_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what it can be told to return")
def test_memory_that_is_no_longer_used_goes_back_to_the_system() -> None:
    blocks = [bytearray(b"x" * 2**16) for _ in range(3200)]  # 200 MiB in pieces too small to be mapped one by one
    blocks, last = [], blocks[-1]  # what lives at the end of the heap keeps glibc from giving back what lies before it
    before = resident_mib()
    device.release_memory()
    assert before - resident_mib() > 100
    assert len(last) == 2**16
