"""Rollouts from a vLLM server: what is asked, with which weights, and what is refused."""

import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import builtin_model
import pytest
import torch
import vllm_process
from aiohttp import web
from loops import loop, settings
from vllm_server import VllmServer

from starling import chat, metrics, models
from starling.adapters import Lora
from starling.checkpoint import Checkpoint
from starling.distributed.vllm import Server
from starling.errors import CallError, UsageError
from starling.generate import Request, Sampled, generate, stop_ids
from starling.metrics import Recorder
from starling.packing import pack
from starling.policy import Policy

STOP = frozenset([0, 2])
REQUESTS = [Request(prompt=(1, 5, 6 + at), seed=2**62 + at, temperature=0.7, top_p=0.9) for at in range(6)]


@pytest.fixture
def policy(tiny_model: Path) -> Policy:
    return Policy(models.load_policy(str(tiny_model), torch.float32), 2, lora=Lora(rank=2, alpha=8, seed=1))


def move(policy: Policy) -> None:
    with torch.no_grad():
        for weight in policy.trained.values():
            weight += 0.1 * torch.randn_like(weight)


def same(found: list[Sampled], wanted: list[Sampled]) -> bool:
    """The same tokens, and logprobs but for the rounding of a merge."""
    logprobs = [[value for one in answers for value in one.logprobs] for answers in (found, wanted)]
    return [(one.ids, one.finished) for one in found] == [(one.ids, one.finished) for one in wanted] and logprobs[
        0
    ] == pytest.approx(logprobs[1], abs=1e-4)


def asked(server: Server) -> list[Sampled]:
    return server.generate(REQUESTS, max_new_tokens=6, stop=STOP)


def here(policy: Policy) -> list[Sampled]:
    policy.sync()
    return generate(policy.network, REQUESTS, max_new_tokens=6, stop=STOP)


def test_the_server_answers_as_this_process_does_under_each_steps_adapters(
    policy: Policy, tiny_model: Path, tmp_path: Path
) -> None:
    counted: list[int] = []
    with VllmServer(tiny_model, dev=False) as fake:
        server = Server(fake.url + "/", tmp_path / "sampler", str(tiny_model))
        server.take(policy)
        first = server.generate(REQUESTS, max_new_tokens=6, stop=STOP, on_tokens=counted.append)
        assert same(first, here(policy))
        move(policy)
        server.take(policy)
        second = asked(server)
        assert same(second, here(policy))
        assert not same(second, first)
        assert sum(counted) == sum(len(one.ids) for one in first)
        assert len(counted) == len(REQUESTS)
        # each request says all that decides what is sampled
        body = next(one for one in fake.requests if one["seed"] == 2**62 + 3)
        assert (body["prompt"], body["temperature"], body["top_p"]) == ([1, 5, 9], 0.7, 0.9)
        assert (body["max_tokens"], body["stop_token_ids"]) == (6, [0, 2])
        assert len(set(fake.loaded)) == 2
        assert fake.unloaded == fake.loaded[:1]
        server.leave()
        assert fake.unloaded == fake.loaded
        assert not (tmp_path / "sampler").exists()


def test_the_same_weights_are_not_loaded_again(policy: Policy, tiny_model: Path, tmp_path: Path) -> None:
    with VllmServer(tiny_model) as fake:
        server = Server(fake.url, tmp_path / "sampler", str(tiny_model))
        server.take(policy)
        server.take(policy)
        assert len(fake.loaded) == 1


def test_without_adapters_the_server_reads_all_weights_again(tiny_model: Path, tmp_path: Path) -> None:
    policy = Policy(models.load_policy(str(tiny_model), torch.float32), 2)
    with VllmServer(tiny_model, lora=False) as fake:
        server = Server(fake.url, tmp_path / "sampler", str(tiny_model))
        first = asked(server)
        for reloads in (1, 2):
            move(policy)
            server.take(policy)
            assert same(asked(server), here(policy))
            assert fake.reloads == reloads
        assert not same(asked(server), first)
        server.leave()
        assert same(asked(server), first)  # it is given back as it was


@pytest.mark.parametrize("fails", [False, True], ids=["in peace", "after a failure"])
def test_the_server_is_given_back_however_the_loop_ends(tiny_model: Path, tmp_path: Path, fails: bool) -> None:
    policy = Policy(models.load_policy(str(tiny_model), torch.float32), 2)
    with VllmServer(tiny_model, lora=False) as fake:
        server = Server(fake.url, tmp_path / "sampler", str(tiny_model))
        first = asked(server)
        move(policy)
        with pytest.raises(ZeroDivisionError) if fails else nullcontext(), server:
            server.take(policy)
            assert not same(asked(server), first)
            assert not fails or 1 // 0
        assert same(asked(server), first)
        assert not (tmp_path / "sampler").exists()


def test_weights_that_a_killed_run_left_on_the_server_are_taken_back(tiny_model: Path, tmp_path: Path) -> None:
    policy = Policy(models.load_policy(str(tiny_model), torch.float32), 2)
    with VllmServer(tiny_model, lora=False) as fake:
        killed = Server(fake.url, tmp_path / "sampler", str(tiny_model))
        first = asked(killed)
        move(policy)
        killed.take(policy)
        with Server(fake.url, tmp_path / "sampler", str(tiny_model)):  # with no step left to sample for
            pass
        assert same(asked(killed), first)


@pytest.mark.parametrize("restarted", [False, True], ids=["same server", "server started anew"])
def test_adapters_that_a_killed_run_left_on_the_server_are_unloaded(
    policy: Policy, tiny_model: Path, tmp_path: Path, restarted: bool
) -> None:
    with VllmServer(tiny_model, dev=False) as fake:
        Server(fake.url, tmp_path / "sampler", str(tiny_model)).take(policy)
        (left,) = fake.loaded
        move(policy)
        with VllmServer(tiny_model, dev=False) if restarted else nullcontext(fake) as now:
            with Server(now.url, tmp_path / "sampler", str(tiny_model)) as server:
                server.take(policy)
                assert same(asked(server), here(policy))
                assert not (tmp_path / "sampler" / left).exists()
            assert now.unloaded == now.loaded  # of one started anew what was left is no adapter
            assert (left in now.loaded) == (not restarted)


def test_a_server_that_fails_does_not_hide_what_failed_before(tiny_model: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "config.json").write_text("{}")  # weights that the server is to be rid of
    with pytest.raises(ZeroDivisionError), Server("http://127.0.0.1:9", tmp_path, str(tiny_model)):
        raise ZeroDivisionError
    assert "the server still has this run's weights" in " ".join(capsys.readouterr().out.split())


def test_the_key_comes_from_the_environment(
    policy: Policy, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "a-key")
    with VllmServer(tiny_model) as fake:
        server = Server(fake.url, tmp_path / "sampler", str(tiny_model))
        server.take(policy)
        asked(server)
        assert fake.keys == {"Bearer a-key"}


def _no_ids(choice: dict[str, Any]) -> None:
    del choice["token_ids"]


def _no_logprobs(choice: dict[str, Any]) -> None:
    choice["logprobs"] = None


def _half(choice: dict[str, Any]) -> None:
    choice["token_ids"] = choice["token_ids"][:-1]


def _aborted(choice: dict[str, Any]) -> None:
    choice |= {"token_ids": [7], "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "abort"}


def _infinite(choice: dict[str, Any]) -> None:
    choice |= {"token_ids": [2], "logprobs": {"token_logprobs": [float("-inf")]}}


@pytest.mark.parametrize(
    ("garble", "line"),
    [
        (_no_ids, "a reply has no token ids with logprobs"),
        (_no_logprobs, "a reply has no token ids with logprobs"),
        (_half, "ended by"),
        (_aborted, "an answer of 1 ids and 1 logprobs ended by 'abort', neither at a stop token nor at the cap"),
        (_infinite, "has no finite logprobs"),
    ],
)
def test_a_reply_that_no_sampler_could_give_is_refused(
    garble: Callable[[dict[str, Any]], None], line: str, tiny_model: Path, tmp_path: Path
) -> None:
    with VllmServer(tiny_model, garble=garble) as fake, pytest.raises(CallError) as raised:
        Server(fake.url, tmp_path / "sampler", str(tiny_model)).generate(REQUESTS[:1], max_new_tokens=6, stop=STOP)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_server_started_without_what_is_needed_is_told_how_to_be(
    policy: Policy, tiny_model: Path, tmp_path: Path
) -> None:
    with VllmServer(tiny_model, lora=False, dev=False) as fake:
        server = Server(fake.url, tmp_path / "sampler", str(tiny_model))
        with pytest.raises(CallError, match=r"load_lora_adapter failed with status 404: .*; start it with --enable-l"):
            server.take(policy)
        plain = Policy(models.load_policy(str(tiny_model), torch.float32), 2)
        with pytest.raises(CallError, match=r"collective_rpc failed with status 404: .*; start it with VLLM_SERVER_D"):
            server.take(plain)


def test_a_server_that_wants_a_key_is_told_of_the_variable(policy: Policy, tiny_model: Path, tmp_path: Path) -> None:
    def locked(_reply: object) -> None:
        raise web.HTTPUnauthorized(text="no key")

    with VllmServer(tiny_model, garble=locked) as fake:
        server = Server(fake.url, tmp_path / "sampler", str(tiny_model))
        with pytest.raises(CallError, match=r"^tune: .*sampling failed with status 401: no key; set VLLM_API_KEY to"):
            server.generate(REQUESTS[:1], max_new_tokens=6, stop=STOP)


def test_a_server_that_repeats_the_key_is_passed_on_without_it(
    policy: Policy, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def repeats(_reply: object) -> None:
        raise web.HTTPUnauthorized(text="bad\n\x1b[31mkey: a-key, sk-proj-abc")

    monkeypatch.setenv("VLLM_API_KEY", "a-key")
    with VllmServer(tiny_model, garble=repeats) as fake:
        server = Server(fake.url, tmp_path / "sampler", str(tiny_model))
        with pytest.raises(CallError, match=r"status 401: bad \\x1b\[31mkey: \*\*\*, \*\*\*; set VLLM_API_KEY to"):
            server.generate(REQUESTS[:1], max_new_tokens=6, stop=STOP)
        monkeypatch.setenv("VLLM_API_KEY", "a\nkey")
        with pytest.raises(UsageError, match=r"^the key in VLLM_API_KEY holds a line break or control character"):
            server.generate(REQUESTS[:1], max_new_tokens=6, stop=STOP)


def test_a_server_is_tried_before_it_is_needed(policy: Policy, tiny_model: Path, tmp_path: Path) -> None:
    with VllmServer(tiny_model) as fake:
        Server(fake.url, tmp_path / "sampler", str(tiny_model)).try_out(policy)
        assert len(fake.loaded) == 1
    with VllmServer(tiny_model, garble=_no_logprobs) as fake, pytest.raises(CallError, match=r"needs vLLM 0\.10\.2 or"):
        Server(fake.url, tmp_path / "sampler", str(tiny_model)).try_out(policy)


@pytest.mark.parametrize("temperature", [0.5, 0.9])
def test_a_server_whose_logprobs_are_of_another_temperature_is_refused(
    temperature: float, tiny_model: Path, tmp_path: Path
) -> None:
    policy = Policy(models.load_policy(str(tiny_model), torch.float32), 2, temperature)
    with VllmServer(tiny_model) as fake:
        Server(fake.url, tmp_path / "sampler", str(tiny_model)).try_out(policy)
    with (
        VllmServer(tiny_model, raw=True) as fake,
        pytest.raises(CallError, match=r"its logprobs are those at temperature 1 .*--logprobs-mode processed_logprobs"),
    ):
        Server(fake.url, tmp_path / "sampler", str(tiny_model)).try_out(policy)


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(CallError, match=r"asked 3 times: .*; is the server running\?"):
        Server(url, tmp_path / "sampler", "base").generate(REQUESTS[:1], max_new_tokens=6, stop=STOP)


def test_a_loop_on_the_server_ends_where_one_in_this_process_does(tiny_model: Path, tmp_path: Path) -> None:
    # all blocks are trained: of frozen ones the loop in this process would take the states from sampling, which rounds
    changes = {"tune__algorithm": "grpo", "tune__lora_rank": 2, "tune__rollouts_per_prompt": 4, "tune__layers": 0}
    cfg = settings(tmp_path, tiny_model, **changes)
    alone = loop(cfg, Recorder(tmp_path / "alone.jsonl", "tune"))
    alone.train(Checkpoint(tmp_path / "alone.pt", 1e9))
    with VllmServer(tiny_model) as fake:
        server = Server(fake.url, tmp_path / "sampler", str(tiny_model))
        served = loop(cfg, Recorder(tmp_path / "served.jsonl", "tune"), server=server)
        served.train(Checkpoint(tmp_path / "served.pt", 1e9))
        assert len(fake.loaded) == cfg.tune.steps
    assert served.tokens == alone.tokens
    lines = zip(metrics.read(tmp_path / "alone.jsonl"), metrics.read(tmp_path / "served.jsonl"), strict=True)
    for one, other in lines:
        assert other.get("tune/reward", 0.0) == pytest.approx(one.get("tune/reward", 0.0), abs=1e-3)
        assert other.get("tune/sampling/sampling_logp_difference/mean", 0.0) < 0.1


def test_a_sampler_with_other_weights_than_the_policys_is_warned_about(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Policy(models.load_policy(str(tiny_model), torch.float32), 0)
    with torch.no_grad():
        for weight in other.trained.values():
            weight *= 1.3
    other.sync()
    models.save(models.Model(other.network, other.tokenizer), tmp_path / "other")
    cfg = settings(tmp_path, tiny_model, tune__algorithm="grpo", tune__lora_rank=2)
    with VllmServer(tmp_path / "other") as fake:
        server = Server(fake.url, tmp_path / "sampler", str(tiny_model))
        loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), server=server).train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert capsys.readouterr().out.count("logprob as sampled and as trained differ by") == 1


# the real one


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where vLLM serves smollm2 with adapters."""
    vllm_process.require()
    folder = builtin_model.fetched()
    log = tmp_path_factory.mktemp("vllm") / "log.txt"
    options = ["--dtype", "bfloat16", "--enable-lora", "--max-lora-rank", "8", "--logprobs-mode", "processed_logprobs"]
    options += ["--max-model-len", "1024", "--max-num-seqs", "32"]
    switches = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_SERVER_DEV_MODE": "1"}
    with vllm_process.serving(folder, log, *options, wait_seconds=900, **switches) as url:
        yield url


@torch.no_grad()
def gap(policy: Policy, requests: list[Request], answers: list[Sampled]) -> tuple[float, float]:
    """How far a token's logprob as sampled is from the trained policy's, and from the initial one's, in the mean."""
    packed = pack([(request.prompt, [one.ids]) for request, one in zip(requests, answers, strict=True)])
    features = policy.features(packed)
    sampled_N = torch.tensor([value for one in answers for value in one.logprobs])
    trained_N = policy.logprobs(packed, features)
    return float((trained_N - sampled_N).abs().mean()), float((features.ref_logprob_N - sampled_N).abs().mean())


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rank", [8, 0], ids=["adapters", "all weights"])
def test_vllm_samples_under_the_trained_policy(rank: int, real: str, tmp_path: Path) -> None:
    lora = Lora(rank=rank, alpha=32, seed=1) if rank else None
    policy = Policy(models.load_policy("smollm2"), 6, 0.7, lora)
    stop = stop_ids(policy.network)
    asks = ["What is the capital of France?", "Say one word.", "Name three rivers.", "Write a line about rain."]
    requests = [
        Request(
            prompt=chat.prompt_ids(policy.tokenizer, [{"role": "user", "content": ask}]), seed=seed, temperature=0.7
        )
        for ask in asks
        for seed in range(4)
    ]
    server = Server(real, tmp_path / "sampler", models.resolve("smollm2"))
    server.take(policy)
    first = server.generate(requests, max_new_tokens=32, stop=stop)
    trained, initial = gap(policy, requests, first)
    print(f"rank {rank}, first step: {trained:.4f} nats to the trained policy, {initial:.4f} to the initial one")
    assert trained == initial < 0.1  # bfloat16 logits on both sides
    assert any(one.finished for one in first)
    with torch.no_grad():
        for name, weight in policy.trained.items():
            scale = 0.08 if rank else 0.3 * weight.std() if weight.ndim == 2 else 0.0
            weight += scale * torch.randn_like(weight) * ("lora_A" not in name)
    server.take(policy)
    second = server.generate(requests, max_new_tokens=32, stop=stop)
    trained, initial = gap(policy, requests, second)
    print(f"rank {rank}, moved: {trained:.4f} nats to the trained policy, {initial:.4f} to the initial one")
    assert trained < 0.15
    assert initial > 3 * trained
    assert second != first
    server.leave()
