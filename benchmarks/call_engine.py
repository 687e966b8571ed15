"""How fast the call engine is and how much memory `rank` takes: the figures in docs/results.md.

    python benchmarks/call_engine.py                 rate against endpoints on this machine
    python benchmarks/call_engine.py --prompts N     memory of `rank` on N prompts with seven answers each

The endpoint is a process of its own, pinned to another core where there are two.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from starling import at_work, config, data_files, store, streams, tables
from starling.client import Client
from starling.endpoints import Endpoint
from starling.ledger import Ledger
from starling.records import Call, Reply
from starling.stages import rank

CONNECTIONS = 64
LATENCY_SECONDS = 0.05
K = 7
ANSWER_CHARACTERS = 900
RECIPE = """
[run]
threads = 1
[sample]
shard_prompts = 1000
token_budget = 0
[rank]
probe_prompts = 0
judge = "{judge}"
"""


class Endpointish(asyncio.Protocol):
    """The least that speaks HTTP: one fixed chat completion for each request, after `latency` seconds."""

    latency = 0.0
    text = "Paris is the capital of France."

    def __init__(self) -> None:
        self._buffer = b""
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 40, "completion_tokens": 8}
        body = json.dumps({"model": "m", "choices": [choice], "usage": usage}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        self._response = head + body

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, rest = self._buffer.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            asyncio.get_running_loop().call_later(self.latency, self._transport.write, self._response)


def serve(latency: float, text: str) -> None:
    """Serve until killed; the port is printed."""
    _pin(1)
    Endpointish.latency = latency
    Endpointish.text = text or Endpointish.text

    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(Endpointish, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(forever())


class Serving:
    """The endpoint as a process; `url` is where it listens."""

    def __init__(self, latency: float, text: str = "") -> None:
        arguments = [sys.executable, __file__, "--serve", str(latency), "--text", text]
        self._process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/v1"

    def __enter__(self) -> "Serving":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def rate(latency: float, number: int, characters: int) -> float:
    """Calls a second through client, JSON and ledger, by `CONNECTIONS` at once."""
    filler = "x" * characters
    calls = [Call(messages=[{"role": "user", "content": f"{one} {filler}"}], max_tokens=80) for one in range(number)]
    with Serving(latency) as server, tempfile.TemporaryDirectory() as folder, Ledger(f"{folder}/c.sqlite") as ledger:
        client = Client(Endpoint(name="n", urls=(server.url,), model="m", concurrency=CONNECTIONS), ledger)
        client.chat(calls[:CONNECTIONS])
        begun = time.perf_counter()
        replies = client.chat(calls[CONNECTIONS:])
        seconds = time.perf_counter() - begun
        assert all(isinstance(reply, Reply) for reply in replies)
    return (number - CONNECTIONS) / seconds


def memory(prompts: int, judge: str) -> dict[str, Any]:
    """Time and peak memory of `rank` on made-up answers of usual length."""
    with tempfile.TemporaryDirectory() as folder, Serving(0.0, _ranking()) as server:
        path = Path(folder) / "recipe.toml"
        text = RECIPE.format(judge="rubric" if judge == "rubric" else f"openai:m@{server.url}")
        names = "".join(f'[[sample.generators]]\nname = "g{one}"\n' for one in range(K))
        path.write_text(text.replace("[rank]", f"{names}[rank]\nconcurrency = {CONNECTIONS}"))
        run = store.Run.open(Path(folder) / "run", config.load(path))
        _write_answers(run, prompts)
        before = at_work.peak_memory_mib()
        begun = time.perf_counter()
        facts = rank.run(run)
        seconds = time.perf_counter() - begun
        assert facts["ranked"] == prompts
        return {
            "prompts": prompts,
            "judge": judge,
            "seconds": round(seconds, 1),
            "prompts_per_second": round(prompts / seconds),
            "peak_memory_mib_before": before,
            "peak_memory_mib": at_work.peak_memory_mib(),
        }


def _ranking() -> str:
    letters = "ABCDEFG"
    pairs = [f"{one} vs {two}: {one}" for at, one in enumerate(letters) for two in letters[at + 1 :]]
    return "\n".join(["Good-natured: yes", *pairs, f"Ranking: [[{', '.join(letters)}]]"])


def _write_answers(run: store.Run, prompts: int) -> None:
    """Prompts as `prompts` and answers as `sample` write them, a thousand at a time."""
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(2000)]
    writer = None
    for shard, batch in enumerate(streams.batches(range(prompts), 1000)):
        rows = [{"id": f"p{one}", "prompt": _text(source, words, 400), "split": "train"} for one in batch]
        table = [tables.prompt_row(tables.prompt_from_row(row, "made up")) for row in rows]
        if writer is None:
            writer = pq.ParquetWriter(run.folder("prompts") / "00000.parquet", tables.PROMPTS)
        writer.write_table(pa.Table.from_pylist(table, schema=tables.PROMPTS))
        answers = [
            {"prompt_id": row["id"], "model": f"g{draw}", "draw": draw, "finished": True, "weakened": False, "seed": 0,
             "answer": _text(source, words, ANSWER_CHARACTERS), "num_tokens": 200}
            for row in rows
            for draw in range(K)
        ]  # fmt: skip
        data_files.write_parquet(run.folder("sample") / f"m-{shard:05d}.parquet", answers, tables.CANDIDATES)
    assert writer is not None
    writer.close()


def _text(source: random.Random, words: Sequence[str], characters: int) -> str:
    return " ".join(source.choices(words, k=source.randint(characters // 12, characters // 4)))


def _pin(core: int) -> None:
    """Stay on one core, also where the process that started this one stays on another."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > core:
        os.sched_setaffinity(0, {core})


def main() -> None:
    """Print each figure as a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=float)
    parser.add_argument("--text", default="")
    parser.add_argument("--prompts", type=int, default=0)
    parser.add_argument("--judge", choices=["endpoint", "rubric"], default="endpoint")
    parser.add_argument("--calls", type=int, default=12_000)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.text)
        return
    if options.prompts:
        _pin(0)
        print(json.dumps(memory(options.prompts, options.judge)))
        return
    _pin(0)
    found = rate(LATENCY_SECONDS, options.calls, 200)
    ideal = CONNECTIONS / LATENCY_SECONDS
    answers_in = f"{LATENCY_SECONDS * 1000:.0f} ms, {CONNECTIONS} connections"
    print(f"{answers_in}: {found:,.0f} calls/s, {found / ideal:.1%} of the ideal rate")
    for characters in (200, 6000):
        print(f"instant, requests of {characters} characters: {rate(0.0, options.calls, characters):,.0f} calls/s")


if __name__ == "__main__":
    main()
