"""What a fit began with, as hashes: what tells its checkpoint from that of another fit in the same folder."""

import hashlib
import json
from array import array
from collections.abc import Sequence
from typing import Any

from starling import models
from starling.config import FitTable
from starling.examples import Example

# What changes no step: what a fit under way takes new values of, and what is estimated after the last.
FREE = FitTable.may_change | {"laplace_prior"}


def began_with(
    cfg: FitTable, seed: int, network: Any, examples: Sequence[Example], tests: Sequence[Example]
) -> dict[str, str]:
    """Settings and seed, rankings to learn from and to test on as the model reads them, and the weights before the
    first step."""
    settings = json.dumps([seed, cfg.model_dump(mode="json", exclude=set(FREE))], sort_keys=True)
    return {
        "settings": hashlib.sha256(settings.encode()).hexdigest(),
        "rankings": _of_examples(examples, named=cfg.loss == "sampled_pair"),
        "held-out rankings": _of_examples(tests, named=False),
        "base weights": models.weights_hash(network.parameters()),
    }


def _of_examples(examples: Sequence[Example], *, named: bool) -> str:
    """A hash of the token ids, the ranks and the judge's agreement with itself, in their order; and of the names, by
    which a pair is drawn."""
    digest = hashlib.sha256()
    for example in examples:
        ranking = example.ranking
        told: list[Any] = [list(map(float, ranking.ranks)), ranking.agreement, ranking.self_agreement]
        if named:
            told += [ranking.prompt_id, [[answer.model, answer.draw] for answer in ranking.answers]]
        digest.update(json.dumps([told, *(len(piece) for piece in (example.shared, *example.endings))]).encode())
        for piece in (example.shared, *example.endings):
            digest.update(array("i", piece).tobytes())
    return digest.hexdigest()
