"""A real vLLM server in a process of its own, for as long as a test needs it."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest


def require() -> None:
    """Skip where no vLLM is named."""
    if "STARLING_VLLM" not in os.environ:
        pytest.skip("needs vLLM in an environment of its own: set STARLING_VLLM to its executable `vllm`")


@contextmanager
def serving(model: Path | str, noise: Path, *options: str, wait_seconds: int, **switches: str) -> Iterator[str]:
    """Where the server listens; what it says goes to the file `noise`. `switches` are environment variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with noise.open("w") as file:
        process = subprocess.Popen(
            [os.environ["STARLING_VLLM"], "serve", str(model), "--port", str(port), "--enforce-eager", *options],
            stdout=file,
            stderr=file,
            env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"} | switches,
            start_new_session=True,
        )
    try:
        for _ in range(wait_seconds):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except URLError:
                assert process.poll() is None, noise.read_text()[-3000:]
                time.sleep(1)
        else:
            pytest.fail(noise.read_text()[-3000:])
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def posted(url: str, **body: Any) -> Any:
    """What the server says to a JSON body."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as reply:
        return json.load(reply)
