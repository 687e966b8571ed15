"""The server, asked by the official client of its API, and by calls that nobody should make."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from served import Served, serving
from tolerances import CLOSE

from starling import chat, models, reward
from starling.device import seed_for
from starling.generate import Request, generate, stop_ids
from starling.offer import Offer
from starling.records import Message

openai = pytest.importorskip("openai", reason="the official client is not installed: pip install openai")

ASK = [Message(role="user", content="what is rain?")]


@pytest.fixture(scope="module")
def scorer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scorer")
    found = models.new_reward_model(str(tiny_model))
    torch.nn.init.normal_(found.network.score.weight)
    models.save(found, folder)
    return folder


@pytest.fixture(scope="module")
def served(tiny_model: Path, scorer: Path) -> Iterator[Served]:
    offer = Offer(policy=str(tiny_model), reward=str(scorer), policy_name="tiny", reward_name="tiny-reward")
    with serving(offer) as found:
        yield found


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Any]:
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0, timeout=60) as found:
        yield found


def idle(served: Served, seconds: float = 10.0) -> bool:
    """Whether nothing is under way any more after at most so long."""
    end = time.monotonic() + seconds
    while served.engine.num_jobs and time.monotonic() < end:
        time.sleep(0.01)
    return not served.engine.num_jobs


def expected(folder: Path, seed: int, count: int, cap: int) -> tuple[list[str], list[str], int, int]:
    """The answers that the server is to give, how each ends, the tokens of all, and the prompt's."""
    model = models.load_policy(str(folder))
    prompt = chat.prompt_ids(model.tokenizer, ASK)
    requests = [Request(prompt=prompt, seed=seed_for(seed, 0, draw), temperature=0.9) for draw in range(count)]
    found = [generate(model.network, [r], max_new_tokens=cap, stop=stop_ids(model.network))[0] for r in requests]
    texts = [chat.bare_text(model.tokenizer, one.ids) for one in found]
    ends = ["stop" if one.finished else "length" for one in found]
    return texts, ends, sum(len(one.ids) for one in found), len(prompt)


def test_the_models_are_listed_by_name(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "tiny-reward"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_a_chat_gives_the_answers_of_its_seed_with_their_usage(client: Any, tiny_model: Path) -> None:
    texts, ends, tokens, prompt = expected(tiny_model, 5, 3, 12)
    reply = client.chat.completions.create(model="tiny", messages=ASK, seed=5, n=3, max_tokens=12, temperature=0.9)
    assert [choice.message.content for choice in reply.choices] == texts
    assert [choice.finish_reason for choice in reply.choices] == ends
    assert reply.usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"}) == {
        "prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens,
    }  # fmt: skip


def test_a_stream_says_the_same_in_pieces_and_ends_on_its_usage(client: Any, tiny_model: Path) -> None:
    texts, ends, tokens, prompt = expected(tiny_model, 5, 2, 40)
    stream = client.chat.completions.create(
        model="tiny", messages=ASK, seed=5, n=2, max_completion_tokens=40, temperature=0.9, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    said, finished, pieces, usage = ["", ""], [None, None], 0, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            finished[choice.index] = choice.finish_reason
            pieces += 1
    assert said == texts
    assert finished == ends
    assert pieces > 4
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, tokens)


def test_a_plain_completion_goes_on_with_texts_or_ids(client: Any, tiny_model: Path) -> None:
    tokenizer = models.load_tokenizer(str(tiny_model))
    ids = list(chat.text_ids(tokenizer, "the rain in"))
    by_text = client.completions.create(model="tiny", prompt="the rain in", seed=3, temperature=0, max_tokens=8)
    by_ids = client.completions.create(model="tiny", prompt=[ids, ids], seed=4, temperature=0, max_tokens=8)
    assert [choice.text for choice in by_ids.choices] == [by_text.choices[0].text] * 2
    assert by_ids.usage.prompt_tokens == 2 * by_text.usage.prompt_tokens == 2 * len(ids)
    assert client.completions.create(model="tiny", prompt="the rain in").usage.completion_tokens <= 16
    streamed = client.completions.create(model="tiny", prompt="the rain in", temperature=0, max_tokens=8, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == by_text.choices[0].text


def test_a_stop_string_ends_the_answer_before_itself(client: Any) -> None:
    settings = {"model": "tiny", "messages": ASK, "temperature": 0, "max_tokens": 60}
    whole = client.chat.completions.create(**settings).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    cut = client.chat.completions.create(**settings, stop=[stop, "never said"])
    assert cut.choices[0].message.content == whole.partition(stop)[0]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage.completion_tokens < 60


def test_many_clients_at_once_get_what_each_would_get_alone(client: Any) -> None:
    def ask(seed: int) -> str:
        reply = client.chat.completions.create(model="tiny", messages=ASK, seed=seed, max_tokens=20, temperature=1)
        return reply.choices[0].message.content

    alone = [ask(seed) for seed in range(20)]
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(ask, range(20))) == alone
    assert len(set(alone)) > 10


def test_a_client_that_dies_in_a_stream_leaves_nothing_behind(served: Served, client: Any) -> None:
    for _ in range(3):
        stream = client.chat.completions.create(model="tiny", messages=ASK, max_tokens=480, stream=True, n=8, seed=1)
        next(iter(stream))
        stream.close()
    body = json.dumps({"model": "tiny", "messages": ASK, "n": 4, "max_tokens": 480}).encode()
    host, port = served.url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port))) as raw:  # one that waits for the whole reply, and goes
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        raw.sendall(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        time.sleep(0.05)
    assert idle(served)
    assert client.chat.completions.create(model="tiny", messages=ASK, max_tokens=2).choices


def test_where_too_many_wait_the_next_is_told_when_to_come_again(served: Served, client: Any) -> None:
    asked = {"model": "tiny", "messages": ASK, "max_tokens": 480, "temperature": 2, "stream": True}
    streams = [client.chat.completions.create(**asked, n=128) for _ in range(3)]  # the third finds 256 of 272
    try:
        with pytest.raises(openai.RateLimitError, match="384 answers wait or are under way here") as refusal:
            client.chat.completions.create(model="tiny", messages=ASK, max_tokens=2)
        assert refusal.value.response.headers["Retry-After"] == "5"
        assert refusal.value.code == "rate_limit_exceeded"
        status, found = served.post("/score", {"inputs": [{"prompt": "a", "answers": ["b"]}]})
        assert (status, found["error"]["type"]) == (429, "rate_limit_error")
        assert served.get("/models")[0] == 200
    finally:
        for stream in streams:
            stream.close()
    assert idle(served)
    assert client.chat.completions.create(model="tiny", messages=ASK, max_tokens=2).choices


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"max_tokens": 100_000}, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "rain " * 600}]}, "context_length_exceeded"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "unsupported_parameter"),
        ({"temperature": -1}, "invalid_value"),
    ],
    ids=["cap", "prompt", "tools", "temperature"],
)
def test_what_cannot_be_honoured_is_a_bad_request(client: Any, fields: dict[str, Any], code: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(**({"model": "tiny", "messages": ASK} | fields))
    assert refusal.value.code == code


def test_another_model_is_not_found(client: Any) -> None:
    for name in ("gpt-4", "tiny-reward"):
        with pytest.raises(openai.NotFoundError, match="there is tiny"):
            client.chat.completions.create(model=name, messages=ASK)


def test_rewards_are_those_of_the_reward_model(served: Served, scorer: Path) -> None:
    answers = [["rain is wet", "no"], ["the town"]]
    status, found = served.post(
        "/score",
        {"inputs": [{"prompt": "what is rain?", "answers": answers[0]}, {"messages": ASK, "answers": answers[1]}]},
    )
    expected = reward.load_reward_model(str(scorer)).score(["what is rain?", ASK], answers)
    assert (status, found["model"]) == (200, "tiny-reward")
    for row, rewards in zip(found["data"], expected, strict=True):
        assert row["rewards"] == pytest.approx(rewards, abs=CLOSE)
    assert found["data"][0]["rewards"][0] != found["data"][0]["rewards"][1]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "answers": [" "]}, "prompt 0: answer 0 is empty"),
        ({"prompt": "a", "answers": ["rain " * 600]}, "the reward model's window is 512"),
        ({"prompt": "", "answers": ["b"]}, "prompt 0"),
    ],
    ids=["blank", "long", "no prompt"],
)
def test_what_cannot_be_scored_is_a_bad_request(served: Served, row: dict[str, Any], said: str) -> None:
    status, found = served.post("/score", {"inputs": [row]})
    assert status == 400
    assert said in found["error"]["message"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ("{", {}, 400),
        ("[" * 100_000, {}, 400),
        ("[]", {}, 400),
        ("{}", {"Content_Type": "text/plain"}, 415),
        ("{}", {"Host": "evil.example"}, 403),
        ("{}", {"Host": "127.0.0.1.evil.example"}, 403),
        ("x" * (17 * 2**20), {}, 413),
    ],
    ids=["half", "deep", "list", "form", "rebound", "rebound by a look-alike", "huge"],
)
def test_bad_calls_get_an_error_in_the_api_s_shape(served: Served, body: str, headers: dict, status: int) -> None:
    found, content = served.post("/chat/completions", body, **headers)
    assert found == status
    assert content["error"]["message"]
    assert served.get("/nowhere")[0] == 404


def test_a_template_s_own_refusal_is_told(served: Served) -> None:
    status, content = served.post(
        "/chat/completions", {"model": "tiny", "messages": [{"role": "clown", "content": ""}]}
    )
    assert (status, content["error"]["param"]) == (400, "messages")


def test_without_the_token_nothing_is_told(scorer: Path) -> None:
    with serving(Offer(policy="", reward=str(scorer), reward_name="judge"), key="s3cret") as guarded:
        for headers in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "s3cret"}):
            status, content = guarded.get("/models", **headers)
            assert (status, content["error"]["code"]) == (401, "invalid_api_key")
            assert "s3cret" not in json.dumps(content)
        allowed = {"Authorization": "Bearer s3cret", "Host": "models.example"}
        assert guarded.get("/models", **allowed)[0] == 200
        assert guarded.post("/score", {"inputs": [{"prompt": "a", "answers": ["b"]}]}, **allowed)[0] == 200
        status, content = guarded.post("/chat/completions", {"model": "judge", "messages": ASK}, **allowed)
        assert (status, content["error"]["code"]) == (404, "model_not_found")


def test_without_a_reward_model_there_are_no_rewards_and_closing_ends_a_stream(tiny_model: Path) -> None:
    offer = Offer(policy=str(tiny_model), reward="", policy_name="tiny")
    with serving(offer) as served:
        assert served.post("/score", {"inputs": [{"prompt": "a", "answers": ["b"]}]})[0] == 404
        client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)
        stream = iter(client.chat.completions.create(model="tiny", messages=ASK, n=64, max_tokens=480, stream=True))
        next(stream)
    with pytest.raises(openai.APIError):  # says so, or breaks off
        list(stream)
    client.close()


def test_rewards_that_wait_when_the_server_closes_are_refused_in_a_line(scorer: Path) -> None:
    body = {"inputs": [{"prompt": "Is rain wet?", "answers": ["Yes."]}]}
    with ThreadPoolExecutor(1) as pool:
        with serving(Offer(policy="", reward=str(scorer), reward_name="tiny-reward")) as closing:
            closing.engine._thread.submit(time.sleep, 0.5)  # as another call would hold it
            asked = pool.submit(closing.post, "/score", body)
            while not closing.engine._thread._work_queue.qsize():
                time.sleep(0.01)
        status, said = asked.result(60)
    assert status == 503
    assert said["error"]["message"] == "the server is closing" and said["error"]["type"] == "server_error"
