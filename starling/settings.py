"""The settings of whoever makes answers: a frozen table for each stage up to `sample`, and for endpoints.

`judge_settings.py` has those of whoever ranks them, `tune_settings.py` those of `tune`, `config.py` those of `fit` and
`evaluate`, and puts all together.
"""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

URL = r"https?://[^/\s@?#]+(/[^\s?#]*)?"  # without keys or parameters, which would be written and shown


class Table(BaseModel):
    """A frozen table; the text under a field is its help.

    `may_change` names what a run that is under way takes new values of, since no row depends on it; `may_grow` that of
    which a finished stage may be asked for more, or less: it then goes on, and what it has stays.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
    may_change: ClassVar[frozenset[str]] = frozenset()
    may_grow: ClassVar[frozenset[str]] = frozenset()

    def settled(self) -> dict[str, Any]:
        """What rows depend on: all settings but those that may change or grow."""
        found: dict[str, Any] = {}
        for key in type(self).model_fields:
            value = getattr(self, key)
            if key in self.may_change | self.may_grow:
                continue
            if isinstance(value, Table):
                value = value.settled()
            elif isinstance(value, tuple):
                value = [item.settled() if isinstance(item, Table) else item for item in value]
            found[key] = value
        return found


def unshown(why: str) -> PydanticCustomError:
    """What is wrong with a value that may hold a secret, and so is not repeated, see `mistakes`."""
    return PydanticCustomError("unshown", why)


def _names_a_variable(name: str) -> str:
    if not re.fullmatch(r"(?!(g?sk|hf)_)[A-Za-z_][A-Za-z0-9_]*|", name):
        raise unshown("it is the name of the environment variable that holds the key, never the key itself")
    return name


Variable = Annotated[str, AfterValidator(_names_a_variable)]


def as_tables(given: Any, key: str) -> Any:
    """One text or several as the tables that they stand for, each with nothing but `key`; the rest as it is given."""
    several = [given] if isinstance(given, str) else given
    if not isinstance(several, list | tuple):
        return several
    return [{key: one} if isinstance(one, str) else one for one in several]


class RunTable(Table):
    may_change = frozenset({"threads", "budget_usd", "trackers"})

    model: str = "smollm2"
    """MODEL that policy and reward model both start from."""
    seed: int = Field(42, ge=0, lt=2**63)
    """Every random choice of the run follows from it."""
    threads: int = Field(0, ge=0, le=1024)
    """CPU threads; 0 = all cores that this process may use; with other threads the last bits of a result differ."""
    budget_usd: float = Field(0.0, ge=0)
    """Dollars for calls to endpoints, over all attempts at the run; no call leaves that could pass it; 0 = no limit."""
    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Where the lines of `metrics.jsonl` are written as well, into the run's `trackers/`, nothing leaves the machine;
    each needs its package (`pip install '.[NAME]'` in Starling's folder); () = nowhere else."""


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
    key_env: Variable = ""
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


class EndpointTable(Table):
    may_change = frozenset({
        "urls", "key_env", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout_seconds", "attempts",
        "patience_seconds", "price_in", "price_out",
    })  # fmt: skip

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.@:-]*$")
    """What generators and judges call it; stands in the ledger, so that URLs may change."""
    urls: tuple[str, ...] = Field(min_length=1)
    """Where it is, as in https://host/v1; several that serve the same model are one pool."""
    model: str = Field(min_length=1)
    """What the endpoint itself calls its model."""
    key_env: Variable = ""
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
    """How long an endpoint that has answered before is waited for when it is down, or answers every call with 429; 0 =
    not beyond `attempts`."""
    price_in: float | None = Field(None, ge=0)
    """Dollars per million input tokens; without it that of the shipped table, or unknown."""
    price_out: float | None = Field(None, ge=0)
    """Dollars per million output tokens; without it that of the shipped table, or unknown."""
    token_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the token cap; some reasoning models know max_completion_tokens only."""
    sampling_parameters: bool = True
    """Whether temperature and top_p are sent; some reasoning models refuse them."""
    strip_thinking: bool = True
    """Whether a <think> block that a reply begins with is taken off; it is not stored then."""
