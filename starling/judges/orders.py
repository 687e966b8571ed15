"""Who is shown where, and who meets whom: balanced over the prompts, and settled by the seed."""

import random
from collections.abc import Sequence
from itertools import combinations


def latin_square(k: int, source: random.Random) -> list[list[int]]:
    """`k` orders of `k` things, in which each stands once in every place; drawn at random among the cyclic ones."""
    rows, columns, symbols = (source.sample(range(k), k) for _ in range(3))
    return [[symbols[(row + column) % k] for column in columns] for row in rows]


def balanced_orders(items: Sequence[tuple[str, int]], seed: int, repeat: int = 0) -> list[list[int]]:
    """The order in which each item's answers are shown; an item is the id of its prompt and the number of answers.

    Of the items with `k` answers, each block of `k` in a row uses the rows of one Latin square, so that every answer
    index stands once in every place; the next block has a square of its own. The seed and the id of its first prompt
    settle a square. Each further `repeat` takes the next row, so that over `k` repeats every answer of an item stands
    once in every place; after that come the rows of another square.
    """
    seen: dict[int, int] = {}
    squares: dict[int, list[list[int]]] = {}
    orders = []
    for name, k in items:
        row = seen.get(k, 0)
        seen[k] = (row + 1) % max(k, 1)
        lap = repeat // max(k, 1)
        if row == 0:
            squares[k] = latin_square(k, random.Random(f"{seed} square {name}{f' {lap}' if lap else ''}"))
        orders.append(squares[k][(row + repeat) % k] if k else [])
    return orders


def meetings(k: int, least: int) -> list[tuple[int, int]]:
    """Pairs of `k` places round a circle in which each meets at least `least` others; 0 = all pairs.

    Neighbours meet first, so that from two meetings on everybody is connected with everybody. One place meets one
    more where `k` and `least` are both odd; no place meets more than that.
    """
    if least == 0 or least >= k - 1:
        return list(combinations(range(k), 2))
    pairs = [(place, (place + step) % k) for step in range(1, least // 2 + 1) for place in range(k)]
    if least % 2:
        across = k // 2
        # With k even: each meets the place opposite. With k odd: every second edge of the walk in steps of `across`.
        walk = [step * across % k for step in range(k + 1)] if k % 2 else []
        pairs += list(zip(walk[::2], walk[1::2], strict=False)) if walk else [(at, at + across) for at in range(across)]
    return pairs
