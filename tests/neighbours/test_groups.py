"""Leader groups do not chain."""

from __future__ import annotations

from indexer.neighbours.groups import leader_groups


def both_ways(*pairs: tuple[int, int]) -> dict[int, list[int]]:
    links: dict[int, list[int]] = {}
    for a, b in pairs:
        links.setdefault(a, []).append(b)
        links.setdefault(b, []).append(a)
    return links


def test_a_chain_is_cut_at_what_the_leader_is_linked_to() -> None:
    chain = both_ways((1, 2), (2, 3), (3, 4))
    assert leader_groups([1, 2, 3, 4], chain) == {1: [2], 3: [4]}


def test_the_best_leads() -> None:
    star = both_ways((1, 2), (1, 3), (2, 3))
    assert leader_groups([3, 1, 2], star) == {3: [1, 2]}


def test_who_has_nobody_left_leads_nobody() -> None:
    assert leader_groups([1, 2, 3], both_ways((1, 2))) == {1: [2]}
    assert leader_groups([2, 3], {2: [3, 2]}) == {2: [3]}
    assert leader_groups([], {}) == {}
