"""The policy that is tuned: trunk, top, reference, critic."""

from pathlib import Path

import pytest
import torch
from tolerances import CLOSE

from starling import decoder_parts, models, packing, update
from starling.adapters import Lora, plain_weights
from starling.generate import Request, generate
from starling.packing import pack
from starling.policy import Policy, answer_tokens, pad, predicting_positions
from starling.tune_settings import TuneTable

#           p p p a a b b b q q c d d
DOCUMENTED = [([1, 2, 3], [[4, 5], [6, 7, 8]]), ([9, 10], [[11], [12, 13]])]
GROUPS = [([5, 6, 7, 8], [[20, 21], [30, 31, 32]]), ([40, 41], [[50, 51, 52]])]


@pytest.fixture
def policy(tiny_model: Path) -> Policy:
    return Policy(models.load_policy(str(tiny_model), torch.float32), 2)


def move(policy: Policy) -> None:
    """Change every trained weight."""
    with torch.no_grad():
        for weight in policy.top.parameters():
            weight += 0.05 * torch.randn_like(weight)


def test_predicting_positions_of_the_documented_example() -> None:
    # a a from the last p and the first a; b b b from the last p and b b; c from the last q; d d from the last q and d
    assert predicting_positions(pack(DOCUMENTED)) == [2, 3, 2, 5, 6, 9, 9, 11]


def test_answer_tokens_of_the_documented_example() -> None:
    assert answer_tokens(pack(DOCUMENTED)).tolist() == [4, 5, 6, 7, 8, 11, 12, 13]


def test_pad_by_hand() -> None:
    value_BT, mask_BT = pad(torch.tensor([1.0, 2, 3, 4, 5, 6]), [2, 3, 1])
    assert value_BT.tolist() == [[1, 2, 0], [3, 4, 5], [6, 0, 0]]
    assert mask_BT.tolist() == [[True, True, False], [True, True, True], [True, False, False]]


def test_pad_hands_gradients_back_to_the_packed_values() -> None:
    value_N = torch.tensor([1.0, 2, 3], requires_grad=True)
    value_BT, mask_BT = pad(value_N, [1, 2])
    (value_BT * mask_BT * torch.tensor([[1.0, 10], [100, 1000]])).sum().backward()
    assert value_N.grad is not None
    assert value_N.grad.tolist() == [1, 100, 1000]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_at_first_the_policy_is_the_reference_exactly(
    tiny_model: Path, dtype: torch.dtype, products: torch.dtype
) -> None:
    policy = Policy(models.load_policy(str(tiny_model), dtype), 2)
    packed = pack(GROUPS)
    features = policy.features(packed)
    assert torch.equal(policy.logprobs(packed, features), features.ref_logprob_N)


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize("layers", [2, 0])
def test_the_reference_takes_half_the_memory_of_a_copy_in_float32_and_says_the_same(
    layers: int, tiny_model: Path
) -> None:
    policy = Policy(models.load_policy(str(tiny_model), torch.bfloat16), layers)
    exact = decoder_parts.top_of(policy.network.get_decoder(), layers)
    held, whole = (sum(weight.nbytes for weight in part.parameters()) for part in (policy._reference, exact))
    norms = sum(weight.nbytes for name, weight in exact.named_parameters() if "norm" in name)
    assert held == (whole - norms) / 2 + norms
    packed = pack(GROUPS)
    features = policy.features(packed)
    policy._reference = exact
    assert all(torch.equal(*pair) for pair in zip(policy.features(packed), features, strict=True))


@pytest.mark.parametrize("layers", [2, 0])
def test_an_update_reads_the_networks_own_weights_and_moves_the_policy_as_copies_of_them_would(
    layers: int, tiny_model: Path
) -> None:
    own, copied = (
        Policy(models.load_policy(str(tiny_model), torch.bfloat16), layers, apart=apart) for apart in (False, True)
    )
    read = {weight.data_ptr() for weight in own._rounded.parameters()} - {w.data_ptr() for w in own.top.parameters()}
    assert len(read) == 7 * (layers or 4)
    assert read <= {weight.data_ptr() for weight in own.network.parameters()}
    packed = pack(GROUPS)
    found = []
    for policy in (own, copied):
        features = policy.features(packed)
        optimiser = update.optimiser(policy, TuneTable(learning_rate=0.01))
        logprobs = []
        for _ in range(2):
            for part in (slice(0, 4), slice(4, None)):  # two microbatches
                logprobs.append(policy.logprobs(packed, features))
                logprobs[-1][part].square().sum().backward()
            optimiser.step()
        found.append(
            [
                *(row.detach() for row in logprobs),
                *(w.grad for w in policy.trained.values()),
                *policy.weights().values(),
            ]
        )
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    assert not torch.equal(found[0][0], found[0][2])  # the step is followed
    assert all(weight.grad is None for weight in own._rounded.parameters() if weight.data_ptr() in read)


def test_a_network_that_samples_meanwhile_stays_as_it_is_till_it_is_synced(tiny_model: Path) -> None:
    policy = Policy(models.load_policy(str(tiny_model), torch.bfloat16), 2, apart=True)
    before = {name: weight.clone() for name, weight in policy.network.state_dict().items()}
    move(policy)
    packed = pack(GROUPS)
    policy.logprobs(packed, policy.features(packed)).sum().backward()
    assert all(torch.equal(before[name], weight) for name, weight in policy.network.state_dict().items())
    policy.sync()
    assert any(not torch.equal(before[name], weight) for name, weight in policy.network.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_policy_is_saved_as_it_samples(
    tiny_model: Path, tmp_path: Path, dtype: torch.dtype, products: torch.dtype
) -> None:
    policy = Policy(models.load_policy(str(tiny_model), dtype), 2)  # whatever the processor multiplies faster
    move(policy)
    policy.sync()
    policy.save(tmp_path / "policy")
    loaded = models.load_policy(str(tmp_path / "policy"), dtype).network.state_dict()
    assert loaded.keys() == policy.network.state_dict().keys()
    assert all(torch.equal(loaded[name], weight) for name, weight in policy.network.state_dict().items())
    packed = pack(GROUPS)
    assert policy.logprobs(packed, policy.features(packed)).isfinite().all()


def test_kl_is_the_mean_gap_of_tokens_drawn_from_the_policy(tiny_model: Path) -> None:
    policy = Policy(models.load_policy(str(tiny_model), torch.float32), 2)
    move(policy)
    policy.sync()
    # one answer of one token: what may stand there, 4,000 times, from the policy itself
    requests = [Request(prompt=(5, 6, 7), seed=seed) for seed in range(4000)]
    drawn = [answer.ids[:1] for answer in generate(policy.network, requests, max_new_tokens=1, stop=frozenset())]
    packed = pack([([5, 6, 7], drawn)])
    features = policy.features(packed)
    with torch.no_grad():
        gap_N = policy.logprobs(packed, features) - features.ref_logprob_N
    found_N = policy.kl(packed)
    assert torch.equal(found_N, policy.kl(packed, features.trunk_1TH))
    warmer = Policy(models.load_policy(str(tiny_model), torch.float32), 2, 2.0)
    warmer.load(policy.weights())
    assert torch.equal(found_N, warmer.kl(packed))  # at temperature 1, whatever rollouts are sampled at
    assert found_N.std() < 1e-4 * found_N[0]  # the same position each time
    error = 4 * float(gap_N.std()) / len(gap_N) ** 0.5
    assert float(gap_N.mean()) == pytest.approx(float(found_N[0]), abs=error)
    assert float(found_N[0]) > 2 * error  # a sign would show


@torch.no_grad()
def test_logprobs_are_those_of_the_whole_model(tiny_model: Path, policy: Policy) -> None:
    plain = models.load_policy(str(tiny_model), torch.float32).network
    packed = pack(GROUPS)
    expected = []
    for prompt, answers in GROUPS:
        for answer in answers:
            hidden_TH = packing.hidden_states(plain.get_decoder(), pack([(prompt + answer, [])]))
            logprob_TV = plain.get_output_embeddings()(hidden_TH).log_softmax(-1)
            expected += [float(logprob_TV[len(prompt) - 1 + at, token]) for at, token in enumerate(answer)]
    found = policy.logprobs(packed, policy.features(packed))
    assert found.tolist() == pytest.approx(expected, abs=0.05)  # bfloat16 in the top


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.6, 1.5])
@pytest.mark.parametrize("cap", [None, 4.0], ids=["a linear head", "capped logits"])
def test_logprobs_are_those_at_the_temperature_that_rollouts_are_sampled_at(
    tiny_model: Path, temperature: float, cap: float | None
) -> None:
    model = models.load_policy(str(tiny_model), torch.float32)
    model.network.config.final_logit_softcapping = cap
    policy = Policy(model, 2, temperature)
    requests = [Request(prompt=(5, 6, 7), seed=seed, temperature=temperature) for seed in range(40)]
    drawn = generate(policy.network, requests, max_new_tokens=5, stop=frozenset())
    packed = pack([([5, 6, 7], [answer.ids for answer in drawn])])
    features = policy.features(packed)
    sampled_N = torch.tensor([value for answer in drawn for value in answer.logprobs])
    assert (policy.logprobs(packed, features) - sampled_N).abs().mean() < 0.02  # bfloat16 in the top
    assert (features.ref_logprob_N - sampled_N).abs().mean() < 0.02
    plain = Policy(model, 2)
    assert (plain.logprobs(packed, plain.features(packed)) - sampled_N).abs().mean() > 0.1


def test_training_moves_the_policy_and_nothing_that_is_frozen(policy: Policy) -> None:
    packed = pack(GROUPS)
    before = policy.features(packed)
    frozen = {name: weight.clone() for name, weight in policy.network.named_parameters()}
    optimiser = torch.optim.SGD(policy.top.parameters(), lr=1e-4, maximize=True)
    policy.logprobs(packed, before).sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in policy.top.parameters())
    optimiser.step()
    assert policy.logprobs(packed, before).sum() > before.ref_logprob_N.sum()
    assert all(torch.equal(weight, frozen[name]) for name, weight in policy.network.named_parameters())
    assert all(torch.equal(*pair) for pair in zip(policy.features(packed), before, strict=True))


def test_sync_makes_the_network_equal_to_the_top(policy: Policy) -> None:
    frozen = {name: weight.clone() for name, weight in policy.network.named_parameters()}
    move(policy)
    policy.sync()
    decoder = policy.network.get_decoder()
    for found, wanted in zip([*decoder.layers[2:], decoder.norm], [*policy.top.layers, policy.top.norm], strict=True):
        assert all(torch.equal(*pair) for pair in zip(found.parameters(), wanted.parameters(), strict=True))
    changed = {name for name, weight in policy.network.named_parameters() if not torch.equal(weight, frozen[name])}
    assert changed == {
        name for name in frozen if name.startswith(("model.layers.2.", "model.layers.3.", "model.norm."))
    }


def test_sync_leaves_trunk_and_reference_as_they_were(policy: Policy) -> None:
    packed = pack(GROUPS)
    before = policy.features(packed)
    move(policy)
    policy.sync()
    assert all(torch.equal(*pair) for pair in zip(policy.features(packed), before, strict=True))


@torch.no_grad()
def test_after_sync_the_network_samples_under_the_policys_logprobs(policy: Policy) -> None:
    move(policy)
    policy.sync()
    requests = [Request(prompt=tuple(prompt), seed=seed) for seed, (prompt, _) in enumerate(GROUPS)]
    answers = generate(policy.network, requests, max_new_tokens=6, stop=frozenset())
    packed = pack([(prompt, [answer.ids]) for (prompt, _), answer in zip(GROUPS, answers, strict=True)])
    features = policy.features(packed)
    sampled = [logprob for answer in answers for logprob in answer.logprobs]
    assert policy.logprobs(packed, features).tolist() == pytest.approx(sampled, abs=0.1)  # bfloat16 in the top
    assert (features.ref_logprob_N - torch.tensor(sampled)).abs().max() > 0.3  # the reference has not moved along


def test_the_critic_expects_nothing_at_first_and_one_value_for_each_token(policy: Policy) -> None:
    values = policy.values(policy.features(pack(GROUPS)))
    assert values.tolist() == [0.0] * 8


def test_a_critics_gradient_stays_in_the_critic(policy: Policy) -> None:
    values = policy.values(policy.features(pack(GROUPS)))
    (values - 1).square().sum().backward()
    assert all(weight.grad is None for weight in policy.top.parameters())
    assert policy.critic.down.weight.grad.abs().max() > CLOSE


def test_all_blocks_can_be_trained(tiny_model: Path) -> None:
    policy = Policy(models.load_policy(str(tiny_model), torch.float32), 0)
    packed = pack(GROUPS)
    features = policy.features(packed)
    assert torch.equal(policy.logprobs(packed, features), features.ref_logprob_N)
    frozen = {name: weight.clone() for name, weight in policy.network.named_parameters()}
    move(policy)
    policy.sync()
    same = {name for name, weight in policy.network.named_parameters() if torch.equal(weight, frozen[name])}
    assert same == {"model.embed_tokens.weight", "lm_head.weight"}
    assert all(torch.equal(*pair) for pair in zip(policy.features(packed), features, strict=True))


@pytest.mark.parametrize("lora", [None, Lora(4, 8, 1)], ids=["all weights", "adapters"])
def test_a_blended_policy_is_the_one_that_would_be_saved_and_leaves_no_trace(tiny_model, lora) -> None:
    policy = Policy(models.load_policy(str(tiny_model), torch.float32), 2, lora=lora)
    with torch.no_grad():
        for weight in policy.trained.values():
            weight += 0.1 * torch.randn_like(weight)
    before = {name: weight.clone() for name, weight in policy.weights().items()}
    policy.sync(0.75)
    saved = {name: weight.clone() for name, weight in policy.network.get_decoder().layers[-1].named_parameters()}
    with policy.blended(0.75):
        plain = dict(plain_weights(policy.top))
        for name, weight in saved.items():
            torch.testing.assert_close(plain[f"layers.1.{name}"].detach(), weight)
    assert all(torch.equal(weight, before[name]) for name, weight in policy.weights().items())
