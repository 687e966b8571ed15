"""The settings of whoever makes and ranks answers: a frozen table for each stage up to `rank`, and for endpoints.

`tune_settings.py` has those of `tune`, `config.py` those of `fit` and `evaluate`, and puts all together.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

PANEL = "panel"  # stands for `judge` where there are several


class Table(BaseModel):
    """A frozen table; the text under a field is its help.

    `may_change` names what a run that is under way takes new values of, since no row depends on it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    may_change: ClassVar[frozenset[str]] = frozenset()

    def settled(self) -> dict[str, Any]:
        """What rows depend on: all settings but those that may change."""
        found: dict[str, Any] = {}
        for key in type(self).model_fields:
            value = getattr(self, key)
            if key in self.may_change:
                continue
            if isinstance(value, Table):
                value = value.settled()
            elif isinstance(value, tuple):
                value = [item.settled() if isinstance(item, Table) else item for item in value]
            found[key] = value
        return found


def as_tables(given: Any, key: str) -> Any:
    """One text or several as the tables that they stand for, each with nothing but `key`; the rest as it is given."""
    several = [given] if isinstance(given, str) else given
    if not isinstance(several, list | tuple):
        return several
    return [{key: one} if isinstance(one, str) else one for one in several]


class RunTable(Table):
    may_change = frozenset({"budget_usd", "trackers"})

    model: str = "smollm2"
    """MODEL that policy and reward model both start from."""
    seed: int = Field(42, ge=0, lt=2**63)
    """Every random choice of the run follows from it."""
    threads: int = Field(0, ge=0, le=1024)
    """CPU threads; 0 = all cores that this process may use."""
    budget_usd: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Dollars for calls to endpoints, over all attempts at the run; no call leaves that could pass it; 0 = no limit."""
    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Where the lines of `metrics.jsonl` are written as well, into the run's `trackers/`, nothing leaves the machine;
    each needs its package (`pip install 'starling-rlaif[NAME]'`); () = nowhere else."""


class Source(Table):
    path: str = Field(min_length=1)
    """FILE (Parquet, JSONL, JSONL.gz, JSON, CSV), folder of such files, "builtin", or the name of a `datasets` set."""
    name: str = Field("", pattern=r"^[^,]*$")
    """Stands in the `source` column and begins the ids of rows that have none; "" = the path without folder and
    ending."""
    form: Literal[
        "auto", "plain", "nectar", "pairs", "chat", "sharegpt", "lmsys", "hh", "ultrafeedback", "llama_instruct"
    ] = "auto"
    """How a row is laid out; "auto" = as the columns of the first row say."""
    weight: float = Field(1.0, gt=0)
    """Share of the drawn prompts, beside the other sources' weights, for as long as the source has some left."""
    split: Literal["auto", "train", "validation", "test"] = "auto"
    """Split of rows that name none; "auto" = dealt out by the prompt's text, in proportion to how many are wanted."""
    turns: Literal["auto", "first", "all"] = "auto"
    """What of a conversation is the prompt: its first user turn, or all up to the last user turn; "auto" = first for
    sharegpt, lmsys and llama_instruct, all for hh and chat."""
    model: str = ""
    """Model that stands beside answers whose rows name none; "" = the source's name."""
    subset: str = ""
    """Configuration of a `datasets` set; "" = its default."""
    part: str = "train"
    """Split of a `datasets` set that is read."""
    rows: int = Field(0, ge=0)
    """Rows that are read, from the first; a `datasets` set is then streamed, not downloaded whole; 0 = all."""
    limit: int = Field(0, ge=0)
    """Prompts that are kept of those that pass the rules, drawn by the run's seed; 0 = all."""
    min_answers: int = Field(0, ge=0)
    """Distinct answers within the source below which a prompt is left out; 0 = off."""


class PromptsTable(Table):
    sources: tuple[Source, ...] = Field((Source(path="builtin"),), min_length=1)
    """Where prompts come from, in order: of duplicates, the first source's stays."""
    train: int = Field(300, ge=1)
    """Prompts of the train split that are used, drawn evenly over families."""
    validation: int = Field(60, ge=1)
    """Prompts of the validation split that are used."""
    test: int = Field(100, ge=1)
    """Prompts of the test split that are used."""
    max_tokens: int = Field(512, ge=16)
    """Longest prompt in tokens."""
    too_long: Literal["stop", "leave_out"] = "stop"
    """What a longer prompt does: it stops the stage and is named, or it is left out and listed."""
    language: str = ""
    """Code of the language, such as "en", that must be among the guesses for a prompt; "" = off."""
    language_guesses: int = Field(3, ge=1)
    """How many of the language library's guesses count."""
    longer_than: int = Field(0, ge=0)
    """Prompts of so many characters or fewer are left out, 40 in Nectar; 0 = off."""
    merge_duplicates: bool = False
    """Whether prompts alike but for case, spaces and punctuation become one, with the answers and sources of all."""
    min_answers: int = Field(0, ge=0)
    """Distinct answers over all sources below which a prompt is left out, 2 in Nectar; 0 = off."""
    near_duplicates: float = Field(0.0, ge=0, le=1)
    """Likeness (Jaccard, of five-character pieces) from which a prompt is too near another and left out; 0 = off."""
    decontaminate: tuple[str, ...] = ()
    """FILEs of benchmark questions; a prompt that holds one is left out."""
    ngram: int = Field(13, ge=2)
    """Words in a row, shared with a benchmark question, that count as holding it."""

    @field_validator("sources", mode="before")
    @classmethod
    def _paths_are_sources(cls, sources: Any) -> Any:
        return as_tables(sources, "path")


class Generator(Table):
    may_change = frozenset({"key_env"})

    name: str
    """Stands in the `model` column; unique within the recipe."""
    model: str = ""
    """MODEL that answers, the name of an endpoint, or openai:NAME@URL; "" = the run's own model."""
    key_env: str = ""
    """Environment variable with the API key of openai:NAME@URL; "" = no key. A named endpoint has its own."""
    system: str = ""
    """System prompt; "" = what the model's chat template puts there itself."""
    examples: tuple[tuple[str, str], ...] = ()
    """Questions with their answers, shown to the model as earlier turns, so that it answers the prompt in their way."""
    temperature: float = Field(0.7, ge=0)
    """Sampling temperature; 0 = greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Share of the probability that is sampled from; 1 = all of it."""
    weakened: bool = False
    """Deliberately bad, to widen the spread; reported apart, at most 2 of 7."""


class SampleTable(Table):
    may_change = frozenset({"deadline_seconds"})

    train_prompts: int = Field(120, ge=1)
    """Prompts of the train split that are answered and ranked."""
    validation_prompts: int = Field(24, ge=1)
    """Prompts of the validation split that are answered and ranked, to test the reward model on."""
    max_new_tokens: int = Field(80, ge=1)
    """Token cap of one answer."""
    token_budget: int = Field(60_000, ge=0)
    """Sampled tokens at which no further shard is begun; 0 = no limit."""
    slots: int = Field(64, ge=1)
    """Answers that are decoded at once in process."""
    shard_prompts: int = Field(20, ge=1)
    """Prompts in one shard: the most that an interruption costs."""
    deadline_seconds: float = Field(0.0, ge=0)
    """Time after which no further shard or call is begun; the same command goes on later; 0 = none."""
    answers: int = Field(0, ge=0)
    """Answers to a prompt that are kept (K); 0 = as many as there are."""
    order: Literal["generators_first", "source_first"] = "generators_first"
    """Whose answers are kept before the others' where K is smaller than all; those of the others fill up."""
    prefer: tuple[str, ...] = ()
    """Models whose answers are taken before others that came with a source; the rest is drawn by the run's seed."""
    fewer: Literal["keep", "leave_out"] = "keep"
    """What becomes of a prompt with fewer answers than K; with fewer than two it is always left out."""
    distinct: Literal["source", "all"] = "source"
    """Which answers are left out where another has the same text: those that came with a source, or all."""
    generators: tuple[Generator, ...] = ()
    """Who answers, one answer each to every prompt; fewer than two only where the sources bring answers."""


class JudgeTable(Table):
    may_change = frozenset({"key_env", "concurrency", "deadline_seconds"})

    judge: str = "rubric"
    """"rubric" (a program) or a MODEL, an endpoint's name or openai:NAME@URL, asked by `strategy`."""
    strategy: Literal["kwise", "direct", "pairwise", "pointwise"] = "kwise"
    """How an LLM judge is asked: kwise = all pairs, then the ranking, in one call; direct = the ranking at once;
    pairwise = two answers a call, in both orders; pointwise = a mark from 1 to 10 for each answer alone."""
    output: Literal["text", "json"] = "text"
    """How it replies; json asks the endpoint to hold the reply to a JSON schema."""
    attempts: int = Field(2, ge=1)
    """How often a call is made at most until its reply can be read."""
    meetings: int = Field(0, ge=0)
    """`pairwise`: how many others each answer meets at least, 2 or more; 0 = all."""
    strength_margin: float = Field(0.2, ge=0)
    """Answers whose strengths, in log-odds, are closer than this to the best of a level are tied with it, wherever
    strengths are fitted; 0.2 is a win in 55 of 100 meetings."""
    repeats: int = Field(1, ge=1)
    """How often each prompt is ranked, with other orders each time; 1 = once."""
    adaptive: float = Field(0.0, ge=0, le=1)
    """Kendall's tau between a prompt's first two rankings below which it is ranked up to `max_repeats` times; the
    first two are always made; 0 = off."""
    max_repeats: int = Field(4, ge=1, validate_default=True)
    """Most rankings of a prompt with `adaptive`."""
    position_corrected: bool = False
    """Whether ranks come from Plackett-Luce strengths less what each place adds, instead of from mean ranks."""
    key_env: str = ""
    """Environment variable with the API key of openai:NAME@URL; "" = no key. A named endpoint has its own."""
    concurrency: int = Field(8, ge=1)
    """Calls to openai:NAME@URL under way at once. A named endpoint has its own."""
    deadline_seconds: float = Field(0.0, ge=0)
    """Time after which the stage asks no further call; the same command goes on later; 0 = none."""
    max_new_tokens: int = Field(512, ge=8)
    """Token cap of one reply of an LLM judge."""

    @property
    def first_repeats(self) -> int:
        """How often each prompt is ranked whatever comes of it."""
        return max(self.repeats, 2) if self.adaptive else self.repeats

    @field_validator("meetings")
    @classmethod
    def _connects(cls, meetings: int) -> int:
        if meetings == 1:
            raise ValueError("leaves answers unconnected; use 2 or more, or 0 for all")
        return meetings

    @field_validator("max_repeats")
    @classmethod
    def _leaves_room(cls, most: int, info: ValidationInfo) -> int:
        first = max(info.data.get("repeats", 1), 2)
        if info.data.get("adaptive") and most <= first:
            raise ValueError(f"with adaptive it must be {first + 1} or more, since {first} are always made")
        return most

    @field_validator("position_corrected")
    @classmethod
    def _can_be_told(cls, corrected: bool, info: ValidationInfo) -> bool:
        strategy = info.data.get("strategy")
        if corrected and strategy == "pointwise":
            raise ValueError("means nothing to pointwise, which shows one answer at a time")
        if corrected and strategy != "pairwise" and info.data.get("repeats") == 1 and not info.data.get("adaptive"):
            raise ValueError("compares calls with other orders; set repeats to 2 or more, or adaptive")
        return corrected


class PanelTable(JudgeTable):
    """The judge of a stage, or several."""

    judges: tuple[JudgeTable, ...] | None = Field(None, validate_default=True)
    """Two judges or more in the place of `judge`, each by its name or as a table of its own with the keys above. Of
    what a table does not name the stage's value holds; a key_env is each judge's own. Left out = one judge."""

    @model_validator(mode="before")
    @classmethod
    def _what_is_not_named_is_the_stages(cls, data: Any) -> Any:
        members = as_tables(data.get("judges"), "judge") if isinstance(data, Mapping) else None
        if not isinstance(members, list):
            return data
        keys = JudgeTable.model_fields.keys() - {"judge", "key_env", "deadline_seconds"}
        shared = {key: value for key, value in data.items() if key in keys}
        whole = [{**shared, **one} if isinstance(one, Mapping) else one for one in members]
        return {"judge": PANEL, **data, "judges": whole}

    @field_validator("judges")
    @classmethod
    def _are_several(cls, judges: tuple[JudgeTable, ...] | None, info: ValidationInfo) -> Any:
        beside = info.data.get("judge", PANEL)
        if judges is None:
            if info.data.get("judge") == PANEL:
                raise ValueError(f"judge = {PANEL!r} stands for several; name them here, or one in judge")
            return judges
        if beside != PANEL:
            raise ValueError(f"judge = {beside!r} stands beside them; put it among them or leave it out")
        if len(judges) < 2:
            raise ValueError(f"a panel has two or more, not {len(judges)}; name a single one in judge")
        names = [one.judge if one.judge == "rubric" else f"{one.strategy}:{one.judge}" for one in judges]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two of them are {name}; name each once")
        if any(one.judge == PANEL or "judge" not in one.model_fields_set for one in judges):
            raise ValueError(f"each of them needs a judge, and none is a {PANEL} itself")
        if info.data.get("key_env"):
            raise ValueError("key_env is each judge's own, so that no key goes to another's host; name it there")
        if any("deadline_seconds" in one.model_fields_set for one in judges):
            raise ValueError("deadline_seconds is the stage's, for all of them together; name it there")
        return judges

    @field_serializer("judges")
    def _own_keys(self, judges: tuple[JudgeTable, ...] | None) -> Any:
        """Of each judge what differs from the stage, so that a later value of the stage's reaches the rest."""
        if judges is None:
            return None
        keys = [key for key in JudgeTable.model_fields if key not in ("judge", "deadline_seconds")]
        return [
            {"judge": one.judge} | {key: value for key in keys if (value := getattr(one, key)) != getattr(self, key)}
            for one in judges
        ]


class RankTable(PanelTable):
    shard_prompts: int = Field(1000, ge=1)
    """Prompts in one shard, rounded up to a multiple of the number of answers: what is in memory at once."""
    tie_margin: float = Field(0.02, ge=0)
    """Rubric scores closer than this to the best of a level are tied with it."""
    max_unparsed: float = Field(0.2, ge=0, le=1)
    """Share of prompts without a readable ranking at which the stage stops."""
    probe_prompts: int = Field(20, ge=0)
    """Prompts that the run's own model also judges, to show its unparsed share and position bias; 0 = none."""
    probe_tokens: int = Field(240, ge=8)
    """Token cap of one reply of that model."""


class EndpointTable(Table):
    may_change = frozenset({
        "urls", "key_env", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout_seconds", "attempts",
        "patience_seconds", "price_in", "price_out",
    })  # fmt: skip

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    """What generators and judges call it; stands in the ledger, so that URLs may change."""
    urls: tuple[str, ...] = Field(min_length=1)
    """Where it is, as in https://host/v1; several that serve the same model are one pool."""
    model: str = Field(min_length=1)
    """What the endpoint itself calls its model."""
    key_env: str = ""
    """Environment variable that holds the API key; "" = no key."""
    concurrency: int = Field(8, ge=1)
    """Calls under way at once; too many requests (429) lower it for a while."""
    requests_per_minute: float = Field(0.0, ge=0)
    """Requests a minute; 0 = no limit."""
    tokens_per_minute: float = Field(0.0, ge=0)
    """Tokens a minute, in and out; 0 = no limit."""
    timeout_seconds: float = Field(120.0, gt=0)
    """Time for one attempt at a call, to the end of its reply."""
    attempts: int = Field(6, ge=1)
    """Tries before a call counts as failed."""
    patience_seconds: float = Field(3600.0, ge=0)
    """How long an endpoint that has answered before is waited for when it is down; 0 = not beyond `attempts`."""
    price_in: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Dollars per million input tokens; without it that of the shipped table, or unknown."""
    price_out: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Dollars per million output tokens; without it that of the shipped table, or unknown."""
    token_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the token cap; some reasoning models know max_completion_tokens only."""
    sampling_parameters: bool = True
    """Whether temperature and top_p are sent; some reasoning models refuse them."""
    strip_thinking: bool = True
    """Whether a <think> block that a reply begins with is taken off."""
