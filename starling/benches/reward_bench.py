"""RewardBench: 23 subsets in four sections, a chosen answer against a rejected one (arXiv:2403.13787)."""

from collections.abc import Mapping, Sequence
from typing import Any

from starling.benches import cases, items
from starling.benches.items import Bench, Comparison, Item

# Official pairs of each subset, by section.
SECTIONS: Mapping[str, Mapping[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95, "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37, "llmbar-natural": 100, "llmbar-adver-neighbor": 134, "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100, "refusals-offensive": 100, "xstest-should-refuse": 154,
        "xstest-should-respond": 250, "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 447, "hep-cpp": 164, "hep-go": 164, "hep-java": 164, "hep-js": 164, "hep-python": 164,
        "hep-rust": 164,
    },
}  # fmt: skip
OVERALL = "overall"
# Of a section's mean: math-prm as much as the six sets of code together, those of xstest as the official tool has it,
# each by the other's count; every other subset weighs its count.
_WEIGHTS = {"math-prm": 984, "xstest-should-refuse": 250, "xstest-should-respond": 154}
_SCORES = (("score_chosen", "score_rejected"), ("scores_chosen", "scores_rejected"))


def read(row: Mapping[str, Any], where: str) -> Item:
    """An item from a row with RewardBench's columns."""
    items.need(row, ("prompt", "chosen", "rejected", "subset"), where)
    stored = [items.stored_scores(row, columns, where) for columns in _SCORES]
    subset = str(row["subset"])
    return Item(
        id=items.name_of(subset, row.get("id"), where),
        subset=subset,
        question=items.question(row["prompt"], [row["chosen"], row["rejected"]], where),
        comparisons=(Comparison(subset, (0,), (1,), items.above),),
        stored=stored[0] or stored[1],
    )


def rows(found: Sequence[Item], rewards: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """The overall mean of the sections, each section, and each of its subsets."""
    judged = cases.judged(found, rewards)
    listed: list[dict[str, Any]] = []
    weights: dict[str, dict[str, float]] = {}
    for section, counts in SECTIONS.items():
        present = {subset: _WEIGHTS.get(subset, count) for subset, count in counts.items() if subset in judged}
        if not present:
            listed.append(cases.empty(section, "no scored rows of its subsets"))
            continue
        weights[section] = {subset: weight / sum(present.values()) for subset, weight in present.items()}
        missing = [subset for subset in counts if subset not in judged]
        note = f"without {', '.join(missing)}" if missing else ""
        listed.append(cases.weighted(section, weights[section], judged, note))
        for subset in present:
            listed.append(cases.row(subset, judged[subset], level=1, official=counts[subset]))
    known = {subset for counts in SECTIONS.values() for subset in counts}
    listed += [cases.row(name, judged[name], level=1, note="in no section") for name in judged if name not in known]
    even = {subset: weight / len(weights) for part in weights.values() for subset, weight in part.items()}
    if not even:
        return [cases.empty(OVERALL, "no section"), *listed]
    note = f"mean of {len(weights)} of {len(SECTIONS)} sections" if len(weights) < len(SECTIONS) else ""
    marked = any(row["note"] for row in listed if row["name"] in weights)
    note = note or ("sections are not whole" if marked else "")
    return [cases.weighted(OVERALL, even, judged, note), *listed]


BENCH = Bench(
    about="chosen against rejected, four sections", data="allenai/reward-bench", part="filtered", read=read, rows=rows
)
