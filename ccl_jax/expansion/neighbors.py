"""Neighbours of a code in the tabular list, and the small difference of their titles."""

import functools
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from ccl_jax.expansion.title_difference import (
    Difference,
    Reading,
    Scale,
    difference,
    readings,
    seventh_character_difference,
)
from ccl_jax.icd.release import Release

_CATEGORY_LENGTH = 3


class Neighbor(NamedTuple):
    """A billable code, and what turns its title into that of the code whose neighbour it is."""

    code: str
    difference: Difference


class Neighborhood:
    """Answers for codes of a release; fast if codes of a category are asked for together."""

    def __init__(self, release: Release):
        self._release = release
        self._category = functools.lru_cache(maxsize=4)(lambda code: _Category(release, code))

    def near(self, code: str) -> list[Neighbor]:
        """Returns the codes of the category whose titles differ by one value of one scale, nearest first.

        Of codes with a 7th character either this differs, under the same
        parent, or the rest, with the same 7th character.
        """
        category = self._category(code[:_CATEGORY_LENGTH])
        stem, character, meaning = _split(self._release, code)
        neighbors = [
            Neighbor(other, seventh_character_difference(other_meaning, meaning))
            for other_character, (other, other_meaning) in category.endings.get(stem, {}).items()
            if character and other_character not in ('', character)
        ]
        for other_stem, step in category.near_stems(stem, self._release.title(stem)):
            other, other_meaning = category.endings[other_stem].get(character, ('', ''))
            if other and other_meaning == meaning:
                neighbors.append(Neighbor(other, step))
        return neighbors

    def around(self, code: str) -> Iterator[str]:
        """Yields the billable codes of the category, nearest first, then the other categories of its block."""
        category = self._category(code[:_CATEGORY_LENGTH])
        own = (other for endings in category.endings.values() for other, _ in endings.values())
        yield from sorted((other for other in own if other != code), key=lambda other: -_shared(code, other))
        yield from self._release.siblings(code[:_CATEGORY_LENGTH])


class _Category:
    """The billable codes of a category.

    Attributes:
        endings: stem -> 7th character ('' for none) -> (code, meaning), in the order of the list.
    """

    def __init__(self, release: Release, category: str):
        self.endings: dict[str, dict[str, tuple[str, str]]] = {}
        self._frames: dict[tuple[Scale, str], list[tuple[str, Reading]]] = defaultdict(list)
        self._near: dict[str, list[tuple[str, Difference]]] = {}
        for code in _billable_below(release, category):
            stem, character, meaning = _split(release, code)
            if stem not in self.endings:
                self.endings[stem] = {}
                for reading in readings(release.title(stem)):
                    self._frames[reading.scale, reading.frame].append((stem, reading))
            self.endings[stem][character] = (code, meaning)

    def near_stems(self, stem: str, title: str) -> list[tuple[str, Difference]]:
        if stem not in self._near:
            near = [
                (other, step)
                for reading in readings(title)
                for other, other_reading in self._frames.get((reading.scale, reading.frame), ())
                if other != stem and (step := difference(other_reading, reading)) is not None
            ]
            self._near[stem] = sorted(near, key=lambda step: -_shared(stem, step[0]))
        return self._near[stem]


def _billable_below(release: Release, code: str) -> Iterator[str]:
    children = release.children(code)
    if not children:
        yield code
    for child in children:
        yield from _billable_below(release, child)


def _split(release: Release, code: str) -> tuple[str, str, str]:
    """Returns (the code without its 7th character, that, its meaning), or (code, '', '')."""
    seventh = release.seventh_character(code)
    return (release.parent(code) or code, *seventh) if seventh else (code, '', '')


def _shared(code: str, other: str) -> int:
    """Returns how many leading characters two codes share."""
    return next((i for i, (a, b) in enumerate(zip(code, other, strict=False)) if a != b), min(len(code), len(other)))
