"""Measurements of speed and memory, each in a process of its own; what is measured already is kept."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from speed_rows import SETS

from starling import device

FAST_BFLOAT16 = device.product_dtype() == torch.bfloat16  # elsewhere it is several times as slow as float32, for all
Spec = dict[str, Any]  # what to measure; a measurement is the spec with what was found


def options(doc: str | None, out: str, *, data: bool = True, more: Sequence[str] = ()) -> argparse.Namespace:
    """What the command line says; with `data` also DATA, whose rows are made ready in the output folder, and `more`
    options that take a text."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data:
        parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path(out), help="what it holds already is not measured again")
    parser.add_argument("--at-most", type=int, default=1000, help="end after so many new measurements")
    for name in more:
        parser.add_argument(name)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    if data and not (chosen.out / f"{SETS[-1]}.jsonl").exists():
        rows = Path(__file__).with_name("speed_rows.py")
        subprocess.run([sys.executable, rows, chosen.data, chosen.out], check=True)
    return chosen


def run(chosen: argparse.Namespace, script: str, missing: Callable[[list[Spec]], list[Spec]]) -> list[Spec]:
    """Measure what is missing, as far as `--at-most` goes; all measurements of `script`."""
    path = chosen.out / f"{Path(script).stem}.jsonl"
    left = chosen.at_most
    while todo := missing(measured(path)):
        if left == 0:
            sys.exit(f"{len(todo)} or more measurements to go")
        left -= 1
        command = [sys.executable, Path(__file__).with_name(script), chosen.out, json.dumps(todo[0])]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{todo[0]}: {done.stderr}")
        line = done.stdout.splitlines()[-1]
        print(line, flush=True)
        with path.open("a") as file:
            file.write(line + "\n")
    return measured(path)


def measured(path: Path) -> list[Spec]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def find(done: list[Spec], spec: Spec) -> Spec | None:
    """The measurement that `spec` asks for."""
    return next((found for found in done if spec.items() <= found.items()), None)


def threads() -> int:
    return len(os.sched_getaffinity(0))


def peak_gigabytes() -> float:
    """The most memory that this process held; what its parent held does not count."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 2**20
