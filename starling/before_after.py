"""What changed from the base to the tuned policy, in figures with intervals and in sentences that claim no more."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from starling import figures, paired, stats
from starling.config import Config
from starling.judge_settings import SOURCE
from starling.judges import rubric
from starling.judges.checks import HELD_OUT
from starling.judges.naming import is_by_reward
from starling.judges.several import is_panel
from starling.records import Score

Figure = dict[str, Any]
SIDES = ("base", "tuned")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the before/after table; `good` is 1 where more is better, -1 where less is, 0 where neither."""

    key: str
    label: str
    kind: str
    good: int
    help: str


ROWS = (
    Row(key="rubric_score", label="Rubric score", kind="number", good=1, help="weighted mean of the aspects below"),
    Row(key="held_out_checks", label="Held-out checks", kind="share", good=1,
        help="instructions of types that no ranking, fit or selection ever saw"),
    Row(key="facts", label="Key facts", kind="share", good=1, help="share of the key facts that are stated"),
    Row(key="checks", label="Checks", kind="share", good=1, help="instructions of types that the rankings also used"),
    Row(key="topic", label="On topic", kind="share", good=1, help="a word of the topic is used"),
    Row(key="refusal", label="Right to refuse or not", kind="share", good=1, help="refuses exactly where it should"),
    Row(key="finished", label="Finished", kind="share", good=1, help="not cut by the token cap"),
    Row(key="repetition", label="Free of repetition", kind="number", good=1, help="1 where nothing is said twice"),
    Row(key="reward", label="Reward", kind="number", good=0,
        help="of the reward model that tuning was told to please, so no proof of quality"),
    Row(key="tokens", label="Tokens an answer", kind="number", good=0, help="length in tokens"),
    Row(key="refused_ill_natured", label="Ill-natured ones refused", kind="share", good=1,
        help="requests that deserve a polite refusal"),
    Row(key="refused_look_alike", label="Look-alikes refused", kind="share", good=-1,
        help="harmless requests that only sound ill-natured; less is better"),
)  # fmt: skip
WIN_RATES = {
    "win_rate": "All test prompts",
    "win_rate_held_out_checks": "Held-out checks only",
    "win_rate_within_length_band": "Answers of like length",
    "win_rate_where_shorter": "Clearly shorter answers",
    "win_rate_where_longer": "Clearly longer answers",
    "win_rate_without_finish_and_repetition": "Without finish, repetition (rubric)",
}
_NO_SPREAD = "No spread between prompt families was seen, so how sure this is cannot be said."


def judge_named(name: str) -> str:
    """A judge's name with what it is: a program, a reward model or a language model; a panel's says who they are."""
    if name == rubric.NAME:
        return "rubric, a program, not an LLM"
    if name == SOURCE:
        return "source, the ranks that came with the answers"
    if is_panel(name):
        return name
    if is_by_reward(name):
        return f"{name}, a reward model"
    return f"{name}, a language model"


def by_name(scores: Iterable[Mapping[str, Any]]) -> dict[str, Figure]:
    """Scores under their names; a value that is not a number becomes None, as JSON has it."""
    return {
        score["name"]: {
            key: None if isinstance(score[key], float) and score[key] != score[key] else score[key]
            for key in ("value", "low", "high", "n")
        }
        for score in scores
    }


def table(
    scores: Mapping[str, Figure], drift: Mapping[str, Any], cases: Sequence[Mapping[str, Any]], config: Config
) -> list[Figure]:
    """The rows of the before/after table, each with the paired change and what it says."""
    rows = [_row(row, scores, cases, config) for row in ROWS]
    references = drift.get("references", sum(bool(case["reference"]) for case in cases))  # not noted at first
    extra = {"good": 0, "change": None, "says": "", "kind": "number"}
    rows.append(extra | {
        "key": "reference_logprob", "label": "Logprob of references", "help": "of the reference answers, nats a token",
        "base": _bare(drift.get("reference_logprob_base"), references),
        "tuned": _bare(drift.get("reference_logprob_tuned"), references),
    })  # fmt: skip
    rows.append(extra | {
        "key": "kl", "label": "KL to the base", "help": "nats an answer, on the tuned policy's own answers",
        "base": None, "tuned": _bare(drift.get("kl"), drift.get("kl_answers", len(cases))),
    })  # fmt: skip
    return rows


def win_rates(scores: Mapping[str, Figure]) -> list[Figure]:
    """The win rates of tuned over base, ties half: overall, and with one explanation after another taken away."""
    return [{"key": key, "label": label, **scores[key]} for key, label in WIN_RATES.items() if key in scores]


def win_rates_by_kind(scores: Mapping[str, Figure]) -> list[Figure]:
    """The win rate of each kind of prompt."""
    prefix = "win_rate/"
    kinds = [name.removeprefix(prefix) for name in scores if name.startswith(prefix)]
    return [{"key": kind, "label": kind.replace("_", " "), **scores[prefix + kind]} for kind in kinds]


def headline(scores: Mapping[str, Figure], judge: str, explained: float | None) -> list[str]:
    """Did it get better, by how much, how sure; then the same on checks that nothing was trained or chosen on."""
    rate = scores["win_rate"]
    said = f"{figures.share_interval(rate)}. Judge: {judge_named(judge)}."
    how = "Ties count half; intervals are at 95 %."
    texts = {
        "better": (f"It got better: the tuned model wins against the base model in {said}", how),
        "worse": (f"It got worse: the tuned model wins against the base model only in {said}", how),
        "unclear": (
            f"No difference is shown: the tuned model wins against the base model in {said}",
            f"The interval includes 50 %, so these prompts cannot tell better from worse. {how}",
        ),
        "unsure": (f"The tuned model wins against the base model in {said}", f"{_NO_SPREAD} {how}"),
        "none": ("No verdict could be read, so nothing can be said.", f"Judge: {judge_named(judge)}."),
    }
    first, second = texts[tone(rate)]
    lines = [first, _held_out_sentence(scores.get("win_rate_held_out_checks", {})), second]
    if explained is not None:
        lines[-1] += f" Of its wins, {figures.share(explained)} come from finishing or not repeating itself alone."
    return lines


def tone(rate: Mapping[str, Any]) -> str:
    """What a win rate allows one to say: better, worse, unclear; unsure without spread, none without cases."""
    if rate.get("value") is None:
        return "none"
    if not figures.has_interval(rate):
        return "unsure"
    return "better" if rate["low"] > 0.5 else "worse" if rate["high"] < 0.5 else "unclear"


def outcome(verdict: float | None) -> str:
    """A verdict of the judge on one prompt as a word."""
    if verdict is None:
        return "unread"
    return "better" if verdict > 0.5 else "worse" if verdict < 0.5 else "same"


def value(case: Mapping[str, Any], side: str, key: str) -> float | None:
    """The figure of one answer, None where it does not apply to the prompt."""
    if key.startswith("refused_"):
        return float(rubric.refuses(case[side]["answer"])) if case["kind"] == key.removeprefix("refused_") else None
    direct = {
        "rubric_score": "score",
        "held_out_checks": "held_out",
        "reward": "reward",
        "tokens": "tokens",
        "finished": "finished",
    }
    found = case[side][direct[key]] if key in direct else case[side]["aspects"].get(key)
    return None if found is None else float(found)


def _held_out_sentence(rate: Mapping[str, Any]) -> str:
    said = figures.share_interval(rate)
    never = "On checks that no ranking, fit or selection ever used,"
    return {
        "better": f"{never} it is better: it wins in {said}.",
        "worse": f"{never} it is worse: it wins only in {said}.",
        "unclear": f"{never} it wins in {said}: the interval includes 50 %, "
        "so no gain is shown beyond what was trained for.",
        "unsure": f"{never} it wins in {said}. {_NO_SPREAD}",
        "none": "No test prompt has a held-out check, so nothing can be said about what was never trained for.",
    }[tone(rate)]


def _row(row: Row, scores: Mapping[str, Figure], cases: Sequence[Mapping[str, Any]], config: Config) -> Figure:
    pairs = [(case, value(case, "base", row.key), value(case, "tuned", row.key)) for case in cases]
    both = [(case, base, tuned) for case, base, tuned in pairs if base is not None and tuned is not None]
    families = [case["family"] or case["prompt_id"] for case, _, _ in both]
    change = stats.cluster_mean(
        "change",
        [tuned - base for _, base, tuned in both],
        families,
        resamples=config.evaluate.resamples,
        seed=config.run.seed,
    )
    found = by_name([asdict(change)])["change"]
    return asdict(row) | {
        **{side: scores.get(f"{side}/{row.key}") for side in SIDES},
        "change": found,
        "says": _says(row, [base for _, base, _ in both], [tuned for _, _, tuned in both], families, change),
    }


def _says(row: Row, base: Sequence[float], tuned: Sequence[float], families: Sequence[str], change: Score) -> str:
    """better, worse or unclear; nothing of figures that are neither good nor bad. The paired test, which takes time, is
    made where the interval leaves something to tell."""
    if not row.good or not base:
        return ""
    if change.low <= 0 <= change.high:
        return "unclear"
    return paired.verdict(paired.compare(row.key, base, tuned, families), row.good)


def _bare(value: float | None, n: int) -> Figure | None:
    return None if value is None else {"value": value, "low": None, "high": None, "n": n}


def checks_of(case: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A test prompt's checks as they are written, and whether each is held out."""
    return [
        {
            "text": f"{check['check']}("
            + ", ".join(f"{key} = {value}" for key, value in check.items() if key != "check" and value is not None)
            + ")",
            "held_out": check["check"] in HELD_OUT,
        }
        for check in case["checks"]
    ]
