"""What one asks first of a run, in words: what it cost, whether the judge is biased, what drifted or got worse."""

from collections.abc import Mapping
from typing import Any

from starling import before_after, figures
from starling.benches import told
from starling.judge_settings import SOURCE
from starling.judges import naming


def cards(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Answers to the questions one has first, a sentence or two each."""
    result, judge = found["result"], found["judge"]
    spent = [
        f"{figures.number(part['used'])} tokens {part['label']}"
        for part in found["budgets"]
        if part["used"] is not None
    ]
    answers = [
        (
            "What did it cost?",
            f"{figures.duration(found['seconds'])} of computing; {', '.join(spent) or 'no tokens yet'}.",
        )
    ]
    if judge:
        answers.append(("Is the judge biased?", _bias(judge)))
    if result:
        rows = {row["key"]: row for row in result["table"]}
        answers.append(("Did length or refusals drift?", _drift(rows)))
        answers.append(("Where did it get worse?", _worse(result)))
    return [{"title": title, "text": text} for title, text in answers]


def _bias(judge: Mapping[str, Any]) -> str:
    longer = judge["longer_ranked_above"]
    text = f"The longer answer stands above in {figures.share(longer['share'])} of {figures.number(longer['n'])} pairs."
    if judge["is_program"]:
        text += " The rubric reads each answer alone, so order cannot sway it; length can, through its checks."
    elif judge["judge"] == SOURCE:
        text += " These ranks came with the answers, so whether order swayed whoever made them is not known."
    elif naming.reads_alone(judge["judge"]):
        text += " The judge reads each answer alone, so order cannot sway it; length can."
    probe = judge["probe"]
    if probe:
        text += f" The run's own model as judge: {probe['unparsed']} of {probe['prompts']} replies could not be read."
    return text


def _drift(rows: Mapping[str, Mapping[str, Any]]) -> str:
    def moved(key: str, value: Any) -> str:
        base, tuned = rows[key]["base"], rows[key]["tuned"]
        return f"{value((base or {}).get('value'))} before, {value((tuned or {}).get('value'))} after"

    return (
        f"Tokens an answer: {moved('tokens', figures.number)}. Ill-natured requests refused: "
        f"{moved('refused_ill_natured', figures.share)}. Harmless look-alikes refused: "
        f"{moved('refused_look_alike', figures.share)}."
    )


def _worse(result: Mapping[str, Any]) -> str:
    rows = [row["label"].lower() for row in result["table"] if row["says"] == "worse"]
    kinds = [row["label"] for row in result["by_kind"] if before_after.tone(row) == "worse"]
    outcomes, held_out = result["outcomes"], result["held_out_outcomes"]
    text = (
        f"Figures that are worse by the paired test and the whole interval: {', '.join(rows)}."
        if rows
        else "No figure got clearly worse."
    )
    if kinds:
        text += f" Kinds of prompt that lose clearly: {', '.join(kinds)}."
    if behind := told.worse(result["benchmarks"]):
        text += f" Benchmark figures that are clearly worse: {', '.join(behind)}."
    lost = f"{outcomes['worse']} of {result['comparisons']} lost, {outcomes['better']} won"
    lost_held_out = f"{held_out['worse']} of {sum(held_out.values())} lost, {held_out['better']} won"
    return f"{text} Single comparisons: {lost}; on held-out checks {lost_held_out}."
