"""How much reward each policy has for how much KL: policies between the base and the tuned one, and best-of-n.

All answers are drawn at temperature 1 from the whole distribution, so that the mean of log pi - log pi_base over them
estimates the KL without bias.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import measured
import torch
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from starling import best_of, models, packing, tables
from starling.judges import rubric
from starling.losses import kl
from starling.models import Model
from starling.policy import Policy
from starling.records import Candidate, Prompt
from starling.rollout import Group, SamplingSettings, sample_groups
from starling.store import Run
from starling.writing import write_atomically

DRAWS = 1  # answer of a tuned policy to each prompt; the base gives 16
SHARES = (0.5, 1.0)  # of the way from the base's weights to the tuned ones
WHOLE = SamplingSettings(temperature=1.0, top_p=1.0)


class Point(NamedTuple):
    """KL to the base in nats an answer, gain in reward over the base in spreads, and the rubric's score."""

    kl: float
    reward: float
    score: float


def of_run(base: Run, run: Run, origin: Point, spread: float) -> list[Point]:
    """From the base to the tuned policy; kept beside the run, since it takes a minute or two."""
    path = run.root / "frontier.json"
    if not path.exists():
        points = [_between(base, run, share, origin, spread) for share in SHARES]
        write_atomically(path, json.dumps(points) + "\n")
    return [origin._replace(kl=0.0, reward=0.0), *(Point(*point) for point in json.loads(path.read_text()))]


def of_best(base: Run, folder: Path, spread: float) -> tuple[list[Point], Point]:
    """Best-of-n of 1, 2, ... 16 answers; and the base itself, with its raw reward."""
    prompts = tables.prompts_of(base, "test")[: measured.PROMPTS]
    model = models.load_policy(base.config.run.model)
    answers = measured.answers_of(base, model, prompts, folder / "frontier.parquet", WHOLE)
    rewards = measured.rewards_of(base, prompts, answers)
    scores = scores_of(prompts, answers)

    def mean(rows: Sequence[Sequence[float]], n: int) -> float:
        shares = [best_of.shares(row, n) for row in rewards]
        return sum(s * v for part, row in zip(shares, rows, strict=True) for s, v in zip(part, row, strict=True)) / len(
            rows
        )

    origin = Point(0.0, mean(rewards, 1), mean(scores, 1))
    points = [
        Point(best_of.expected_kl(n), (mean(rewards, n) - origin.reward) / spread, mean(scores, n))
        for n in measured.NUMBERS
    ]
    return points, origin


@torch.inference_mode()
def _between(base: Run, run: Run, share: float, origin: Point, spread: float) -> Point:
    prompts = tables.prompts_of(base, "test")[: measured.PROMPTS]
    policy = Policy(models.load_policy(base.config.run.model), run.config.tune.layers)
    policy.take_over(models.load_policy(str(run.folder("tune") / "policy")).network)
    policy.sync(share)
    groups = sample_groups(
        Model(policy.network, policy.tokenizer),
        prompts,
        count=DRAWS,
        max_new_tokens=run.config.evaluate.answer_tokens,
        **WHOLE,
        seed=run.config.run.seed,
        purpose=("frontier",),
    )
    answers = [
        [
            Candidate(prompt_id=group.prompt.id, model="tuned", draw=draw, answer=text, finished=answer.finished)
            for draw, (text, answer) in enumerate(zip(group.texts, group.answers, strict=True))
        ]
        for group in groups
    ]
    rewards = [reward for row in measured.rewards_of(base, prompts, answers) for reward in row]
    scores = [score for row in scores_of(prompts, answers) for score in row]
    reward = (sum(rewards) / len(rewards) - origin.reward) / spread
    return Point(divergence(policy, groups, run.config.tune.microbatch_tokens), reward, sum(scores) / len(scores))


def scores_of(prompts: Sequence[Prompt], answers: Sequence[Sequence[Candidate]]) -> list[list[float]]:
    """The rubric's score of each prompt's answers."""
    return [
        [rubric.assess(prompt, one.answer, finished=one.finished).score for one in own]
        for prompt, own in zip(prompts, answers, strict=True)
    ]


def divergence(policy: Policy, groups: Sequence[Group], microbatch_tokens: int) -> float:
    """KL of who sampled the groups to the policy's reference, nats an answer."""
    total = 0.0
    for batch, packed in packing.batches([group.pack for group in groups], microbatch_tokens):
        reference_N = policy.features(packed).ref_logprob_N.cpu()
        sampled = [value for index in batch for answer in groups[index].answers for value in answer.logprobs]
        total += float(kl.k1(torch.tensor(sampled), reference_N).sum())
    return total / sum(len(group.answers) for group in groups)


def mean_points(several: Sequence[Sequence[Point]]) -> list[Point]:
    """Point by point the mean over runs."""
    return [
        Point(*(sum(values) / len(values) for values in zip(*points, strict=True)))
        for points in zip(*several, strict=True)
    ]


def draw(lines: Mapping[str, Sequence[Point]]) -> str:
    """The frontier as SVG: reward against KL, and what the rubric says of the same answers."""
    colours = matplotlib.color_sequences["tab20"]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "starling", "font.size": 9.0}):
        figure = Figure(figsize=(9.5, 4.2), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, figure_name in zip(panels, ("reward", "score"), strict=True):
            for number, (name, points) in enumerate(lines.items()):
                axes.plot(
                    [point.kl for point in points],
                    [getattr(point, figure_name) for point in points],
                    label=name,
                    color="black" if name == "best of n" else colours[number % len(colours)],
                    marker="osD^vPX"[number % 7],
                    markersize=4.5,
                    linewidth=1.4,
                    linestyle="--" if name == "best of n" else "-",
                )
            axes.set_xlabel("KL to the base, nats an answer")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("gain in the reward model's score, spreads")
        panels[1].set_ylabel("rubric's score of the same answers")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()
