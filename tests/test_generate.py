"""Sampling from a model in this process."""

import copy
import math
from pathlib import Path

import pytest
import torch
from test_packing_families import built, scaled
from tolerances import CLOSE
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    GraniteConfig,
    GraniteForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.modeling_utils import PreTrainedModel

from starling import packing
from starling.errors import ModelError
from starling.generate import Request, generate, stop_ids

NEVER: frozenset[int] = frozenset()
PROMPTS = [(5, 6, 7), (40, 41, 42, 43, 44, 45, 46), (80,), (100, 7, 9, 11)]


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> PreTrainedModel:
    network = load(tiny_model)
    packing.enable(network)
    return network


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> PreTrainedModel:
    """The same model as transformers runs it."""
    return load(tiny_model)


def requests(**settings) -> list[Request]:
    """Three answers to each prompt, interleaved."""
    return [Request(prompt=PROMPTS[at % 4], seed=1000 + at, **settings) for at in range(12)]


def greedy_by_transformers(plain: PreTrainedModel, prompt: tuple[int, ...], count: int) -> list[int]:
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=count, min_new_tokens=count, eos_token_id=None, pad_token_id=0
    )
    ids = torch.tensor([prompt])
    return plain.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[
        0, len(prompt) :
    ].tolist()


def distribution(plain: PreTrainedModel, ids: tuple[int, ...], temperature: float) -> list[float]:
    """The next token's probabilities after `ids`, in float64."""
    logits = plain(torch.tensor([ids]), use_cache=False).logits[0, -1].double() / temperature
    return logits.softmax(0).tolist()


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_greedy_answers_equal_those_of_transformers(model, plain, slots: int) -> None:
    wanted = [Request(prompt=prompt, seed=1, temperature=0.0) for prompt in PROMPTS]
    answers = generate(model, wanted, max_new_tokens=20, stop=NEVER, slots=slots)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert answer.ids == greedy_by_transformers(plain, prompt, 20)
        assert answer.logprobs == [0.0] * 20


@pytest.mark.parametrize("slots", [1, 2, 5, 12, 64])
def test_the_same_request_gives_the_same_ids_in_any_number_of_slots(model, slots: int) -> None:
    stop = frozenset(range(0, 300, 11))  # answers of many lengths, so that slots are refilled
    expected = [generate(model, [r], max_new_tokens=15, stop=stop)[0] for r in requests(top_p=0.95)]
    assert len({len(answer.ids) for answer in expected}) > 3
    answers = generate(model, requests(top_p=0.95), max_new_tokens=15, stop=stop, slots=slots)
    assert [answer.ids for answer in answers] == [answer.ids for answer in expected]
    assert [answer.finished for answer in answers] == [answer.finished for answer in expected]


def test_the_same_request_gives_the_same_ids_in_other_company(model) -> None:
    forwards = generate(model, requests(), max_new_tokens=10, stop=NEVER, slots=5)
    backwards = generate(model, requests()[::-1], max_new_tokens=10, stop=NEVER, slots=4)[::-1]
    assert [answer.ids for answer in forwards] == [answer.ids for answer in backwards]


START = tuple(range(20, 60))
ALIKE = [
    *((*START, 90 + at, *range(100, 100 + at)) for at in range(9)),  # one beginning
    *((*START, *range(200, 220), 90 + at) for at in range(9)),  # a longer one that goes on from it
    START[:9], (7, 8), (*START, 91),
]  # fmt: skip


@pytest.mark.parametrize("slots", [2, 7, 64])
def test_prompts_that_begin_alike_are_answered_as_if_each_stood_alone(model, plain, slots: int) -> None:
    wanted = [Request(prompt=prompt, seed=1, temperature=0.0) for prompt in ALIKE]
    answers = generate(model, wanted, max_new_tokens=6, stop=NEVER, slots=slots)
    assert [answer.ids for answer in answers] == [greedy_by_transformers(plain, prompt, 6) for prompt in ALIKE]


def test_logprobs_after_a_shared_beginning_equal_those_of_each_prompt_alone(model) -> None:
    wanted = [Request(prompt=prompt, seed=at) for at, prompt in enumerate(ALIKE)]
    together = generate(model, wanted, max_new_tokens=6, stop=NEVER)
    alone = [generate(model, [request], max_new_tokens=6, stop=NEVER)[0] for request in wanted]
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=CLOSE)


@pytest.mark.parametrize("slots", [3, 64])
@torch.no_grad()
def test_what_the_first_blocks_made_of_prompt_and_answer_is_kept(model, plain, slots: int) -> None:
    stop = frozenset(range(0, 300, 11))  # answers end one after the other, and rows are moved and filled again
    wanted = [Request(prompt=prompt, seed=at) for at, prompt in enumerate(ALIKE)]
    answers = generate(model, wanted, max_new_tokens=9, stop=stop, slots=slots, trunk_blocks=1)
    assert len({len(answer.ids) for answer in answers}) > 3
    for request, answer in zip(wanted, answers, strict=True):
        ids = torch.tensor([[*request.prompt, *answer.ids[:-1]]])
        assert answer.trunk_TH is not None
        torch.testing.assert_close(answer.trunk_TH, plain(ids, output_hidden_states=True).hidden_states[1][0])


def test_nothing_is_kept_of_the_blocks_unless_asked_for(model) -> None:
    answers = generate(model, requests(), max_new_tokens=3, stop=NEVER)
    assert [answer.trunk_TH for answer in answers] == [None] * 12


def test_different_seeds_give_different_answers_to_one_prompt(model) -> None:
    wanted = [Request(prompt=PROMPTS[0], seed=seed) for seed in range(5)]
    answers = generate(model, wanted, max_new_tokens=10, stop=NEVER)
    assert len({tuple(answer.ids) for answer in answers}) == 5


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
@torch.no_grad()
def test_logprobs_equal_a_teacher_forced_pass(model, plain, temperature: float) -> None:
    wanted = requests(temperature=temperature)
    answers = generate(model, wanted, max_new_tokens=12, stop=NEVER, slots=5)
    for request, answer in zip(wanted, answers, strict=True):
        logits = plain(torch.tensor([[*request.prompt, *answer.ids]]), use_cache=False).logits[0].double()
        logprob = (logits / temperature).log_softmax(-1)[len(request.prompt) - 1 : -1]
        expected = [logprob[at, token].item() for at, token in enumerate(answer.ids)]
        assert answer.logprobs == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_tokens_are_those_at_the_requests_uniform_numbers(model, plain) -> None:
    wanted = requests()[:4]
    for request, answer in zip(wanted, generate(model, wanted, max_new_tokens=8, stop=NEVER, slots=2), strict=True):
        numbers = torch.rand(8, generator=torch.Generator().manual_seed(request.seed), dtype=torch.float64).tolist()
        for at, (token, number) in enumerate(zip(answer.ids, numbers, strict=True)):
            prob = distribution(plain, (*request.prompt, *answer.ids[:at]), 1.0)
            assert sum(prob[:token]) - CLOSE <= number < sum(prob[: token + 1]) + CLOSE


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9])
@torch.no_grad()
def test_top_p_samples_within_the_nucleus_under_its_own_distribution(model, plain, top_p: float) -> None:
    wanted = requests(top_p=top_p)
    for request, answer in zip(wanted, generate(model, wanted, max_new_tokens=6, stop=NEVER), strict=True):
        for at, (token, logprob) in enumerate(zip(answer.ids, answer.logprobs, strict=True)):
            prob = distribution(plain, (*request.prompt, *answer.ids[:at]), 1.0)
            nucleus: list[int] = []  # the likeliest tokens until their sum reaches top_p
            for candidate in sorted(range(300), key=lambda index: -prob[index]):
                nucleus.append(candidate)
                if sum(prob[index] for index in nucleus) >= top_p:
                    break
            assert token in nucleus
            assert logprob == pytest.approx(math.log(prob[token] / sum(prob[i] for i in nucleus)), abs=1e-4)


def test_every_stop_id_ends_an_answer_and_belongs_to_it(model) -> None:
    free = generate(model, requests(), max_new_tokens=10, stop=NEVER)
    stop = frozenset({free[0].ids[4], free[1].ids[7]})
    for answer, whole in zip(generate(model, requests(), max_new_tokens=10, stop=stop, slots=5), free, strict=True):
        ends = [at for at, token in enumerate(whole.ids) if token in stop]
        length = ends[0] + 1 if ends else 10
        assert answer.ids == whole.ids[:length]
        assert answer.finished == bool(ends)
        assert len(answer.logprobs) == length


def test_a_stop_id_at_the_token_cap_still_finishes_the_answer(model) -> None:
    request = requests()[0]
    last = generate(model, [request], max_new_tokens=1, stop=NEVER)[0]
    assert not last.finished
    again = generate(model, [request], max_new_tokens=1, stop=frozenset(last.ids))[0]
    assert (again.ids, again.finished) == (last.ids, True)


def test_the_token_cap_cuts_answers_which_are_then_unfinished(model) -> None:
    long = generate(model, requests(), max_new_tokens=9, stop=NEVER, slots=5)
    short = generate(model, requests(), max_new_tokens=4, stop=NEVER, slots=5)
    assert [answer.ids for answer in short] == [answer.ids[:4] for answer in long]
    assert not any(answer.finished for answer in short + long)


def test_no_request_gives_no_answer(model) -> None:
    assert generate(model, [], max_new_tokens=9, stop=NEVER) == []


def test_the_listener_hears_of_every_token(model) -> None:
    heard: list[int] = []
    stop = frozenset(range(0, 300, 11))
    answers = generate(model, requests(), max_new_tokens=15, stop=stop, slots=5, on_tokens=heard.append)
    assert sum(heard) == sum(len(answer.ids) for answer in answers)
    assert max(heard) == 5


def test_greedy_and_sampled_requests_go_together(model, plain) -> None:
    mixed = [Request(prompt=PROMPTS[0], seed=1, temperature=0.0), *requests()[:3]]
    answers = generate(model, mixed, max_new_tokens=10, stop=NEVER)
    assert answers[0].ids == greedy_by_transformers(plain, PROMPTS[0], 10)
    alone = generate(model, requests()[:3], max_new_tokens=10, stop=NEVER)
    assert [answer.ids for answer in answers[1:]] == [answer.ids for answer in alone]


@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma2"])
@pytest.mark.parametrize("length", [4, 9, 40])
def test_decoding_past_a_sliding_window_equals_transformers(family: str, length: int) -> None:
    shape = {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "sliding_window": 6, "initializer_range": 0.5, "pad_token_id": 0,
        "eos_token_id": None,
    }  # fmt: skip
    if family == "mistral":
        network = MistralForCausalLM(MistralConfig(**shape, head_dim=8)).eval()
    elif family == "gemma2":
        capped = Gemma2Config(
            **shape, head_dim=8, query_pre_attn_scalar=1, attn_logit_softcapping=2.0, tie_word_embeddings=False
        )
        network = Gemma2ForCausalLM._from_config(capped, attn_implementation="eager").eval()
    else:
        sliding = Qwen2Config(**shape, use_sliding_window=True, layer_types=["sliding_attention"] * 2)
        network = Qwen2ForCausalLM(sliding).eval()
    prompts = [(*range(1, length + 1), 40 + at) for at in range(8)]  # from 16 tokens on they share their beginning
    expected = [greedy_by_transformers(network, prompt, 12) for prompt in prompts]
    packing.enable(network)
    wanted = [Request(prompt=prompt, seed=1, temperature=0.0) for prompt in prompts]
    answers = generate(network, wanted, max_new_tokens=12, stop=NEVER)
    assert [answer.ids for answer in answers] == expected


def test_logprobs_are_those_of_logits_that_the_family_scales() -> None:
    config = GraniteConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.5, logits_scaling=8.0, embedding_multiplier=2.0,
    )  # fmt: skip
    network = GraniteForCausalLM(config).eval()
    packed, prompt = copy.deepcopy(network), (3, 4, 5)
    packing.enable(packed)
    for answer in generate(packed, [Request(prompt=prompt, seed=s) for s in range(4)], max_new_tokens=3, stop=NEVER):
        with torch.no_grad():
            expected = network(torch.tensor([[*prompt, *answer.ids]])).logits[0, 2:-1].log_softmax(-1)
        assert answer.logprobs == pytest.approx(expected[range(3), answer.ids].tolist(), abs=CLOSE)


@pytest.mark.parametrize(
    ("eos", "expected"), [([2, 0], {0, 2}), (2, {2}), (None, set())], ids=["several", "one", "none"]
)
def test_stop_ids_are_all_those_of_the_generation_settings(tiny_model: Path, eos, expected: set[int]) -> None:
    network = load(tiny_model)
    network.generation_config.eos_token_id = eos
    assert stop_ids(network) == expected


def test_a_prompt_runs_once_for_all_its_answers_and_no_token_twice(model) -> None:
    seen = 0

    def count(_module, inputs, _output) -> None:
        nonlocal seen
        seen += inputs[0].numel()

    hook = model.get_input_embeddings().register_forward_hook(count)
    try:
        answers = generate(model, requests(), max_new_tokens=9, stop=frozenset(range(0, 300, 11)))
    finally:
        hook.remove()
    assert len({len(answer.ids) for answer in answers}) > 2
    # the last token of an answer is never taken in
    assert seen == sum(map(len, PROMPTS)) + sum(len(answer.ids) - 1 for answer in answers)


@pytest.mark.parametrize("size", [17, 12], ids=["prompt", "answer"])
def test_what_would_turn_the_positions_of_others_is_refused(size: int) -> None:
    network = built(scaled("dynamic"))  # first trained on 16 tokens
    packing.enable(network)
    asked = [Request(prompt=tuple(range(1, size + 1)), seed=1), Request(prompt=(1, 2), seed=2)]
    with pytest.raises(ModelError, match="a conversation of 17 tokens passes the model's window of 16"):
        generate(network, asked, max_new_tokens=9, stop=frozenset())
