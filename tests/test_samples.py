"""Rollouts as text for people."""

from starling.experience import Scale
from starling.generate import Sampled
from starling.records import Prompt
from starling.rollout import Group
from starling.samples import PROMPTS, block, section


def group(name: str, *texts: str) -> Group:
    answers = tuple(Sampled(ids=[1, 2], logprobs=[0.0, 0.0], finished=bool(at)) for at in range(len(texts)))
    prompt = Prompt(id=name, messages=[{"role": "user", "content": "Say hello."}])
    return Group(prompt=prompt, prompt_ids=(1,), answers=answers, texts=texts)


def test_a_section_shows_prompt_answers_rewards_and_ends() -> None:
    text = section([group("greeting", "Hello.", "Hi\nthere")], [[0.5, 2.0]], Scale(1.0, 0.5))
    # (0.5 - 1) / 0.5 = -1; (2 - 1) / 0.5 = 2
    assert "1 of 1 prompts" in text
    assert "### greeting\n\nuser:\n\n    Say hello.\n" in text
    assert "Answer 1, reward -1.000 (0.5), 2 tokens, cut by the token cap:\n\n    Hello.\n" in text
    assert "Answer 2, reward +2.000 (2), 2 tokens, finished:\n\n    Hi\n    there\n" in text


def test_what_a_model_wrote_cannot_look_like_the_page_or_steer_a_terminal() -> None:
    text = section([group("a`b<c", "## Step 9\r## Step 9\n\x1b[31m# head", "")], [[0.0, 0.0]], Scale(0.0, 1.0))
    assert "    ## Step 9\\r## Step 9\n    \\x1b[31m# head" in text
    assert not any(line.startswith("## Step") for line in text.splitlines())
    assert "### a\\`b&lt;c" in text
    assert "2 tokens, finished, without any text." in text


def test_only_the_first_prompts_are_shown() -> None:
    groups = [group(f"p{number}", "x") for number in range(PROMPTS + 2)]
    text = section(groups, [[0.0]] * len(groups), Scale(0.0, 1.0))
    assert f"{PROMPTS} of {PROMPTS + 2} prompts" in text
    assert text.count("### ") == PROMPTS


def test_every_line_of_a_block_is_indented() -> None:
    assert block("a\n\nb") == "    a\n    \n    b"
