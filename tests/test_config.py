"""One TOML file is one experiment."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from recipe_files import toml

from starling import config
from starling.config import FitTable
from starling.errors import UsageError
from starling.tune_settings import unread


def tables_and_keys() -> list[tuple[str, str]]:
    return [
        (name, key)
        for name, table in config.Config.model_fields.items()
        if name != "endpoints"  # a list of tables
        for key in table.annotation.model_fields
    ]


def test_a_recipe_that_ships_is_found_by_name() -> None:
    assert config.find_recipe("smollm2").name == "smollm2.toml"
    assert config.find_recipe("smollm2.toml") == config.find_recipe("smollm2")


def test_among_files_a_recipe_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.is_recipe("starling-7b")
    assert config.is_recipe("nowhere.toml")  # said to be missing as a recipe
    assert not config.is_recipe("nectar.parquet")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starling-7b").mkdir()
    assert not config.is_recipe("starling-7b")


@pytest.mark.parametrize(("recipe", "rate"), [("starling-7b", 1e-5), ("starling-beta", 1.67e-6)])
def test_the_recipes_of_the_authors_have_what_they_published_for_the_reward_models(recipe: str, rate: float) -> None:
    table = config.load(config.find_recipe(recipe)).fit
    assert (table.learning_rate, table.warmup, table.schedule, table.epochs) == (rate, 0.05, "constant", 1)
    assert (table.prompts_per_step, table.max_tokens, table.too_long) == (160, 2000, "left_prompt")


@pytest.mark.parametrize(
    ("recipe", "algorithm", "kl_coef", "rate"),
    [("starling-7b", "apa", 0.01, 2e-7), ("starling-beta", "ppo", 1e-3, 4e-7)],
)
def test_the_recipes_of_the_authors_tune_with_what_stands_in_their_code(
    recipe: str, algorithm: str, kl_coef: float, rate: float
) -> None:
    table = config.load(config.find_recipe(recipe)).tune
    assert (table.algorithm, table.kl_coef) == (algorithm, kl_coef)
    assert table.learning_rate == table.value_learning_rate == rate


def test_every_recipe_that_ships_is_valid() -> None:
    for path in config.find_recipe(config.DEFAULT_RECIPE).parent.glob("*.toml"):
        loaded = config.load(path)
        names = [generator.name for generator in loaded.sample.generators]
        assert len(set(names)) == len(names)
        assert sum(generator.weakened for generator in loaded.sample.generators) <= 2
        assert unread(loaded.tune) == []


def test_a_file_goes_before_a_recipe(tmp_path: Path) -> None:
    path = toml(tmp_path)
    assert config.find_recipe(str(path)) == path


def test_of_a_table_that_is_left_out_the_defaults_hold(tmp_path: Path) -> None:
    found = config.load(config.find_recipe("smollm2"), ["fit.epochs=3"], leave_out="fit")
    assert found.fit == FitTable(epochs=3)
    assert found.sample == config.load(config.find_recipe("smollm2")).sample


def test_a_limit_may_be_infinite() -> None:
    off = [f"tune.{name}=inf" for name in ("length_rise", "kl_limit", "reward_clip", "grad_clip")]
    assert config.load(config.find_recipe("smollm2"), off).tune.length_rise == float("inf")


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no recipe of that name; recipes: .*smollm2"):
        config.find_recipe("nowhere")
    with pytest.raises(UsageError, match=r"recipes: .*smollm2"):  # not those beside the path
        config.find_recipe("elsewhere/nowhere.toml")


def test_what_the_file_does_not_say_has_its_default(tmp_path: Path) -> None:
    loaded = config.load(toml(tmp_path, "[run]\nseed = 7\n"))
    assert (loaded.run.seed, loaded.run.model) == (7, "smollm2")


def test_overrides_go_before_the_file_and_the_file_before_defaults(tmp_path: Path) -> None:
    path = toml(tmp_path, "[run]\nseed = 7\nthreads = 3\n")
    loaded = config.load(path, ["run.seed=9", "tune.lam = 0.125"])
    assert (loaded.run.seed, loaded.run.threads, loaded.tune.lam) == (9, 3, 0.125)


@pytest.mark.parametrize(
    ("override", "table", "key", "expected"),
    [
        ("run.model=owner/model", "run", "model", "owner/model"),
        ('run.model="quoted"', "run", "model", "quoted"),
        ("rank.judge=openai:gpt@http://localhost:1/v1?a=b", "rank", "judge", "openai:gpt@http://localhost:1/v1?a=b"),
        ("fit.learning_rate=1e-4", "fit", "learning_rate", 1e-4),
        ('sample.prefer=["a", "b"]', "sample", "prefer", ("a", "b")),
        ("run.model=", "run", "model", ""),
    ],
    ids=["bare text", "quoted", "equals signs", "float", "list", "empty"],
)
def test_override_values_are_toml_or_else_text(tmp_path: Path, override: str, table: str, key: str, expected) -> None:
    loaded = config.load(toml(tmp_path), [override])
    assert getattr(getattr(loaded, table), key) == expected


@pytest.mark.parametrize("override", ["run.seed", "seed=1", "run.=1", "=1", ".seed=1", ""])
def test_an_override_of_another_form_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(UsageError):
        config.load(toml(tmp_path), [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tune]\nlamb = 1\n", r"\[tune\] has no key 'lamb'; did you mean 'lam'\? \(.*mine\.toml:2\)"),
        ("[fit]\nlearning_rat = 1\n", r"\[fit\] has no key 'learning_rat'; did you mean 'learning_rate'\?"),
        ("[tuning]\nlam = 1\n", r"the file has no key 'tuning'; did you mean 'tune'\?"),
        ("[run]\nzzzz = 1\n", r"\[run\] has no key 'zzzz'; known: model, seed, threads, budget_usd"),
        ("[run]\nzzzz = 1\nyyyy = 2\n", r"\(and 1 more\)"),
        (
            "[[sample.generators]]\nname = 'c'\ntemprature = 1\n",
            r"\[sample\.generators\.0\] .*did you mean 'temperature'\?",
        ),
    ],
    ids=["key", "near key", "table", "nothing near", "several", "inner table"],
)
def test_an_unknown_key_fails_and_names_the_nearest(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config.load(toml(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[run]\nmodel = "a"\n[fit]\nmodel = "b"\n', 4),
        ("[[sample.generators]]\nname = 'c'\n[[sample.generators]]\nname = 'd'\ncolour = 1\n", 5),
        ("# lamb\n\n[tune]\nlam = 1\n  lamb = 1\n", 5),
        ("[run]\nseed = 1\n[tuning]\nlam = 1\n", 3),
        ("run.sed = 1\n", 1),
        ("[fit]\nepochs = 1\n[tune]\nlayers = -1\n", 4),
    ],
    ids=["same key elsewhere", "second generator", "indented", "table", "dotted", "bad value"],
)
def test_a_mistake_is_placed_in_its_own_table(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(UsageError, match=rf"mine\.toml:{line}\)"):
        config.load(toml(tmp_path, text))


def test_a_list_that_is_too_short_is_placed_at_its_first_entry(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text("[run]\nseed = 1\n[[sample.generators]]\nname = 'a'\n")
    with pytest.raises(UsageError, match=r"one\.toml:3\)"):
        config.load(tmp_path / "one.toml")


def test_an_unknown_key_in_an_override_fails_and_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\[tune\] has no key 'lamda'; did you mean 'lam'\?"):
        config.load(toml(tmp_path), ["tune.lamda=1"])


@pytest.mark.parametrize(("table", "key"), tables_and_keys(), ids=lambda name: name)
def test_every_misspelt_key_fails(tmp_path: Path, table: str, key: str) -> None:
    with pytest.raises(UsageError, match=rf"\[{table}\] has no key '{key}x'; did you mean '\w+'"):
        config.load(toml(tmp_path), [f"{table}.{key}x=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tune.lam=0", r"\[tune\] lam = 0: .*greater than 0"),
        ("tune.steps=many", r"\[tune\] steps = 'many': "),
        ("run.seed=1.5", r"\[run\] seed = 1\.5"),
        ("rank.max_unparsed=1.01", r"\[rank\] max_unparsed = 1\.01"),
        ("tune.algorithm=reinforce", r"\[tune\] algorithm = 'reinforce': .*apa"),
        ("sample.generators=[]", r"\[sample\] generators"),
        ("tune.rollouts_per_prompt=1", r"\[tune\] reward_baseline = 'leave_one_out': .*rollouts_per_prompt of 2"),
        ("rank.meetings=1", r"\[rank\] meetings = 1: .*unconnected"),
        ("rank.strategy=votes", r"\[rank\] strategy = 'votes': .*kwise"),
        ("rank.position_corrected=true", r"\[rank\] position_corrected = True: .*repeats to 2 or more"),
        ("fit.learning_rate=nan", r"\[fit\] learning_rate = nan"),
        ("tune.missing_eos_penalty=inf", r"\[tune\] missing_eos_penalty = inf: .*finite"),
        ("tune.length_rise=nan", r"\[tune\] length_rise = nan"),
    ],
)
def test_a_value_out_of_range_fails_with_its_place(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config.load(toml(tmp_path), [override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rank.adaptive=0.5", "rank.max_repeats=2"], r"max_repeats = 2: .*3 or more, since 2 are always made"),
        (["rank.adaptive=0.5", "rank.repeats=4"], r"max_repeats = 4: .*5 or more, since 4 are always made"),
        (["rank.strategy=pointwise", "rank.position_corrected=true"], r"position_corrected = True: .*pointwise"),
    ],
)
def test_settings_of_the_judge_that_do_not_fit_together_fail(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        config.load(toml(tmp_path), overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["rank.strategy=pairwise", "rank.position_corrected=true"],
        ["rank.repeats=2", "rank.position_corrected=true"],
        ["rank.adaptive=0.8", "rank.position_corrected=true"],
        ["evaluate.strategy=direct", "evaluate.repeats=2"],
    ],
)
def test_settings_of_the_judge_that_fit_together_load(tmp_path: Path, overrides: list[str]) -> None:
    config.load(toml(tmp_path), overrides)


def test_a_configuration_without_generators_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "bare.toml").write_text("[run]\nseed = 1\n")
    with pytest.raises(UsageError, match=r"the file lacks 'sample'"):
        config.load(tmp_path / "bare.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[run\n", "is not TOML"), (b"\xff\xfe\x00", "is not TOML")],
    ids=["syntax", "encoding"],
)
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(UsageError, match=rf"mine\.toml {message}"):
        config.load(tmp_path / "mine.toml")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*nowhere"):
        config.load(tmp_path / "nowhere.toml")


def test_the_resolved_configuration_comes_back_as_it_was(tmp_path: Path) -> None:
    loaded = config.load(config.find_recipe("smollm2"), ["fit.learning_rate=1.234e-5", 'run.model="a \\"b\\" \\\\ 雨"'])
    (tmp_path / "resolved.toml").write_text(config.dump(loaded))
    assert config.load(tmp_path / "resolved.toml") == loaded


def test_the_resolved_configuration_names_every_key(tmp_path: Path) -> None:
    text = config.dump(config.load(toml(tmp_path)))
    missing = [(table, key) for table, key in tables_and_keys() if key not in text]
    assert sorted(missing) == [("evaluate", "judges"), ("rank", "judges")]  # one judge: it stands in `judge`


def test_tables_stand_in_road_order() -> None:
    assert list(config.Config.model_fields)[1:-1] == ["prompts", "sample", "rank", "fit", "tune", "evaluate"]


def test_a_loaded_configuration_cannot_be_changed(tmp_path: Path) -> None:
    loaded = config.load(toml(tmp_path))
    with pytest.raises(ValidationError):
        loaded.run.seed = 3  # type: ignore[misc]  # frozen: that is the test


def test_every_key_says_what_it_is() -> None:
    silent = [
        f"{table}.{key}"
        for table, key in tables_and_keys()
        if not config.Config.model_fields[table].annotation.model_fields[key].description and key != "generators"
    ]
    assert silent == []


@pytest.mark.parametrize("override", ["run.seed=-1", f"run.seed={2**63}", "run.threads=1000000"])
def test_numbers_that_the_machine_cannot_take_are_refused(override: str) -> None:
    with pytest.raises(UsageError, match="Input should be"):
        config.load(config.find_recipe("smollm2"), [override])


def test_a_byte_order_mark_and_windows_line_ends_in_a_recipe_are_read_over(tmp_path: Path) -> None:
    shipped = config.find_recipe("smollm2")
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbf" + shipped.read_bytes().replace(b"\n", b"\r\n"))
    assert config.load(tmp_path / "mine.toml") == config.load(shipped)


def test_a_source_may_be_its_path_alone(tmp_path: Path) -> None:
    for value in ('["a.jsonl", "builtin"]', '[{path="a.jsonl"}, "builtin"]'):
        loaded = config.load(toml(tmp_path), [f"prompts.sources={value}"])
        assert [source.path for source in loaded.prompts.sources] == ["a.jsonl", "builtin"]
    assert config.load(toml(tmp_path), ["prompts.sources=a.jsonl"]).prompts.sources[0].path == "a.jsonl"
    assert [source.path for source in config.load(toml(tmp_path)).prompts.sources] == ["builtin"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[prompts.sources]]\npath = 'a'\nwieght = 2\n", r"\[prompts\.sources\.0\] .*did you mean 'weight'.*:3\)"),
        ("[[prompts.sources]]\nname = 'a'\n", r"\[prompts\.sources\.0\] lacks 'path'"),
        ("[[prompts.sources]]\npath = 'a'\nname = 'a, b'\n", r"\[prompts\.sources\.0\] name = 'a, b'.*:3\)"),
        ("[[prompts.sources]]\npath = 'a'\nform = 'csv'\n", r"form = 'csv': .*'sharegpt'"),
        ("[prompts]\nsources = 5\n", r"\[prompts\] sources = 5"),
        ("[prompts]\nsources = []\n", r"\[prompts\] sources = \[\].*at least 1"),
    ],
)
def test_a_mistake_in_a_source_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config.load(toml(tmp_path, text))


def test_generators_may_be_fewer_where_sources_can_bring_answers(tmp_path: Path) -> None:
    for count in (0, 1):
        generators = f"sample.generators={[{'name': 'a'}][:count]}".replace("'name':", "name =")
        with pytest.raises(UsageError, match=rf"\[sample\] generators has {count}: it needs at least 2"):
            config.load(toml(tmp_path), [generators])
        loaded = config.load(toml(tmp_path), [generators, "prompts.sources=a.jsonl"])
        assert len(loaded.sample.generators) == count


SOURCE = ["sample.generators=[]", "prompts.sources=a.jsonl", "rank.judge=source"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rank.judge=source"], r"\[rank\] judge = 'source' ranks only .*, not those of generators: leave them out"),
        (
            [*SOURCE, 'tune.rewards=["judge"]'],
            r"\[rank\] judge = 'source' ranks only .*, so it cannot be one of tune.r",
        ),
        (["evaluate.judge=source"], r"\[evaluate\] judge = 'source': .*the test's are fresh, so name a judge"),
    ],
    ids=["generators", "reward", "test"],
)
def test_the_ranks_that_came_with_answers_judge_no_fresh_ones(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        config.load(toml(tmp_path), overrides)


def test_where_the_source_ranks_evaluates_judge_looks_at_the_steps(tmp_path: Path) -> None:
    loaded = config.load(
        toml(tmp_path), [*SOURCE, "evaluate.judge=m", 'tune.algorithm="dpo"', 'tune.rewards=["judge"]']
    )
    assert (loaded.rank.judge, loaded.chooser.judge) == ("source", "m")  # dpo reads no reward
    assert config.load(toml(tmp_path), ["rank.judge=n", "evaluate.judge=m"]).chooser.judge == "n"


def test_the_recipes_of_the_authors_take_the_ranks_that_stand_in_nectar() -> None:
    for name in ("starling-7b", "starling-beta"):
        loaded = config.load(config.find_recipe(name))
        assert (loaded.rank.judge, loaded.rank.probe_prompts, loaded.chooser) == ("source", 0, loaded.evaluate)


def test_one_answer_a_prompt_cannot_be_ranked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\[sample\] answers = 1: nothing can be ranked.*:2\)"):
        config.load(toml(tmp_path, "[sample]\nanswers = 1\n"))


def test_a_mistake_in_an_override_is_not_laid_to_the_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"learning_rate = -1: .* \(--set\)$"):
        config.load(config.find_recipe("smollm2"), ["fit.learning_rate=-1"])
    with pytest.raises(UsageError, match=r"ranks only answers that came with their ranks.* \(--set\)$"):
        config.load(config.find_recipe("smollm2"), ["rank.judge=source"])
