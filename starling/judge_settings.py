"""The settings of whoever judges answers: one judge or several, and the stage `rank`."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_serializer, field_validator, model_validator

from starling.settings import Table, Variable, as_tables

RUBRIC = "rubric"  # the judge that is a program
SOURCE = "source"  # the judge that passes on the ranks that came with answers
NO_MODEL = (RUBRIC, SOURCE)  # the judges behind which no model stands
PANEL = "panel"  # stands for `judge` where there are several


class JudgeTable(Table):
    may_change = frozenset({"key_env", "concurrency", "deadline_seconds"})

    judge: str = RUBRIC
    """"rubric" (a program), "source" (in `rank` alone: the ranks that came with the answers), a reward model (a folder
    or Hub name; ranks by its rewards), or a MODEL, an endpoint's name or openai:NAME@URL, asked by `strategy`."""
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
    key_env: Variable = ""
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
            raise ValueError(
                f"judge = {beside!r} stands beside them; put it among them, and leave it out or say {PANEL!r}"
            )
        if len(judges) < 2:
            raise ValueError(f"a panel has two or more, not {len(judges)}; name a single one in judge")
        names = [one.judge if one.judge == RUBRIC else f"{one.strategy}:{one.judge}" for one in judges]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two of them are {name}; name each once")
        if any(one.judge == SOURCE for one in judges):
            raise ValueError(f"{SOURCE} passes on ranks and sits on no panel; name it alone, in judge")
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
    """Share of prompts without a readable ranking at which the stage stops, and of pairs that cannot be judged at which
    a look of `tune` is not kept."""
    probe_prompts: int = Field(20, ge=0)
    """Prompts that the run's own model also judges, to show its unparsed share and position bias; 0 = none."""
    probe_tokens: int = Field(240, ge=8)
    """Token cap of one reply of that model."""
