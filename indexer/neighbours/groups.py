"""Groups without chaining: a leader, and what is linked to the leader itself."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

N = TypeVar("N", bound=Hashable)


def leader_groups(order: Iterable[N], links: Mapping[N, Sequence[N]]) -> dict[N, list[N]]:
    """Greedy leader groups: leader -> members, for every leader that has any.

    order: nodes, the best keeper first. links: node -> nodes that it may lead, best first.
    A node that is not taken yet leads all those linked to it that are not taken yet; a member leads nobody, so what is
    linked to a member only stays out.
    """
    taken: set[N] = set()
    groups: dict[N, list[N]] = {}
    for leader in order:
        if leader in taken:
            continue
        members = [node for node in links.get(leader, ()) if node not in taken and node != leader]
        if members:
            groups[leader] = members
            taken.add(leader)
            taken.update(members)
    return groups
