"""`starling serve`: its address, its token, its end."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from starling import addresses, cli, serve
from starling.errors import UsageError
from starling.listening import bound
from starling.offer import Offer

POLICY = Offer(policy="smollm2", reward="", policy_name="small")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_alone_needs_no_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(addresses.KEY, raising=False)
    assert addresses.key("serve", host) == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", "localhost.example.org", ""])
def test_any_other_address_demands_one(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for blank in ("", "  "):
        monkeypatch.setenv(addresses.KEY, blank)
        with pytest.raises(UsageError, match=r"^serve: .*STARLING_API_KEY"):
            addresses.key("serve", host)
    monkeypatch.setenv(addresses.KEY, "token ")
    assert addresses.key("serve", host) == "token"


def test_a_port_in_use_is_told_in_a_line_before_a_model_is_loaded(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with bound("serve", "127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        assert cli.main(["serve", str(tiny_model), "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: serve: port {port} on 127.0.0.1 is in use")
    assert said.count("\n") == 1


def test_vllm_is_called_with_the_model_its_name_and_the_address(tiny_model: Path) -> None:
    offer = Offer(policy=str(tiny_model), reward=str(tiny_model), policy_name="small", reward_name="small-reward")
    command = serve.vllm_command(offer, "127.0.0.1", 8001)
    assert command == [
        "vllm", "serve", str(tiny_model), "--served-model-name", "small", "--host", "127.0.0.1", "--port", "8001",
        "--allowed-origins", "[]",
    ]  # fmt: skip
    alone = Offer(policy="", reward=str(tiny_model), reward_name="judge")
    assert serve.vllm_command(alone, "127.0.0.1", 8001)[4:] == ["judge", *command[5:], "--runner", "pooling"]


def test_vllm_takes_the_place_of_this_process_and_gets_the_token_unseen(tiny_model: Path, tmp_path: Path) -> None:
    program = tmp_path / "vllm"
    program.write_text('#!/bin/sh\necho "$VLLM_API_KEY" "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "STARLING_API_KEY": "s3cret"}
    command = [sys.executable, "-m", "starling.cli", "serve", str(tiny_model), "--engine", "vllm", "--host", "0.0.0.0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout.startswith(f"s3cret serve {tiny_model} --served-model-name {tiny_model.name} --host 0.0.0.0")
    assert "s3cret" not in done.stdout.partition(" ")[2]


def test_vllm_that_is_not_installed_is_told(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["serve", str(tiny_model), "--engine", "vllm"]) == 2
    assert "there is no `vllm` on the PATH; pip install vllm" in capsys.readouterr().err


def streamed(address: str, model: str, answers: int) -> Any:
    """A long answer as it is written, line by line."""
    asked = {"model": model, "messages": [{"role": "user", "content": "?"}], "n": answers, "stream": True}
    body = json.dumps(asked | {"max_tokens": 480, "temperature": 2}).encode()
    return urlopen(Request(f"{address}/chat/completions", body, {"Content-Type": "application/json"}), timeout=60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_the_command_serves_until_it_is_told_to_end_whatever_clients_and_others_do(
    tiny_model: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "starling.cli", "serve", str(tiny_model), "--port", "0", "--json"]
    environment = {key: value for key, value in os.environ.items() if key != "STARLING_API_KEY"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stderr is not None
        address = server.stderr.readline().partition(" on ")[2].partition(";")[0]
        port = int(address.removesuffix("/v1").rpartition(":")[2])
        with urlopen(f"{address}/models", timeout=60) as reply:
            assert [model["id"] for model in json.load(reply)["data"]] == [tiny_model.name]
        gone = streamed(address, tiny_model.name, 128)
        assert gone.readline().startswith(b"data: ")
        gone.fp.raw._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()  # with a reset, as where the client's process is killed
        assert cli.main(["serve", str(tiny_model), "--port", str(port)]) == 2
        assert f"port {port} on 127.0.0.1 is in use" in capsys.readouterr().err
        with streamed(address, tiny_model.name, 1) as whole:
            assert whole.read().endswith(b"data: [DONE]\n\n")
        with streamed(address, tiny_model.name, 128) as stream:
            assert stream.readline().startswith(b"data: ")
            server.send_signal(number)
            rest = stream.read().decode()
        out, err = server.communicate(timeout=60)
    assert server.returncode == 0
    assert err == "serve: closed\n"
    assert json.loads(out) == {"address": address, "model": tiny_model.name, "reward_model": ""}
    assert "the server is closing" in rest and "[DONE]" not in rest
    bound("serve", "127.0.0.1", port).close()  # it is free again
