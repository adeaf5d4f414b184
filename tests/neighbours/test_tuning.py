"""How an index is to be searched: the cheapest way that is good enough, found with few tries."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from indexer.neighbours.index import NeighbourIndex
from indexer.neighbours.tuning import DEPTHS, Exam, Recall, tune

Shares = Callable[[int, int], float]


class Made:
    """An index of a million vectors whose recall is a function of effort and depth, and the exam that sees it."""

    error = 0.0

    def __init__(self, recall: Shares, lists: int = 4096) -> None:
        self.recall_of = recall
        self.stamp = SimpleNamespace(covered=1_000_000)
        self.most_effort = lists
        self.queries, self.k = np.empty((0, 4), np.float32), 10
        self.tried: list[tuple[int, int]] = []

    def nominate(self, queries: object, k: int, effort: int, depth: int) -> tuple[int, int]:
        assert k == 11
        self.tried.append((effort, depth))
        return effort, depth

    def recall(self, effort: int, depth: int) -> Recall:
        share = self.recall_of(effort, depth)
        return Recall(share, share - self.error)

    def tune(self, target: float) -> tuple[int, int, float]:
        found = tune(cast(NeighbourIndex, self), cast(Exam, self), target)
        return found.effort, found.depth, found.recall.share

    def cost(self, pair: tuple[int, int]) -> float:
        return pair[0] * 1_000_000 / self.most_effort + 64 * pair[1]


def lists_and_codes(ceiling: float, blur: float) -> Shares:
    """More lists and more depth find more, up to a ceiling."""
    return lambda effort, depth: ceiling * (1 - 0.7 / effort) * (1 - blur / depth)


@pytest.mark.parametrize("blur", [0.0, 0.1, 1.0, 3.0, 15.0])
@pytest.mark.parametrize("target", [0.5, 0.9, 0.95, 0.99])
def test_no_cheaper_way_is_good_enough(blur: float, target: float) -> None:
    recall = lists_and_codes(0.999, blur)
    made = Made(recall)
    halves = {*(1 << bit for bit in range(13)), *(3 << bit for bit in range(11))}
    eighths = {part << bit for part in (5, 7) for bit in range(10)}
    every = [(effort, depth) for effort in halves | eighths for depth in DEPTHS]
    enough = [pair for pair in every if recall(*pair) >= target]
    if not enough:
        assert made.tune(target)[2] == max(recall(*pair) for pair in made.tried)
        return
    effort, depth, reached = made.tune(target)
    assert (effort, depth) in enough
    assert reached == recall(effort, depth)
    assert made.cost((effort, depth)) <= min(made.cost(pair) for pair in enough if pair[0] in halves)
    assert effort in halves or recall(effort - (effort & -effort), DEPTHS[-1]) < target
    assert len(set(made.tried)) == len(made.tried) < 24


@pytest.mark.parametrize(("enough", "effort"), [(17, 20), (20, 20), (21, 24), (25, 28), (29, 32), (3, 3), (5, 5)])
def test_an_effort_between_two_is_found(enough: int, effort: int) -> None:
    made = Made(lambda effort, depth: 1.0 if effort >= enough else 0.5)
    assert made.tune(0.99) == (effort, DEPTHS[0], 1.0)


def test_what_cannot_be_reached_is_given_up_before_everything_is_read() -> None:
    made = Made(lists_and_codes(0.9, 0.0), lists=32_768)
    effort, depth, reached = made.tune(0.99)
    assert (effort, depth) == (2048, DEPTHS[-1])
    assert reached == pytest.approx(0.9, abs=1e-3)
    assert max(made.tried) == (2048, DEPTHS[-1])


def test_few_lists_are_all_tried() -> None:
    """What comes together late is no sign of codes that are too coarse."""
    made = Made(lambda effort, depth: 1.0 if effort == 1024 else 0.5, lists=1024)
    assert made.tune(0.99) == (1024, DEPTHS[0], 1.0)


@pytest.mark.parametrize("lists", [3, 100, 1000])
def test_all_lists_are_tried_whatever_their_number(lists: int) -> None:
    made = Made(lambda effort, depth: 1.0 if effort == lists else 0.5, lists)
    assert made.tune(0.99) == (lists, DEPTHS[0], 1.0)


def test_an_index_that_finds_nothing_still_has_a_way_to_be_searched() -> None:
    made: Any = Made(lambda effort, depth: 0.0, lists=8)
    assert made.tune(0.99) == (1, DEPTHS[-1], 0.0)


def test_the_cheapest_that_passes_by_luck_is_passed_over() -> None:
    made = Made(lambda effort, depth: 0.991 if effort < 64 else 1.0)
    made.error = 0.002
    assert made.tune(0.99) == (64, DEPTHS[0], 1.0)
    made.error = 0.02  # where none surely passes, it is taken
    assert made.tune(0.99) == (1, DEPTHS[0], 0.991)
    assert made.tune(0.999) == (64, DEPTHS[0], 1.0)
