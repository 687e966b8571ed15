"""What many prompts begin with."""

from starling.beginnings import PROMPTS, TOKENS, shared


def prompts(start: tuple[int, ...], count: int, tail: int = 3) -> list[tuple[int, ...]]:
    return [(*start, 1000 + at, *range(tail)) for at in range(count)]


LONG, SHORT = tuple(range(40)), tuple(range(20))


def test_a_beginning_that_many_share_is_found() -> None:
    assert shared(prompts(LONG, PROMPTS)) == dict.fromkeys(prompts(LONG, PROMPTS), 40)


def test_few_prompts_or_few_tokens_share_nothing() -> None:
    assert set(shared(prompts(LONG, PROMPTS - 1)).values()) == {0}
    assert set(shared(prompts(tuple(range(TOKENS - 1)), PROMPTS)).values()) == {0}
    assert set(shared(prompts(tuple(range(TOKENS)), PROMPTS)).values()) == {TOKENS}


def test_a_longer_beginning_goes_before_the_shorter_that_it_goes_on_from() -> None:
    deep = prompts((*SHORT, *range(500, 530)), PROMPTS)
    found = shared([*prompts(SHORT, PROMPTS), *deep])
    assert found == dict.fromkeys(prompts(SHORT, PROMPTS), 20) | dict.fromkeys(deep, 50)


def test_those_too_few_for_a_beginning_of_their_own_keep_the_shorter() -> None:
    few = prompts((*SHORT, *range(500, 530)), PROMPTS - 1)
    assert set(shared([*prompts(SHORT, 2), *few]).values()) == {20}


def test_every_prompt_keeps_a_token_of_its_own() -> None:
    found = shared([LONG, *prompts(LONG, PROMPTS)])
    assert found[LONG] == 39
    assert all(length < len(prompt) for prompt, length in found.items())


def test_the_order_and_number_of_the_prompts_change_nothing() -> None:
    given = [*prompts(LONG, 9), *prompts(SHORT, 9)]
    assert shared(given[::-1] + given) == shared(given)
    assert shared([]) == {}
