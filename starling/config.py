"""One TOML file is one experiment: a table per stage in road order, read into frozen models.

Precedence: defaults < TOML < `--set table.key=value`. An unknown key fails and names the nearest known one.
"""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import Field, ValidationError, ValidationInfo, field_validator

from starling import mistakes
from starling.errors import UsageError
from starling.judge_settings import NO_MODEL, PANEL, SOURCE, JudgeTable, PanelTable, RankTable
from starling.settings import EndpointTable, Generator, PromptsTable, RunTable, SampleTable, Source, Table, as_tables
from starling.tune_settings import TuneTable, is_online

__all__ = [
    "BenchmarkTable", "Config", "EndpointTable", "EvaluateTable", "FitTable", "Generator", "JudgeTable", "PanelTable",
    "PromptsTable", "RankTable", "RunTable", "SampleTable", "Source", "Table", "TuneTable", "dump", "find_recipe",
    "load",
]  # fmt: skip

DEFAULT_RECIPE = "smollm2"


class FitTable(Table):
    may_change = frozenset({"checkpoint_seconds", "gradient_checkpointing"})  # no step depends on them

    reward_model: str = ""
    """MODEL that is the reward model as it stands: nothing is fitted, the held-out rankings test it; "" = one is
    fitted."""
    loss: Literal["plackett_luce", "all_pairs", "sampled_pair", "adjacent_pairs", "best_against_rest"] = "plackett_luce"
    """Ranking loss: the whole ranking at once, or the mean over its pairs of the kind named."""
    margin: float = Field(0.0, ge=0)
    """By how much a better answer's reward is to pass a worse one's, taken off the difference; 0 = off."""
    weights: Literal["none", "agreement"] = "none"
    """What a ranking's loss is multiplied by: nothing, or how far the judge agrees with itself on it, over the mean."""
    learning_rate: float = Field(3e-5, gt=0)
    """AdamW's peak rate; reached after `warmup`, then by `schedule`."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps over which the rate rises."""
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    """What the rate does after `warmup`: falls to 0 in a line or as a cosine, or stays."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""
    grad_clip: float = Field(1.0, ge=0)
    """Largest gradient norm; 0 = as it is."""
    epochs: int = Field(1, ge=1)
    """Passes over the rankings."""
    prompts_per_step: int = Field(8, ge=1)
    """Rankings in one optimiser step."""
    layers: int = Field(0, ge=0)
    """Last blocks that are trained, with head and final norm; 0 = all weights."""
    lora_rank: int = Field(0, ge=0)
    """Rank of LoRA adapters, which are trained in place of the blocks' weights, with the head; 0 = off."""
    lora_alpha: int = Field(32, ge=1)
    """LoRA's alpha: what the adapters add counts alpha / rank."""
    gradient_checkpointing: bool = False
    """Whether each block runs again on the way back instead of keeping what it computed: more time, less memory,
    the same gradient."""
    max_tokens: int = Field(0, ge=0)
    """Tokens that a conversation, prompt and answer, may take; 0 = the model's window."""
    too_long: Literal["error", "left_prompt", "drop"] = "error"
    """What a longer one does: it stops the stage and is named; its prompt is cut from the left (whole turns, then the
    beginning of the last; the system's stays); or its answer is left out. Answers are never cut."""
    microbatch_tokens: int = Field(2048, ge=64)
    """Packed tokens in one forward pass."""
    validate_every: int = Field(0, ge=0)
    """Steps between two looks at the held-out rankings, after the last step too; 0 = one at each quarter of the way."""
    keep: Literal["last", "best"] = "last"
    """Which weights are saved: the last, or those of the look with the highest held-out pair accuracy."""
    patience: int = Field(0, ge=0)
    """Looks in a row without a higher held-out pair accuracy at which training ends; 0 = off."""
    centring_coef: float = Field(0.0, ge=0)
    """Weight of the squared sum of a prompt's rewards; 0 = off."""
    length_head: float = Field(0.0, ge=0)
    """Weight of the terms that draw answers' length out of the reward into a second head, which is not saved (ODIN,
    arXiv:2402.07319; there 1); 0 = off."""
    laplace_prior: float = Field(0.0, ge=0)
    """Prior precision from which `uncertainty.safetensors` is estimated, so that scores come with a spread: 1 expects
    head weights of the size that training found, 4 of half that size, for smaller spreads; 0 = off."""
    token_budget: int = Field(0, ge=0)
    """Packed training tokens at which training ends early; 0 = no limit."""
    checkpoint_seconds: float = Field(60, gt=0)
    """Time between checkpoints: the most that an interruption costs."""


class BenchmarkTable(Table):
    name: Literal[
        "mt_bench", "alpaca_eval", "ifeval", "safety", "lm_eval", "reward_bench", "reward_bench_2", "starling_rm"
    ]
    """What `starling bench` knows it by: the first five compare the tuned policy with the base, the last three test
    the run's reward model."""
    folder: str = Field("", pattern=r"^([A-Za-z0-9][\w.-]*)?$")
    """Its folder below `evaluate/benchmarks/`, which tells two of one name apart; "" = its name."""
    judge: tuple[str, ...] = ()
    """mt_bench, alpaca_eval: MODEL that judges, an endpoint's name or openai:NAME@URL#VARIABLE, where the environment
    variable VARIABLE holds the key; several are a panel; () = none."""
    output: Literal["text", "json"] = "text"
    """How it replies; json asks the endpoint to hold the reply to a JSON schema."""
    marks: bool = False
    """mt_bench: whether both models' answers get marks from 1 to 10, instead of being shown in pairs."""
    data: str = ""
    """FILE, folder or data set with its rows, of mt_bench also "builtin"; "" = what `starling bench` takes."""
    version: Literal[1, 2] = 1
    """alpaca_eval: 1 = a verdict, 2 = the probabilities of both letters."""
    one_order: bool = False
    """alpaca_eval: whether a pair is shown in one order, drawn by seed, instead of both."""
    tasks: str = ""
    """lm_eval: the harness's names of its tasks, with commas between; "" = none."""
    tasks_from: str = ""
    """lm_eval: folder of tasks of your own; "" = none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Reward models: type of the weights."""

    @field_validator("judge", mode="before")
    @classmethod
    def _one_or_several(cls, judge: Any) -> Any:
        return (judge,) if isinstance(judge, str) else judge

    @property
    def title(self) -> str:
        """What its folder and its figures are called."""
        return self.folder or self.name


class EvaluateTable(PanelTable):
    may_grow = frozenset({"benchmarks"})

    answer_tokens: int = Field(80, ge=1)
    """Token cap of one test answer, the same for both models."""
    draws: int = Field(1, ge=1)
    """Answers of each model to each test prompt; those of the same number are compared."""
    token_budget: int = Field(36_000, ge=0)
    """Sampled tokens for validation while tuning and for the test together; 0 = no limit."""
    length_band: float = Field(0.25, gt=0)
    """Answers whose lengths differ by at most this share of the longer one count as equally long."""
    resamples: int = Field(10_000, ge=100)
    """Bootstrap resamples over prompt families."""
    benchmarks: tuple[BenchmarkTable, ...] = ()
    """Benchmarks that are run after the test, each by its name or as a table of its own; more may be asked for later;
    () = none."""

    @field_validator("judge")
    @classmethod
    def _judges_fresh_answers(cls, judge: str) -> str:
        if judge == SOURCE:
            raise ValueError("ranks only answers that came with their ranks; the test's are fresh, so name a judge")
        return judge

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _names_are_benchmarks(cls, benchmarks: Any) -> Any:
        return as_tables(benchmarks, "name")

    @field_validator("benchmarks")
    @classmethod
    def _are_told_apart(cls, benchmarks: tuple[BenchmarkTable, ...]) -> Any:
        titles = [one.title for one in benchmarks]
        for title in titles:
            if titles.count(title) > 1:
                raise ValueError(f"two of them go into the folder {title!r}; give each a `folder` of its own")
        return benchmarks


class Config(Table):
    """A whole experiment."""

    run: RunTable = RunTable()
    prompts: PromptsTable = PromptsTable()
    sample: SampleTable
    rank: RankTable = RankTable()
    fit: FitTable = FitTable()
    tune: TuneTable = TuneTable()
    evaluate: EvaluateTable = EvaluateTable()
    endpoints: tuple[EndpointTable, ...] = ()
    """Models behind URLs, each with limits and price of its own."""

    @property
    def chooser(self) -> PanelTable:
        """Who looks at the steps of `tune`: rank's judge, or evaluate's where that ranks no fresh answers."""
        return self.evaluate if self.rank.judge == SOURCE else self.rank

    @field_validator("endpoints")
    @classmethod
    def _are_told_apart(cls, endpoints: tuple[EndpointTable, ...], info: ValidationInfo) -> Any:
        own = info.data["run"].model if "run" in info.data else ""
        names = [endpoint.name for endpoint in endpoints]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two endpoints are called {name!r}")
            if name in (*NO_MODEL, "smollm2", PANEL, own):
                raise ValueError(f"{name!r} is taken; choose another name")
        return endpoints


def find_recipe(name: str) -> Path:
    """The TOML file that `name` means: a path, or the name of a recipe that comes with Starling."""
    if Path(name).is_file():
        return Path(name)
    shipped = _shipped(name)
    if shipped.is_file():
        return shipped
    known = ", ".join(sorted(path.stem for path in _shipped("any").parent.glob("*.toml")))
    raise UsageError(f"config: there is no file {name!r} and no recipe of that name; recipes: {known}")


def _shipped(name: str) -> Path:
    return Path(str(resources.files("starling") / "recipes")) / f"{name.removesuffix('.toml')}.toml"


def is_recipe(name: str) -> bool:
    """Whether a name among files means a recipe: a TOML file, or where there is no such file one of Starling's own."""
    return name.endswith(".toml") or (not Path(name).exists() and _shipped(name).is_file())


def load(path: Path, overrides: list[str] | None = None, *, leave_out: str = "") -> Config:
    """Read a TOML file, apply `table.key=value` overrides, and check every key and value.

    Of the table `leave_out` the defaults hold, whatever the file says.
    """
    try:
        text = path.read_text("utf-8-sig")
        data = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"config: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config: {path} is not TOML: {error}") from None
    data.pop(leave_out, None)
    for override in overrides or []:
        _apply(data, override)
    named = {override.partition("=")[0].strip() for override in overrides or []}
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise UsageError(mistakes.explain(error, path, text, Config, named)) from None
    for table, problem in (("sample", _too_few_answers(config)), ("rank", _unrankable(config))):
        if problem:
            at = mistakes.place(path, text, [table, *problem.split()[:1]], named)
            raise UsageError(f"config: [{table}] {problem}{at}")
    return config


def _too_few_answers(config: Config) -> str:
    """Why no prompt would have two answers to rank, as far as the settings tell; "" where nothing speaks for that."""
    sample, count = config.sample, len(config.sample.generators)
    if count < 2 and all(source.path == "builtin" for source in config.prompts.sources):
        return f"generators has {count}: it needs at least 2, since the builtin prompts bring no answers"
    if sample.answers == 1:
        return "answers = 1: nothing can be ranked; it needs at least 2, or 0 for as many as there are"
    return ""


def _unrankable(config: Config) -> str:
    """What of the settings asks the judge for more than the ranks that came with answers; "" where nothing does."""
    if config.rank.judge != SOURCE:
        return ""
    begin = f"judge = {SOURCE!r} ranks only answers that came with their ranks"
    if config.sample.generators:
        return f"{begin}, not those of generators: leave them out (sample.generators = []), or name another judge"
    if is_online(config.tune.algorithm) and any(reward.name == "judge" for reward in config.tune.rewards):
        return f"{begin}, not the policy's, so it cannot be one of tune.rewards; name other rewards, or another judge"
    return ""


def dump(config: Config) -> str:
    """The resolved configuration as TOML."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def _apply(data: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    table, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise UsageError(f"config: --set wants table.key=value, not {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    if not isinstance(data.setdefault(table, {}), dict):
        raise UsageError(f"config: {table!r} is not a table (--set {override})")
    data[table][key] = value
