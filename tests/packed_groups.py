"""Groups of a prompt and its answers, what separate forward passes make of them, and what each token may see."""

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

Groups = list[tuple[list[int], list[list[int]]]]
DOCUMENTED: Groups = [([1, 2, 3], [[4, 5], [6, 7, 8]]), ([9, 10], [[11], [12, 13]])]
GROUPS: dict[str, Groups] = {
    "one answer": [([5, 6, 7], [[8, 9]])],
    "several groups": [
        ([5, 6, 7, 8], [[20, 21], [30, 31, 32], [20]]),
        ([40, 41], [[50, 51, 52]]),
        ([60], [[61], [62]]),
    ],
    "a prompt without answers": [([5, 6, 7], []), ([8, 9], [[10, 11]])],
}


def separately(model: PreTrainedModel, groups: Groups) -> Tensor:
    """The hidden states in packed order, from one plain forward pass for every conversation."""
    rows = []
    for prompt, answers in groups:
        rows.append(model.model(torch.tensor([prompt]), use_cache=False).last_hidden_state[0])
        for answer in answers:
            whole = model.model(torch.tensor([prompt + answer]), use_cache=False).last_hidden_state[0]
            rows.append(whole[len(prompt) :])
    return torch.cat(rows)


def dense_mask(groups: Groups, window: int = 0) -> Tensor:
    """What each position may see, written out from the rule: own prompt and own answer, nothing later.

    With a window only what is nearer than that in the conversation.
    """
    owner, place = [], []
    for number, (prompt, answers) in enumerate(groups):
        owner += [(number, -1)] * len(prompt)
        place += list(range(len(prompt)))
        for at, answer in enumerate(answers):
            owner += [(number, at)] * len(answer)
            place += list(range(len(prompt), len(prompt) + len(answer)))
    seen = [
        [
            key <= query
            and owner[key][0] == owner[query][0]
            and owner[key][1] in (-1, owner[query][1])
            and (not window or place[query] - place[key] < window)
            for key in range(len(owner))
        ]
        for query in range(len(owner))
    ]
    return torch.tensor(seen)


def small(**more) -> dict:
    return {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, **more,
    }  # fmt: skip
