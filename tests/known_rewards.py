"""A reward model whose rewards can be read off: what an answer ends on decides, a digit d gives d / 10."""

from pathlib import Path

import torch

from starling import models

FINISHED = 0.45  # of every answer that came to its end, since all end on the token that closes the turn
LAST = {**{str(digit): digit / 10 for digit in range(10)}, "<|im_end|>": FINISHED}


def save(tiny_model: Path, folder: Path, sign: float = 1.0) -> str:
    """Write it to the folder; with `sign` -1 the smaller digit is the better.

    The blocks add nothing, so the last hidden state is the norm of the last token's embedding. With (100 c, 100 sqrt(1
    - c^2), 0, ...) of H numbers the root mean square is 100 / sqrt(H), and the norm makes sqrt(H) c of the first; the
    head divides by sqrt(H): the reward is c.
    """
    model = models.new_reward_model(str(tiny_model))
    network, tokenizer = model
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.zero_()
            elif "norm" in name:
                weight.fill_(1)
        embedding = network.get_input_embeddings().weight
        embedding.zero_()
        embedding[:, 1] = 100
        for token, value in LAST.items():
            at = tokenizer.convert_tokens_to_ids(token)
            embedding[at, 0], embedding[at, 1] = 100 * value, 100 * (1 - value**2) ** 0.5
        network.score.weight.zero_()
        network.score.weight[0, 0] = sign / embedding.shape[1] ** 0.5
    models.save(model, folder)
    return str(folder)
