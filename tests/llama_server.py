"""A real llama.cpp server in a process of its own, for as long as a test needs it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from starling import builtin
from starling.errors import StarlingError

SERVER = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
if sys.argv[4] == "exact":
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.n_parallel = int(sys.argv[2])
params.n_ctx = int(sys.argv[2]) * int(sys.argv[3])
params.port = 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # threads that share a core wait for each other
params.verbosity = -1
server = xllamacpp.Server(params)
print("at", server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def serving(model: Path, noise: Path, *, slots: int = 1, context: int = 4096, exact: bool = False) -> Iterator[str]:
    """Where the server listens; what it says goes to the file `noise`.

    By default llama.cpp rounds keys, values and scores to float16, which moves logprobs by some 0.01; not if `exact`.
    """
    pytest.importorskip("xllamacpp", reason="needs the extra `llama`: pip install xllamacpp")
    with noise.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(model), str(slots), str(context), "exact" if exact else ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            preexec_fn=lambda: os.nice(5),
        )
    assert process.stdout is not None
    try:
        address = next((line for line in process.stdout if line.startswith("at ")), None)
        if address is None:
            pytest.fail(noise.read_text()[-2000:])
        yield address.removeprefix("at ").strip()
    finally:
        process.kill()
        process.communicate()


@contextmanager
def serving_builtin(folder: Path, *, slots: int) -> Iterator[str]:
    """The same with the built-in model, fetched into `folder`."""
    try:
        model = builtin.gguf(folder)
    except StarlingError as error:
        pytest.skip(f"the model cannot be fetched: {error}")
    with serving(model, folder / "noise.txt", slots=slots) as address:
        yield address
