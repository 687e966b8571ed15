"""What a run spends on endpoints, over all its attempts, and what stops it before the budget is passed."""

from pathlib import Path

import pytest
import runs
from servers import Server, fails, ranking_judge, replies_with
from small_road import recipe

from starling import cli, config, data_files, endpoints, spending
from starling.ledger import Ledger, call_key
from starling.records import Reply
from starling.store import Run

ENDPOINTS = """
[[sample.generators]]
name = "far"
model = "policy"
[[endpoints]]
name = "policy"
urls = ["{policy}"]
model = "p"
concurrency = 2
price_in = 0.0
price_out = 1000.0
[[endpoints]]
name = "judge"
urls = ["{judge}"]
model = "j"
price_in = 0.0
price_out = 2000.0
"""


def road(folder: Path, model: Path, policy: str, judge: str) -> Path:
    path = recipe(folder, model, rank__judge="judge", rank__probe_prompts=0)
    path.write_text(path.read_text() + ENDPOINTS.format(policy=policy, judge=judge))
    return path


@pytest.fixture
def servers():
    with (
        Server(always=replies_with(lambda text: f"so {text}")) as policy,
        Server(always=replies_with(ranking_judge(len))) as judge,
    ):
        yield policy, judge


def test_policy_and_judge_never_mix_and_the_facts_say_what_each_cost(tiny_model, tmp_path, servers) -> None:
    policy, judge = servers
    path = road(tmp_path, tiny_model, policy.url, judge.url)
    assert cli.main(["run", str(path), "--run", str(tmp_path / "run"), "--until", "rank"]) == 0
    run = Run.read(tmp_path / "run")
    assert {payload["model"] for payload in policy.requests} == {"p"}
    assert {payload["model"] for payload in judge.requests} == {"j"}
    # each of 15 replies counts 7 tokens in and 3 out; 45 at $1,000 and $2,000 a million
    usual = {"calls": 15, "from_ledger": 0, "failures": 0, "prompt_tokens": 105, "completion_tokens": 45}
    assert run.facts("sample")["spending"] == [
        {"endpoint": "policy", "model": "p", **usual, "usd": pytest.approx(0.045), "answered_as": []}
    ]
    assert run.facts("rank")["spending"] == [
        {"endpoint": "judge", "model": "j", **usual, "usd": pytest.approx(0.09), "answered_as": []}
    ]
    assert run.facts("rank")["judge"] == "kwise:judge"


def test_a_budget_stops_the_run_which_goes_on_with_more_and_pays_nothing_twice(
    tiny_model, tmp_path, servers, capsys
) -> None:
    policy, judge = servers
    root = tmp_path / "run"
    path = road(tmp_path, tiny_model, policy.url, judge.url)
    arguments = ["run", str(path), "--run", str(root), "--until", "sample"]
    # A call may cost 16 tokens, $0.016, and does cost $0.003: nine calls are $0.027, the tenth might pass $0.04.
    assert cli.main([*arguments, "--set", "run.budget_usd=0.04"]) == 1
    said = capsys.readouterr().err
    assert "sample: stopped before the budget of $0.04 (run.budget_usd) is passed: $0.0270 is spent, $0.0130 is" in said
    assert f"starling run --run {root} --set run.budget_usd=..." in said
    asked = len(policy.requests)
    assert asked == 9
    assert cli.main(["run", "--run", str(root), "--until", "sample"]) == 1  # what was spent counts on
    assert len(policy.requests) == asked
    assert cli.main(["run", "--run", str(root), "--until", "sample", "--set", "run.budget_usd=1"]) == 0
    assert len(policy.requests) == 15
    (spent,) = Run.read(root).facts("sample")["spending"]
    # Of the nine, five stood in a written shard, which is not asked for again.
    assert (spent["calls"], spent["from_ledger"], spent["usd"]) == (15, 4, pytest.approx(0.045))
    assert Run.read(root).config.run.budget_usd == 1


def test_a_budget_does_not_forget_an_endpoint_that_is_no_longer_named(tiny_model, tmp_path, servers, capsys) -> None:
    policy, judge = servers
    root = tmp_path / "run"
    path = road(tmp_path, tiny_model, policy.url, judge.url)
    arguments = ["run", str(path), "--run", str(root), "--until", "sample", "--set", "run.budget_usd=9"]
    assert cli.main(arguments) == 0
    with Ledger(root / "calls.sqlite", "evaluate bench judge") as ledger:
        attempt = ledger.sent(call_key("gone", "m", "{}", 0), name="gone", model="m", request="{}", draw=0)
        ledger.replied(attempt, Reply(text="A", finished=True, prompt_tokens=10, completion_tokens=2))
    arguments[5] = "rank"
    assert cli.main(arguments) == 2
    assert "the run has called gone, whose price is not known" in capsys.readouterr().err
    table = [
        "[[endpoints]]",
        'name = "gone"',
        'urls = ["http://there"]',
        'model = "m"',
        "price_in = 1e6",
        "price_out = 0",
    ]
    path.write_text("\n".join([path.read_text(), *table, ""]))
    assert cli.main(arguments) == 1  # $10 are gone
    assert "before the budget of $9" in capsys.readouterr().err


def test_the_shipped_price_of_an_endpoint_is_known_by_its_name_in_the_ledger() -> None:
    (provider, *_) = endpoints._price_table()["providers"]
    model, price = next(iter(provider["models"].items()))
    found = endpoints.of_ledger(f"{model}@{provider['host']}", model)
    assert found is not None and [found.price_in, found.price_out] == price
    assert endpoints.of_ledger("judge", "m") is None


def test_a_missing_key_of_the_judge_is_told_before_anything_is_asked(
    tiny_model, tmp_path, servers, capsys, monkeypatch
):
    policy, judge = servers
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    path = road(tmp_path, tiny_model, policy.url, judge.url)
    path.write_text(path.read_text() + 'key_env = "JUDGE_KEY"\n')
    assert cli.main(["run", str(path), "--run", str(tmp_path / "run")]) == 2
    assert "rank: judge: put the key into the environment variable JUDGE_KEY" in capsys.readouterr().err
    assert policy.requests == judge.requests == []
    assert Run.read(tmp_path / "run").manifest["stages"] == {}


def test_limits_and_prices_of_a_run_may_change_but_not_what_its_rows_depend_on(
    tiny_model, tmp_path, servers, capsys
) -> None:
    policy, judge = servers
    path = road(tmp_path, tiny_model, policy.url, judge.url)
    arguments = ["run", str(path), "--run", str(tmp_path / "run"), "--until", "sample"]
    assert cli.main(arguments) == 0
    text = path.read_text()
    path.write_text(text.replace("concurrency = 2", "concurrency = 3").replace("2000.0", "1.0"))
    assert cli.main(arguments) == 0
    assert Run.read(tmp_path / "run").config.endpoints[0].concurrency == 3
    path.write_text(text.replace('model = "p"', 'model = "q"'))
    assert cli.main(arguments) == 2
    assert "endpoints: others, or of other models" in capsys.readouterr().err
    # Another run takes over what agrees: prompts, but not the answers of another model.
    other = [*arguments[:3], str(tmp_path / "other"), *arguments[4:], "--from", str(tmp_path / "run")]
    assert cli.main(other) == 0
    assert {payload["model"] for payload in policy.requests} == {"p", "q"}
    assert len(data_files.read_rows(tmp_path / "other" / "sample")) == 60


def test_a_stage_past_its_deadline_stops_and_goes_on_later(tiny_model, tmp_path, servers, capsys) -> None:
    policy, judge = servers
    path = road(tmp_path, tiny_model, policy.url, judge.url)
    arguments = ["run", str(path), "--run", str(tmp_path / "run"), "--until", "sample"]
    assert cli.main([*arguments, "--set", "sample.deadline_seconds=1e-6"]) == 1
    assert "sample: the time of 1e-06 s (sample.deadline_seconds) is over" in capsys.readouterr().err
    assert cli.main(arguments) == 0


def test_failed_attempts_are_counted_and_cost_nothing_where_the_endpoint_said_no(tiny_model, tmp_path, servers) -> None:
    _, judge = servers
    with Server(fails(500), fails(429), always=replies_with(lambda text: "so")) as policy:
        path = road(tmp_path, tiny_model, policy.url, judge.url)
        assert cli.main(["run", str(path), "--run", str(tmp_path / "run"), "--until", "sample"]) == 0
    (spent,) = Run.read(tmp_path / "run").facts("sample")["spending"]
    assert (spent["calls"], spent["failures"], spent["completion_tokens"]) == (15, 2, 45)


def test_the_dollars_of_each_stage_are_read_from_the_ledger(tmp_path: Path) -> None:
    def table(name: str, **prices: float) -> dict[str, object]:
        return {"name": name, "urls": ["http://127.0.0.1:1"], "model": "m", **prices}

    settings = config.Config.model_validate({
        "sample": {"generators": [{"name": name, "model": name} for name in ("far", "free")]},
        "rank": {"judge": "judge"},
        "endpoints": [
            table("far", price_in=10.0, price_out=1000.0), table("judge", price_in=100.0, price_out=0.0), table("free"),
        ],
    })  # fmt: skip
    path = tmp_path / "calls.sqlite"
    assert spending.by_stage(settings, path) == {}
    for stage, name in (("sample", "far"), ("sample", "far"), ("rank", "judge")):
        with Ledger(path, stage) as ledger:
            sent = ledger.sent(call_key(name, "m", "{}", 0), name=name, model="m", request="{}", draw=0)
            ledger.replied(sent, Reply(text="yes", finished=True, prompt_tokens=500, completion_tokens=20))
    # sample: 2 x (500 x 10 + 20 x 1000) / 1e6 = 0.05; rank: 500 x 100 / 1e6 = 0.05
    assert spending.by_stage(settings, path) == pytest.approx({"sample": 0.05, "rank": 0.05})
    with Ledger(path, "sample") as ledger:
        sent = ledger.sent(call_key("free", "m", "{}", 0), name="free", model="m", request="{}", draw=0)
        ledger.replied(sent, Reply(text="yes", finished=True, prompt_tokens=5, completion_tokens=2))
    assert spending.by_stage(settings, path) == {"sample": None, "rank": pytest.approx(0.05)}
    with Ledger(path, "") as ledger:  # as calls of a ledger's first form stand, which did not tell the stage
        sent = ledger.sent(call_key("far", "m", "{}", 1), name="far", model="m", request="{}", draw=0)
        ledger.replied(sent, Reply(text="yes", finished=True, prompt_tokens=500, completion_tokens=20))
    assert spending.by_stage(settings, path)[""] == pytest.approx(0.025)
    assert spending.by_stage(runs.SETTINGS, path) == {}  # no endpoint: the ledger is not even opened


def test_what_a_benchmark_asks_counts_as_its_stages_and_models_here_cost_nothing(tmp_path: Path) -> None:
    far = {"name": "far", "urls": ["http://127.0.0.1:1"], "model": "m", "price_in": 10.0, "price_out": 0.0}
    settings = config.Config.model_validate({
        "sample": {"generators": [{"name": "a"}, {"name": "b"}]}, "endpoints": [far],
        "evaluate": {"benchmarks": [{"name": "mt_bench", "judge": "far"}]},
    })  # fmt: skip
    path = tmp_path / "calls.sqlite"
    for stage, name, model in (
        ("evaluate mt_bench verdicts", "far", "m"), ("evaluate mt_bench answers", "smollm2", "0a" * 32),
        ("evaluate mt_bench answers", "a/folder", f"{'0a' * 32} in float32"),
    ):  # fmt: skip
        with Ledger(path, stage) as ledger:
            sent = ledger.sent(call_key(name, model, stage, 0), name=name, model=model, request=stage, draw=0)
            ledger.replied(sent, Reply(text="yes", finished=True, prompt_tokens=500, completion_tokens=20))
    assert spending.by_stage(settings, path) == pytest.approx({"evaluate": 500 * 10 / 1e6})


def test_every_setting_that_may_change_is_a_setting() -> None:
    def tables_of(model):
        yield model
        for field in model.model_fields.values():
            for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(inner, type) and issubclass(inner, config.Table):
                    yield from tables_of(inner)

    for table in set(tables_of(config.Config)):
        assert table.may_change | table.may_grow <= set(table.model_fields)


def test_the_name_that_an_endpoint_gives_its_model_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    spent = dict.fromkeys(("calls", "from_ledger", "failures", "prompt_tokens", "completion_tokens"), 1)
    spending.report("rank", [{"endpoint": "e", "model": "m", "usd": None, "answered_as": ["\x1b[2J[red]x"], **spent}])
    assert capsys.readouterr().out.endswith("rank: e says that \\x1b[2J[red]x answered\n")
