"""`starling serve`: a run or a model behind OpenAI's API, until it is told to stop."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal

from aiohttp import web

from starling import addresses, device, models, offer, progress, reward
from starling.engine import Engine
from starling.errors import UsageError
from starling.listening import bound, stop_asked
from starling.offer import Offer
from starling.server import Server

SLOTS = 16  # answers under way at once; more would make each of them slower on a CPU
WAITING = 256  # answers that may wait for a slot; whoever comes then is told to come again
CLOSING_SECONDS = 2.0  # for replies that are on their way out
EngineName = Literal["starling", "vllm"]


def serve(source: str, *, reward_model: str, host: str, port: int, engine: EngineName) -> dict[str, str]:
    """Serve until Ctrl-C or SIGTERM; returns where it stood."""
    key = addresses.key("serve", host)
    found = offer.find(source, reward_model)
    if engine == "vllm":
        _become_vllm(found, host, port, key)
    with bound("serve", host, port) as listening:
        address = f"http://{'[::1]' if host == '::1' else host}:{listening.getsockname()[1]}/v1"
        device.setup(0, 0)
        asyncio.run(_until_stopped(found, listening, key, address))
    progress.say("serve: closed")
    return {"address": address, "model": found.policy_name, "reward_model": found.reward_name}


def vllm_command(found: Offer, host: str, port: int) -> list[str]:
    """The call of `vllm serve` for the policy, or for the reward model where there is no policy."""
    model, name = (found.policy, found.policy_name) if found.policy else (found.reward, found.reward_name)
    command = ["vllm", "serve", models.resolve(model), "--served-model-name", name, "--host", host, "--port", str(port)]
    command += ["--allowed-origins", "[]"]  # or the pages of every site could ask, and read what is answered
    return command if found.policy else [*command, "--runner", "pooling"]


@asynccontextmanager
async def running(found: Offer, listening: socket.socket, key: str) -> AsyncIterator[Engine]:
    """The server at work on a socket; at the end every answer under way ends too."""
    policy = models.load_policy(found.policy) if found.policy else None
    scorer = reward.load_reward_model(found.reward) if found.reward else None
    async with AsyncExitStack() as closing:
        engine = Engine(policy, SLOTS)
        app = Server(found, engine, policy, scorer, key, most=SLOTS + WAITING).app()
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=CLOSING_SECONDS, access_log=None)
        await runner.setup()
        closing.push_async_callback(runner.cleanup)
        await closing.enter_async_context(engine)
        site = web.SockSite(runner, listening)
        await site.start()
        closing.push_async_callback(site.stop)  # first of all: nobody comes in while answers end
        yield engine


async def _until_stopped(found: Offer, listening: socket.socket, key: str, address: str) -> None:
    stopped = stop_asked()
    async with running(found, listening, key):
        what = " and ".join(name for name in (found.policy_name, found.reward_name) if name)
        progress.say(f"serve: {what} on {address}; Ctrl-C ends it")
        await stopped.wait()


def _become_vllm(found: Offer, host: str, port: int, key: str) -> None:
    program = shutil.which("vllm")
    if program is None:
        raise UsageError("serve: there is no `vllm` on the PATH; pip install vllm, or leave --engine vllm out")
    if found.policy and found.reward:
        progress.say("serve: vLLM serves the policy alone; /v1/score needs a second server")
    environment = os.environ | ({"VLLM_API_KEY": key} if key else {})  # not on the command line, which others can read
    os.execve(program, vllm_command(found, host, port), environment)
