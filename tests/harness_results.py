"""Results as lm-evaluation-harness writes them."""

import json
from pathlib import Path
from typing import Any


def results(acc: float = 0.5, exact: float = 0.2, perplexity: float = 10.0, **changes: Any) -> dict[str, Any]:
    """What the harness writes, as far as it is read."""
    return {
        "results": {
            "mmlu": {"alias": "mmlu", "acc,none": acc, "acc_stderr,none": 0.004},
            "mmlu_law": {"alias": " - law", "acc,none": 0.4, "acc_stderr,none": 0.03},
            "gsm8k": {"alias": "gsm8k", "exact_match,strict-match": exact, "exact_match_stderr,strict-match": 0.01},
            "lambada": {"alias": "lambada", "perplexity,none": perplexity, "perplexity_stderr,none": 0.3},
        },
        "group_subtasks": {"mmlu": ["mmlu_law"], "gsm8k": []},
        "n-samples": {"mmlu_law": {"original": 300, "effective": 250}, "gsm8k": {"original": 9, "effective": 9}},
        "higher_is_better": {"lambada": {"perplexity": False}, "mmlu": {"acc": True}},
        "n-shot": {"gsm8k": 5},
        "versions": {"gsm8k": 3},
        "model_name": "org/model",
        "lm_eval_version": "0.4.13",
    } | changes


def write(path: Path, held: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(held))
    return path
