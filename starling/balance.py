"""Groups of unlike size in microbatches of like size."""

import heapq
from collections.abc import Iterator, Sequence

from starling import packing
from starling.packing import Pack, Packed


def batches(packs: Sequence[Pack], tokens: int) -> Iterator[tuple[list[int], Packed]]:
    """Packed sequences of up to `tokens` and of like size, with the indices of what each holds."""
    for indices in microbatches([packing.size(pack) for pack in packs], tokens):
        yield indices, packing.pack([packs[index] for index in indices])


def microbatches(sizes: Sequence[int], tokens: int) -> list[list[int]]:
    """Indices of groups whose sizes add up to at most `tokens` in each microbatch; a larger group stands alone.

    There are as many microbatches as the sum asks for; the largest group goes first, each into the one that holds
    least, and a further one is begun only where a group fits into none (longest processing time first, Graham 1969).
    So no pass is left nearly empty, as the last one is when groups are taken as they come. The same sizes give
    the same microbatches; each lists its groups in rising order, and they follow in the order of their first.
    """
    count = -(-sum(min(size, tokens) for size in sizes) // tokens)
    lightest: list[tuple[int, int]] = [(0, number) for number in range(count)]
    found: list[list[int]] = [[] for _ in range(count)]
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        held, number = lightest[0]
        if held and held + sizes[index] > tokens:
            heapq.heappush(lightest, (sizes[index], len(found)))
            found.append([index])
        else:
            heapq.heapreplace(lightest, (held + sizes[index], number))
            found[number].append(index)
    return sorted(sorted(batch) for batch in found if batch)
