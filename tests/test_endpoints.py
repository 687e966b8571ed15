"""What a MODEL of a recipe means: an endpoint by name, one by URL, or a model in this process."""

from pathlib import Path

import pytest

from starling import cli, config, endpoints
from starling.endpoints import Endpoint
from starling.errors import UsageError

RECIPE = """
[run]
budget_usd = {budget}
[[endpoints]]
name = "judge"
urls = ["https://api.openai.com/v1"]
model = "gpt-4o"
key_env = "JUDGE_KEY"
concurrency = 3
[[endpoints]]
name = "far"
urls = ["http://a/v1", "http://b/v1"]
model = "qwen"
price_in = 0.0
price_out = 0.5
[[sample.generators]]
name = "one"
model = "far"
[[sample.generators]]
name = "two"
[rank]
judge = "judge"
concurrency = 7
"""


def load(folder: Path, *overrides: str, more: str = "", budget: float = 0.0) -> config.Config:
    path = folder / "mine.toml"
    path.write_text(RECIPE.format(budget=budget) + more)
    return config.load(path, list(overrides))


def test_judge_and_generator_have_endpoints_of_their_own(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    (judge,) = endpoints.of_stage(loaded, "rank")
    (far,) = endpoints.of_stage(loaded, "sample")
    assert (judge.name, judge.model, judge.key_env, judge.concurrency) == ("judge", "gpt-4o", "JUDGE_KEY", 3)
    assert (far.name, tuple(far.urls), far.key_env, far.concurrency) == ("far", ("http://a/v1", "http://b/v1"), "", 8)
    assert endpoints.of_stage(loaded, "tune") == [judge]  # which looks at its steps with it
    assert endpoints.of_stage(loaded, "evaluate") == endpoints.of_stage(loaded, "fit") == []


def test_the_simple_form_takes_key_and_concurrency_from_its_table(tmp_path: Path) -> None:
    loaded = load(tmp_path, "rank.judge=openai:m@http://here:1/v1", "rank.key_env=MINE")
    (judge,) = endpoints.of_stage(loaded, "rank")
    assert (judge.name, judge.key_env, judge.concurrency) == ("m@here:1", "MINE", 7)


def test_the_recipes_price_goes_before_the_shipped_one_and_an_unknown_one_is_not_zero(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    (judge,), (far,) = endpoints.of_stage(loaded, "rank"), endpoints.of_stage(loaded, "sample")
    assert judge.usd(1_000_000, 100_000) == 2.5 + 1.0  # as listed for gpt-4o at its provider's own host
    assert far.usd(1_000_000, 1_000_000) == 0.5
    assert Endpoint(name="n", urls=("http://x",), model="m", price_in=1.0).usd(1, 1) is None
    assert endpoints.listed_price(("https://elsewhere.example/v1",), "gpt-4o") == (None, None)
    assert endpoints.parse_endpoint("openai:gpt-4o-mini@https://api.openai.com/v1").usd(0, 1_000_000) == 0.6
    assert endpoints.prices_as_of() == "2026-05-07"


def test_every_shipped_price_is_a_pair_with_output_above_input() -> None:
    for provider in endpoints._price_table()["providers"]:
        for price_in, price_out in provider["models"].values():
            assert 0 < price_in < price_out


def test_a_key_that_a_later_stage_lacks_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(UsageError, match=r"^rank: judge: put the key into the environment variable JUDGE_KEY"):
        endpoints.refuse_unready(load(tmp_path), ["prompts", "sample", "rank"])
    endpoints.refuse_unready(load(tmp_path), ["prompts", "sample"])
    monkeypatch.setenv("JUDGE_KEY", "sesame")
    endpoints.refuse_unready(load(tmp_path), ["prompts", "sample", "rank"])


def test_a_budget_needs_every_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sesame")
    endpoints.refuse_unready(load(tmp_path, budget=1.0), ["sample", "rank"])
    loaded = load(tmp_path, "rank.judge=openai:m@http://here:1/v1", budget=1.0)
    with pytest.raises(UsageError, match=r"^rank: run\.budget_usd = 1 cannot be kept, since the price of m@here:1 is"):
        endpoints.refuse_unready(loaded, ["sample", "rank"])


def test_a_misspelt_endpoint_is_told_by_its_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no endpoint 'jugde'; did you mean 'judge'\?"):
        endpoints.of_stage(load(tmp_path, "rank.judge=jugde"), "rank")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "judge"\nurls = ["http://x"]\nmodel = "m"', "two endpoints are called 'judge'"),
        ('name = "smollm2"\nurls = ["http://x"]\nmodel = "m"', "'smollm2' is taken"),
        ('name = "a b"\nurls = ["http://x"]\nmodel = "m"', "name = 'a b'"),
        ('name = "c"\nurls = []\nmodel = "m"', "urls"),
        ('name = "c"\nurls = ["http://x"]\nmodel = "m"\nprice_in = -1', "price_in"),
        ('name = "c"\nurls = ["http://x"]\nmodel = "m"\nconcurency = 1', "did you mean 'concurrency'"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused_when_the_recipe_is_read(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load(tmp_path, more=f"[[endpoints]]\n{text}\n")


def test_a_recipe_with_endpoints_comes_back_as_it_was(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    (tmp_path / "resolved.toml").write_text(config.dump(loaded))
    assert config.load(tmp_path / "resolved.toml") == loaded


def test_an_endpoint_is_read_from_its_short_form() -> None:
    read = endpoints.parse_endpoint("openai:org/model@1@http://localhost:8000/v1")
    assert (read.model, read.urls) == ("org/model@1", ("http://localhost:8000/v1",))
    assert (read.name, read.key_env) == ("org/model@1@localhost:8000", "")
    assert endpoints.parse_endpoint("openai:m@http://a,http://b").urls == ("http://a", "http://b")
    assert endpoints.parse_endpoint("openai:gpt@https://api.openai.com/v1").key_env == "OPENAI_API_KEY"
    assert endpoints.parse_endpoint("openai:gpt@https://other.example/v1", key_env="MINE").key_env == "MINE"
    keyed = endpoints.parse_endpoint("openai:m@https://a.example/v1,https://b.example/v1#MY_KEY", key_env="MINE")
    assert (keyed.urls, keyed.key_env) == (("https://a.example/v1", "https://b.example/v1"), "MY_KEY")


def test_two_models_that_the_ledger_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    one, other = (endpoints.parse_endpoint(f"openai:m@http://gw:8000/{path}/v1") for path in "ab")
    assert one.name == other.name == "m@gw:8000"
    with pytest.raises(
        UsageError, match=r"http://gw:8000/a/v1 and http://gw:8000/b/v1 are both m@gw:8000 in the ledger"
    ):
        endpoints.refuse_alike(one, other)
    endpoints.refuse_alike(one, one)
    endpoints.refuse_alike(one, None)


def test_a_secret_in_a_url_is_neither_said_nor_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ("https://user:s3cret@host/v1", "https://host/v1?key=s3cret", "ftp://user:s3cret@host", "https://h#s3cret")
    for url in places:
        run = ["run", "smollm2", "--run", str(tmp_path / "run"), "--set", f"rank.judge=openai:m@{url}"]
        assert cli.main(run) == 2
        printed = capsys.readouterr()
        assert "s3cret" not in printed.out + printed.err
        assert "rank.judge" not in printed.out and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "setting",
    [
        "rank.key_env=sk-proj-s3cret",
        "rank.key_env=sk_s3cret",
        "evaluate.key_env=s3cret/+=",
        'rank.judges=["rubric", {judge="openai:m@http://x/v1", key_env="hf_s3cret"}]',
        'sample.generators=[{name="a", key_env="s3cret line"}, {name="b"}]',
        'endpoints.key_env="s3cret-"',
        "tune.sampler=vllm@http://user:s3cret@host:8000",
        "tune.sampler=vllm@http://host:8000?key=s3cret",
        "tune.sampler=vllm@http://host:8000#s3cret",
        "tune.sampler=http://user:s3cret@host",
    ],
)
def test_a_secret_in_a_setting_is_neither_said_nor_written(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[[sample.generators]]\nname = 'a'\n[[sample.generators]]\nname = 'b'\n")
    if setting.startswith("endpoints"):
        path.write_text(path.read_text() + "[[endpoints]]\nname = 'e'\nurls = ['http://x']\nmodel = 'm'\n"
                        f"{setting.removeprefix('endpoints.')}\n")  # fmt: skip
    chosen = [] if setting.startswith("endpoints") else ["--set", setting]
    assert cli.main(["run", str(path), "--run", str(tmp_path / "run"), *chosen]) == 2
    printed = capsys.readouterr()
    assert "s3cret" not in printed.out + printed.err and printed.err.count("\n") == 1
    assert "the name of the environment variable" in printed.err or "without keys or parameters" in printed.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["", "MY_KEY", "_key2", "SK_KEY", "skey"])
def test_the_name_of_a_variable_is_taken(name: str, tmp_path: Path) -> None:
    assert load(tmp_path, f'rank.key_env="{name}"').rank.key_env == name


def test_a_key_that_no_header_could_carry_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Endpoint(name="n", urls=("http://x",), model="m", key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", " sesame\n")
    assert endpoints.key(asked) == "sesame"
    for held in ("ses\name", "ses\rame", "ses\x1bame"):
        monkeypatch.setenv("MY_KEY", held)
        with pytest.raises(UsageError, match=r"^the key in MY_KEY holds a line break or control character; ") as told:
            endpoints.key(asked)
        assert "ame" not in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    "text",
    [
        "gpt-4",
        "openai:gpt-4",
        "openai:@http://x",
        "openai:m@ftp://x",
        "openai:m@http://",
        "openai:m@http://me:pw@host",
        "openai:m@http://x#not-a-name",
    ],
)
def test_a_bad_short_form_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        endpoints.parse_endpoint(text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"urls": ()}, "urls"), ({"urls": "http://x"}, "urls"), ({"concurrency": 0}, "concurrency"),
     ({"attempts": 0}, "attempts"), ({"urls": ("http://x?key=1",)}, "without keys")],
)  # fmt: skip
def test_an_endpoint_that_cannot_work_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Endpoint(**({"name": "n", "urls": ("http://x",), "model": "m"} | changes))


def test_every_judge_of_a_panel_has_its_endpoint_and_one_named_twice_is_refused(tmp_path: Path) -> None:
    a, b = "openai:a@http://127.0.0.1:9/v1", "openai:b@http://127.0.0.1:9/v1"
    loaded = load(tmp_path, "rank.judge=panel", f'rank.judges=["rubric", "{a}", "{b}"]')
    assert [endpoint.name for endpoint in endpoints.of_stage(loaded, "rank")] == ["a@127.0.0.1:9", "b@127.0.0.1:9"]
    assert [one.judge for one in endpoints.judges_of(loaded.rank)] == ["rubric", a, b]
    assert [one.judge for one in endpoints.judges_of(loaded.evaluate)] == ["rubric"]
    again = load(tmp_path, "rank.judge=panel", f'rank.judges=["{a}", "{a}/"]')
    with pytest.raises(UsageError, match=r"^config: the judges openai:a.* are one, a@127.0.0.1:9, asked kwise; name"):
        endpoints.of_stage(again, "rank")
    ways = load(tmp_path, "rank.judge=panel", f'rank.judges=["{a}", {{judge="{a}", strategy="direct"}}]')
    assert [endpoint.name for endpoint in endpoints.of_stage(ways, "rank")] == ["a@127.0.0.1:9"]
    here = load(tmp_path, "rank.judge=panel", f'rank.judges=["{tmp_path}", "{tmp_path}/."]')
    with pytest.raises(UsageError, match="are one"):
        endpoints.of_stage(here, "rank")
