"""Some rollouts of a step as text for people: Markdown in which what a model wrote means nothing but itself."""

from collections.abc import Sequence

from starling.experience import Scale
from starling.rollout import Group
from starling.texts import markdown, visible

PROMPTS = 4  # of a step: enough to read, and the file stays small


def section(groups: Sequence[Group], raw: Sequence[Sequence[float]], scale: Scale) -> str:
    """The first prompts of a step with all their answers, each with its scaled and raw reward, tokens and end.

    Texts stand in indented blocks, where Markdown has no signs, and invisible characters are written out.
    """
    shown = min(PROMPTS, len(groups))
    parts = [f"{shown} of {len(groups)} prompts; rewards are in spreads of the ranked answers, raw ones in brackets."]
    for group, rewards in zip(groups[:shown], raw[:shown], strict=True):
        parts.append(f"### {markdown(group.prompt.id)}")
        parts += [f"{markdown(message['role'])}:\n\n{block(message['content'])}" for message in group.prompt.messages]
        for number, (answer, text, reward) in enumerate(zip(group.answers, group.texts, rewards, strict=True), 1):
            end = "finished" if answer.finished else "cut by the token cap"
            scaled = scale.of(reward)
            about = f"Answer {number}, reward {scaled:+.3f} ({reward:.4g}), {len(answer.ids)} tokens, {end}"
            parts.append(f"{about}:\n\n{block(text)}" if text else f"{about}, without any text.")
    return "\n\n".join(parts) + "\n"


def block(text: str) -> str:
    """The text as an indented block of Markdown."""
    return "\n".join("    " + line for line in visible(text).split("\n"))
