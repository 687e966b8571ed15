"""What a step of fit minimises."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from killed import Killed
from made_rankings import WORDS, ranking, rankings
from tolerances import CLOSE, EXACT

from starling import device, heads, metrics, models, reward
from starling.config import FitTable
from starling.errors import DataError
from starling.examples import Example
from starling.losses.length import length_terms
from starling.losses.ranking import plackett_luce_nll
from starling.metrics import Recorder
from starling.objective import LOSSES, Objective, agreement, num_places
from starling.stages import fit

HIDDEN = 6


def example(name: str, ranks: list[float], lengths: list[int] | None = None, **facts: Any) -> Example:
    told = replace(ranking(name, [f"answer {at}" for at in range(len(ranks))], ranks), **facts)
    return Example(told, [1], [[7] * length for length in lengths or [3] * len(ranks)])


EXAMPLES = [
    example("p", [2, 1, 3], [4, 9, 2]),
    example("q", [1, 2], [3, 5]),
    example("r", [1, 1, 3, 4], [8, 1, 2, 2]),
    example("s", [0, 1, 0], [5, 6, 7]),
]
NUM_ANSWERS = 12


class Head:
    """A network of nothing but a score head."""

    def __init__(self) -> None:
        self.score = torch.nn.Linear(HIDDEN, 1, bias=False, dtype=torch.float64)
        self.config = SimpleNamespace(hidden_size=HIDDEN)
        self.device = torch.device("cpu")


def loss_of(table: FitTable, rewards: list[list[float]], examples: list[Example]) -> Any:
    flat = torch.tensor([reward for row in rewards for reward in row], dtype=torch.float64)
    return Objective(table, Head(), examples, 1)(flat, torch.zeros(len(flat), HIDDEN), examples)


def test_the_names_of_the_settings_are_those_of_the_losses() -> None:
    assert list(FitTable.model_fields["loss"].annotation.__args__) == list(LOSSES)


def test_the_k_wise_loss_is_the_sum_over_the_rankings() -> None:
    # weights 3, 2, 1 in the right order: log 3; 3 over 1: log 4/3
    logs = [[math.log(2), math.log(3), 0.0], [math.log(3), 0.0]]
    found = loss_of(FitTable(), logs, EXAMPLES[:2])
    assert found.loss.item() == pytest.approx(math.log(3) + math.log(4 / 3), abs=EXACT)
    assert found.report == pytest.approx({"loss": found.loss.item(), "nll": found.loss.item()}, abs=EXACT)
    assert num_places(EXAMPLES[:2]) == 3


@pytest.mark.parametrize(
    ("loss", "of_three"),
    [
        # the three pairs of weights 3, 2, 1 cost log 5/3, log 4/3 and log 3/2; a ranking of three has two places
        ("all_pairs", 2 * math.log(5 / 3 * 4 / 3 * 3 / 2) / 3),
        ("adjacent_pairs", math.log(5 / 3 * 3 / 2)),
        ("best_against_rest", math.log(5 / 3 * 4 / 3)),
    ],
)
def test_a_comparator_counts_a_ranking_as_often_as_the_k_wise_loss(loss: str, of_three: float) -> None:
    logs = [[math.log(2), math.log(3), 0.0], [math.log(3), 0.0]]
    found = loss_of(FitTable(loss=loss), logs, EXAMPLES[:2])
    assert found.loss.item() == pytest.approx(of_three + math.log(4 / 3), abs=EXACT)
    assert found.report["nll"] == pytest.approx(math.log(3) + math.log(4 / 3), abs=EXACT)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # weights 4, 3, 2, 1, the two best places known: 4/10 * 3/6; the pairs 7/4, 6/4, 5/4, 5/3, 4/3
        ("plackett_luce", math.log(5)),
        ("all_pairs", 2 * math.log(7 / 4 * 6 / 4 * 5 / 4 * 5 / 3 * 4 / 3) / 5),
        ("adjacent_pairs", 2 * math.log(7 / 4 * 5 / 3 * 4 / 3) / 3),
        ("best_against_rest", 2 * math.log(7 / 4 * 6 / 4 * 5 / 4) / 3),
    ],
)
def test_a_ranking_of_the_best_alone_counts_as_the_places_that_are_known(loss: str, expected: float) -> None:
    told = [example("t", [1, 2, 0, 0])]
    found = loss_of(FitTable(loss=loss), [[math.log(weight) for weight in (4, 3, 2, 1)]], told)
    assert found.loss.item() == pytest.approx(expected, abs=EXACT)
    assert num_places(told) == 2


def test_the_pair_of_a_ranking_is_the_same_at_every_visit_and_another_with_another_seed() -> None:
    examples = [example(f"p{at}", [1, 2, 3]) for at in range(60)]
    reward = torch.tensor([math.log(3), math.log(2), 0.0] * 60, dtype=torch.float64)

    def costs(seed: int, order: list[int]) -> list[float]:
        objective = Objective(FitTable(loss="sampled_pair"), Head(), examples, seed)
        hidden = torch.zeros(3, HIDDEN)
        return [objective(reward[:3], hidden, [examples[at]]).loss.item() for at in order]

    first = costs(1, list(range(60)))
    assert costs(1, list(reversed(range(60)))) == list(reversed(first))
    assert costs(2, list(range(60))) != first
    # each of the three pairs about as often, at two places a ranking
    for odds in (5 / 3, 4 / 3, 3 / 2):
        assert 10 < sum(cost == pytest.approx(2 * math.log(odds)) for cost in first) < 30


def test_the_margin_reaches_the_loss_and_not_the_reported_nll() -> None:
    found = loss_of(FitTable(margin=0.5), [[1.0, 0.0]], [EXAMPLES[1]])
    assert found.loss.item() == pytest.approx(math.log1p(math.exp(0.5 - 1)), abs=EXACT)
    assert found.report["nll"] == pytest.approx(math.log1p(math.exp(-1)), abs=EXACT)
    paired = loss_of(FitTable(margin=0.5, loss="all_pairs"), [[1.0, 0.0]], [EXAMPLES[1]])
    assert paired.loss.item() == pytest.approx(found.loss.item(), abs=EXACT)


def test_centring_adds_the_squared_sum_of_each_prompt() -> None:
    rewards = [[1.0, 2.0, -4.0], [1.0, 1.0]]
    plain, centred = (loss_of(FitTable(centring_coef=c), rewards, EXAMPLES[:2]).loss.item() for c in (0.0, 0.1))
    # 0.1 * ((1 + 2 - 4)^2 + (1 + 1)^2)
    assert centred - plain == pytest.approx(0.5, abs=EXACT)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, 1.0),
        ({"agreement": 0.8}, 0.8),
        ({"self_agreement": 1.0}, 1.0),
        ({"self_agreement": -1.0}, 0.0),
        ({"self_agreement": 0.5}, 0.75),
        ({"agreement": 0.8, "self_agreement": 0.5}, 0.6),
    ],
)
def test_agreement_is_verdicts_upheld_times_pairs_ordered_alike(facts: dict, expected: float) -> None:
    assert agreement(example("p", [1, 2], **facts).ranking) == pytest.approx(expected, abs=EXACT)


def test_weights_follow_agreement_and_have_mean_one() -> None:
    examples = [example("p", [1, 2], agreement=0.5), example("q", [1, 2]), example("r", [1, 2], self_agreement=0.0)]
    objective = Objective(FitTable(weights="agreement"), Head(), examples, 1)
    # 0.5, 1 and 0.5 over their mean 2/3
    assert [objective.weight(e.ranking) for e in examples] == pytest.approx([0.75, 1.5, 0.75], abs=EXACT)
    assert objective.weight_facts(examples) == pytest.approx({"least": 0.75, "largest": 1.5, "unknown": 1}, abs=EXACT)
    rewards = [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]
    expected = sum(w * math.log1p(math.exp(-d)) for w, d in ((0.75, 1), (1.5, -1), (0.75, 2)))
    found = loss_of(FitTable(weights="agreement"), rewards, examples)
    assert found.loss.item() == pytest.approx(expected, abs=EXACT)
    assert found.report["nll"] == pytest.approx(sum(math.log1p(math.exp(-d)) for d in (1, -1, 2)), abs=EXACT)


def test_without_weights_agreement_does_not_count() -> None:
    told = [example("p", [1, 2], agreement=0.5), example("q", [1, 2])]
    assert Objective(FitTable(), Head(), told, 1).weight_facts(told) is None
    assert loss_of(FitTable(), [[1.0, 0.0]] * 2, told).loss.item() == pytest.approx(
        2 * math.log1p(math.exp(-1)), abs=EXACT
    )


def test_a_judge_that_never_agrees_with_itself_is_a_plain_error() -> None:
    told = [example("p", [1, 2], self_agreement=-1.0)]
    with pytest.raises(DataError, match=r"all weights are 0; set fit\.weights"):
        Objective(FitTable(weights="agreement"), Head(), told, 1)


ANY = FitTable(weights="agreement", margin=0.2, centring_coef=0.01)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("split", [(4,), (1, 1, 1, 1), (2, 2), (1, 3)], ids=str)
def test_the_gradient_is_the_same_under_any_split(loss: str, split: tuple[int, ...]) -> None:
    examples = [replace(e, ranking=replace(e.ranking, agreement=0.5 + 0.1 * at)) for at, e in enumerate(EXAMPLES)]
    torch.manual_seed(5)
    hidden = torch.randn(NUM_ANSWERS, HIDDEN, dtype=torch.float64)
    network = Head()
    objective = Objective(ANY.model_copy(update={"loss": loss}), network, examples, 1)

    def gradient(parts: tuple[int, ...]) -> torch.Tensor:
        network.score.zero_grad()
        start, first = 0, 0
        for part in parts:
            chosen = examples[first : first + part]
            stop = start + sum(len(e.endings) for e in chosen)
            found = objective(network.score(hidden[start:stop])[:, 0], hidden[start:stop], chosen)
            (found.loss / num_places(examples)).backward()
            start, first = stop, first + part
        return network.score.weight.grad.clone()

    whole = gradient((4,))
    assert whole.abs().max().item() > 0.01
    assert torch.allclose(gradient(split), whole, atol=1e-14, rtol=0)


def test_the_length_head_shares_the_ranking_and_is_drawn_to_length() -> None:
    torch.manual_seed(6)
    hidden, network = torch.randn(5, HIDDEN), Head().score.float()
    owner = Head()
    owner.score = network
    objective = Objective(FitTable(length_head=0.5), owner, EXAMPLES[:2], 1)
    (head,) = objective.weights.values()
    assert 0 < head.abs().max().item() < 1
    reward = network(hidden)[:, 0]
    found = objective(reward, hidden, EXAMPLES[:2])
    other = hidden @ head
    ranks, mask = torch.tensor([[2.0, 1, 3], [1, 2, 0]]), torch.tensor([[True] * 3, [True, True, False]])

    def padded(flat: torch.Tensor) -> torch.Tensor:
        return torch.stack([flat[:3], torch.nn.functional.pad(flat[3:], (0, 1))])

    lengths = torch.tensor([[4.0, 9, 2], [3, 5, 0]])
    terms = length_terms(padded(reward), padded(other), lengths, mask, torch.stack([network.weight[0], head]))
    shared = plackett_luce_nll(padded(reward + other), ranks, mask).sum()
    # three places
    assert found.loss.item() == pytest.approx((shared + 0.5 * 3 * terms.value).item(), abs=CLOSE)
    assert found.report["length_correlation"] == pytest.approx(3 * terms.quality_correlation.item(), abs=CLOSE)
    assert found.report["length_head_correlation"] == pytest.approx(3 * terms.length_correlation.item(), abs=CLOSE)
    assert found.report["nll"] == pytest.approx(plackett_luce_nll(padded(reward), ranks, mask).sum().item(), abs=CLOSE)
    found.loss.backward()
    assert head.grad.abs().max().item() > 0


def test_a_length_head_is_drawn_as_the_reward_head_is_but_apart_from_it() -> None:
    table = FitTable(length_head=1.0)
    ((first,), (same,), (other,)) = (Objective(table, Head(), EXAMPLES, seed).weights.values() for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert not torch.equal(first, heads.drawn(len(first), device.seed_for(1, "fit", "head")))


def test_without_a_length_head_nothing_is_trained_beside_the_network() -> None:
    assert Objective(FitTable(), Head(), EXAMPLES, 1).weights == {}


FITS = FitTable(learning_rate=3e-3, epochs=2, prompts_per_step=2, weight_decay=0.01, checkpoint_seconds=1e-9)


def test_a_length_head_is_trained_goes_on_after_a_kill_and_is_not_saved(tiny_model: Path, tmp_path: Path) -> None:
    table = FITS.model_copy(update={"length_head": 1.0})
    outcome = {}
    for name, steps in (("whole", 0), ("cut", 6)):
        (tmp_path / name).mkdir()
        path = tmp_path / f"{name}.jsonl"
        arguments = (table, str(tiny_model), rankings(7), [], tmp_path / name)
        if steps:
            with pytest.raises(KeyboardInterrupt):
                fit.fit(*arguments, Killed(path, "fit", steps), seed=1)
        fit.fit(*arguments, Recorder(path, "fit"), seed=1)
        outcome[name] = (tmp_path / name / "model" / "model.safetensors").read_bytes(), metrics.read(path)
    assert outcome["whole"] == outcome["cut"]
    assert b"length_head" not in outcome["whole"][0]
    correlations = [line["fit/length_head_correlation"] for line in outcome["whole"][1]]
    assert len(set(correlations)) == len(correlations) == 8
    assert models.load_reward_model(str(tmp_path / "whole" / "model")).network.config.num_labels == 1


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_the_ranking_is_learnt_beside_a_length_head(tiny_model: Path, tmp_path: Path, lora_rank: int) -> None:
    table = FITS.model_copy(update={"epochs": 6, "length_head": 1.0, "lora_rank": lora_rank})
    fit.fit(table, str(tiny_model), rankings(7), [], tmp_path, Recorder(tmp_path / "metrics.jsonl", "fit"), seed=1)
    last = metrics.read(tmp_path / "metrics.jsonl")[-4:]
    assert max(line["fit/nll"] for line in last) < 0.6  # with heads that begin at 0 it stays at log(6) / 2 = 0.9


@pytest.mark.parametrize("loss", ["all_pairs", "sampled_pair", "adjacent_pairs", "best_against_rest"])
def test_every_comparator_learns_too(tiny_model: Path, tmp_path: Path, loss: str) -> None:
    table = FITS.model_copy(update={"epochs": 4, "loss": loss, "margin": 0.1, "weights": "agreement"})
    recorder = Recorder(tmp_path / "metrics.jsonl", "fit")
    fit.fit(table, str(tiny_model), rankings(7), [], tmp_path, recorder, seed=1)
    lines = metrics.read(tmp_path / "metrics.jsonl")
    assert lines[0]["fit/nll"] == pytest.approx(math.log(6) / 2, abs=0.3)
    assert lines[-1]["fit/nll"] < 0.8 * lines[0]["fit/nll"]


def test_a_length_head_takes_length_out_of_the_reward(tiny_model: Path, tmp_path: Path) -> None:
    lengths = (1, 2, 4, 7)
    answers = [[" ".join([word] * length) for length in lengths] for word in WORDS]  # the longer, the better
    told = [ranking(f"p{at}", own, [4, 3, 2, 1]) for at, own in enumerate(answers)]
    correlation = {}
    for weight in (0.0, 1.0):
        folder = tmp_path / str(weight)
        folder.mkdir()
        table = FITS.model_copy(update={"epochs": 6, "prompts_per_step": 8, "length_head": weight})
        fit.fit(table, str(tiny_model), told, [], folder, Recorder(folder / "metrics.jsonl", "fit"), seed=1)
        judge = reward.load_reward_model(str(folder / "model"))
        scores = torch.tensor(judge.score([one.messages for one in told], answers))
        both = torch.stack([scores.flatten(), torch.tensor(lengths).repeat(len(told)).float()])
        correlation[weight] = torch.corrcoef(both)[0, 1].item()
    assert correlation[0.0] > 0.8 and abs(correlation[1.0]) < 0.5
