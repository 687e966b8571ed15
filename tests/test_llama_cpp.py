"""A real llama.cpp server with the built-in model as generator and judge, and the messy replies of a small model."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_server import serving_builtin
from small_road import recipe

from starling import config, data_files
from starling.client import Client
from starling.endpoints import Endpoint
from starling.errors import StopStage
from starling.ledger import Ledger
from starling.records import Call, Reply
from starling.stages import prompts, rank, sample
from starling.store import Run

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]
SLOTS = 4
ENDPOINT = """
[[endpoints]]
name = "llama"
urls = ["{url}/v1"]
model = "smollm2"
concurrency = {slots}
timeout_seconds = 300
price_in = 0.5
price_out = 1.5
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a llama.cpp server with the built-in model listens."""
    with serving_builtin(tmp_path_factory.mktemp("gguf"), slots=SLOTS) as address:
        yield address


def start(folder: Path, tiny_model: Path, url: str, **changes) -> Run:
    """A run of six prompts with three generators in process and one behind the server, which also judges."""
    changes = {"rank__judge": "llama", "rank__probe_prompts": 0, "rank__max_new_tokens": 100} | changes
    changes |= {"sample__train_prompts": 4, "sample__validation_prompts": 2}
    path = recipe(folder, tiny_model, **changes)
    far = '[[sample.generators]]\nname = "far"\nmodel = "llama"\nsystem = "Answer in one short sentence."\n'
    path.write_text(path.read_text() + far + ENDPOINT.format(url=url, slots=SLOTS))
    run = Run.open(folder / "run", config.load(path))
    prompts.run(run)
    return run


def test_a_real_server_answers_every_call_and_counts_its_tokens(url: str, tmp_path: Path) -> None:
    questions = ["What is the capital of France?", "Name three colours.", "Say nothing at all.", "2 + 2 ="] * 2
    calls = [
        Call(messages=[{"role": "user", "content": question}], max_tokens=40, temperature=0.7, draw=draw)
        for draw, question in enumerate(questions)
    ]
    with Ledger(tmp_path / "calls.sqlite") as ledger:
        target = Endpoint(name="llama", urls=(url + "/v1",), model="smollm2", concurrency=SLOTS, timeout_seconds=300)
        client = Client(target, ledger)
        begun = time.monotonic()
        replies = client.chat(calls)
        seconds = time.monotonic() - begun
        print(f"{len(calls)} calls, {client.counts.completion_tokens} tokens in {seconds:.1f} s")
        assert all(isinstance(reply, Reply) for reply in replies)
        assert all(0 < reply.completion_tokens <= 40 and reply.prompt_tokens > 5 for reply in replies)
        assert all(reply.finished or reply.completion_tokens == 40 for reply in replies)
        assert Client(target, ledger).chat(calls) == replies


def test_the_built_in_model_as_generator_and_as_judge_loses_no_row(url: str, tiny_model: Path, tmp_path: Path) -> None:
    run = start(tmp_path, tiny_model, url, rank__max_unparsed=1.0)
    sampled = sample.run(run)
    (spent,) = sampled["spending"]
    assert (spent["endpoint"], spent["calls"], spent["failures"]) == ("llama", 6, 0)
    assert spent["usd"] == pytest.approx((spent["prompt_tokens"] * 0.5 + spent["completion_tokens"] * 1.5) / 1e6)
    far = [row for row in data_files.read_rows(run.folder("sample")) if row["model"] == "far"]
    assert len(far) == 6
    assert sum(row["num_tokens"] for row in far) == spent["completion_tokens"]

    facts = rank.run(run)
    assert facts["ranked"] + facts["unranked"] == 6
    unranked = [row for path in (run.root / "unranked").glob("*.jsonl") for row in data_files.read_rows(path)]
    assert len(unranked) == facts["unranked"]
    assert all(row["reason"] and row["replies"] for row in unranked)
    (judged,) = facts["spending"]
    assert judged["calls"] == 6 + sum(len(row["replies"]) == 2 for row in unranked) + _second_try(run)
    print("ranked", facts["ranked"], "unranked", Counter(row["reason"][:40] for row in unranked))
    before = {path: path.read_bytes() for path in run.folder("rank").iterdir()}
    assert rank.run(run)["spending"][0]["calls"] == judged["calls"]
    assert {path: path.read_bytes() for path in run.folder("rank").iterdir()} == before


def _second_try(run: Run) -> int:
    """Rankings that were read from the second reply only: the orders of both replies are kept."""
    return sum(len(row["orders"]) == 2 for row in data_files.read_rows(run.folder("rank")))


def test_a_judge_that_is_too_weak_stops_the_stage_in_one_line(url: str, tiny_model: Path, tmp_path: Path) -> None:
    run = start(tmp_path, tiny_model, url, rank__max_unparsed=0.0, rank__max_new_tokens=24)
    sample.run(run)
    with pytest.raises(StopStage, match=r"^rank: 6 of 6 prompts have no readable ranking .*cut off at 24 tokens"):
        rank.run(run)


def test_a_server_that_holds_replies_to_a_schema_makes_marks_that_can_all_be_read(
    url: str, tiny_model: Path, tmp_path: Path
) -> None:
    run = start(tmp_path, tiny_model, url, rank__strategy="pointwise", rank__output="json", rank__max_unparsed=0.0)
    sample.run(run)
    facts = rank.run(run)
    assert (facts["ranked"], facts["unranked"]) == (6, 0)
    rows = list(data_files.read_rows(run.folder("rank")))
    assert all(1 <= mark <= 10 for row in rows for mark in row["marks"])
    print("marks", Counter(mark for row in rows for mark in row["marks"]))


def test_a_schema_cannot_forbid_an_answer_named_twice_so_such_a_ranking_is_told(
    url: str, tiny_model: Path, tmp_path: Path
) -> None:
    run = start(tmp_path, tiny_model, url, rank__strategy="direct", rank__output="json", rank__max_unparsed=1.0)
    sample.run(run)
    facts = rank.run(run)
    assert facts["ranked"] + facts["unranked"] == 6
    unranked = [row for path in (run.root / "unranked").glob("*.jsonl") for row in data_files.read_rows(path)]
    print("ranked", facts["ranked"], "unranked", Counter(row["reason"] for row in unranked))
    assert all("not a permutation" in row["reason"] or "twice" in row["reason"] for row in unranked)
