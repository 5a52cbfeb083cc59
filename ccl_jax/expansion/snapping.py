"""Where a text has nearly the words of a phrase: a quote with slips, or a term in another order of words."""

import bisect
import functools
import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

from ccl_jax.icd.folding import FoldedText, fold
from ccl_jax.icd.words import is_adjective, word_set

# A hyphen separates words, as folding has it.
_WORD = re.compile(r"[^\W_]+(?:['\u2019\u02bc\u00b4`][^\W_]+)*")
_BREAK = re.compile(r'[^\s\w-]')
_ABBREVIATION = re.compile(r'[A-Z]{1,5}')
# Words that may come or go within a phrase without changing what it says.
_FILLERS = word_set('a|an|at|her|his|in|of|on|the|their|to')
# Words that tie two statements together, or turn one into another. A term with one of them has an order of its own.
_LINKS = word_set(
    'after|and|as|before|but|by|due|during|for|from|if|is|no|nor|not|or|other|than|versus|vs|was|with|without'
)
# So many words between those of a phrase, of which so many are not fillers ('fracture of the left distal femur').
_MAX_BETWEEN, _MAX_OTHERS = 4, 1
# Words are spelled alike if they begin alike ('hyper-' and 'hypo-' do not) and one letter differs, or a plural's two.
_SAME_BEGINNING, _SHORTEST_MISSPELLED = 4, 5
_EXACT = 100.1
_LOST_AT_THE_ENDS = 15
# Phrases with fewer characters are found letter by letter only.
SHORTEST_FUZZY = 8
# Longer quotes are no short evidence, and an alignment's time grows with the square of their length.
_LONGEST_FUZZY = 400


class Word(NamedTuple):
    """A word of a text, `piece` counting the pieces that commas, brackets and sentence ends make."""

    folded: str
    printed: str
    begin: int
    end: int
    piece: int


class TextWords:
    """A text made ready for many searches.

    Attributes:
        folded: the text for exact searches.
        words: its words in order.
        line: the folded words with one space between two of them.
    """

    def __init__(self, text: str):
        self.folded = FoldedText(text)
        self.words: list[Word] = []
        self._places: dict[str, list[int]] = {}
        self._beginnings: dict[str, list[str]] = {}
        piece, last = 0, 0
        for match in _WORD.finditer(text):
            piece += _BREAK.search(text, last, match.start()) is not None
            last = match.end()
            folded = fold(match[0])
            if folded not in self._places:
                self._places[folded] = []
                self._beginnings.setdefault(folded[:_SAME_BEGINNING], []).append(folded)
            self._places[folded].append(len(self.words))
            self.words.append(Word(folded, match[0], match.start(), match.end(), piece))
        self.line = ' '.join(word.folded for word in self.words)
        self._starts = list(itertools.accumulate((len(word.folded) + 1 for word in self.words), initial=0))
        self._alike = functools.cache(self._words_alike)

    def places(self, word: str, floor: float) -> list[int]:
        """Returns the numbers of the words that are `word` or spelled like it (`alike`), in order."""
        return self._alike(word, floor)

    def word_at(self, place: int) -> int:
        """Returns the number of the word to which a character of `line` belongs, a space to the word before it."""
        return bisect.bisect_right(self._starts, place) - 1

    def _words_alike(self, word: str, floor: float) -> list[int]:
        candidates = self._beginnings.get(word[:_SAME_BEGINNING], ())
        return sorted(n for other in candidates if alike(word, other, floor) for n in self._places[other])


class Phrase:
    """A term to look for in any order of its words."""

    def __init__(self, text: str):
        words = [(fold(match[0]), match[0]) for match in _WORD.finditer(text)]
        self.folded = fold(text)
        self.content = [folded for folded, _ in words if folded not in _FILLERS]
        self.ordered = any(word in _LINKS for word in self.content)
        # 'MI' must stand in capitals; in a text of capitals alone it would be any word.
        self.abbreviations = {folded: printed for folded, printed in words if _ABBREVIATION.fullmatch(printed)}


def alike(one: str, other: str, floor: float) -> bool:
    """Whether two folded words are one word: in singular and plural, or with one letter different.

    Args:
        floor: how alike, of 100, words with a different letter must be (rapidfuzz ratio); above 100 they are never, and
            a plural is none.
    """
    if one == other:
        return True
    if min(len(one), len(other)) < _SHORTEST_MISSPELLED or one[:_SAME_BEGINNING] != other[:_SAME_BEGINNING]:
        return False
    if any(character.isdigit() for character in one + other):
        return False
    # Words of one length that differ at the end are a noun and its adjective ('eosinophilia', 'eosinophilic').
    one_letter = Levenshtein.distance(one, other, score_cutoff=1) <= 1 and one[:-1] != other[:-1]
    plural = one in (other + 's', other + 'es') or other in (one + 's', one + 'es')
    return floor <= 100 and (plural or (one_letter and fuzz.ratio(one, other) >= floor))


def find_phrase(text: TextWords, phrase: Phrase, floor: float) -> list[tuple[int, int]]:
    """Returns (begin, end) of the places with the content words of a phrase, close together, in order of the text.

    The words may stand in another order unless the phrase has a word like 'with', with fillers ('of', 'the') and one
    other word between them, but not across commas, brackets or sentences. Each may be misspelled by a letter
    (`alike`) where the phrase has at least `SHORTEST_FUZZY` characters.
    """
    if not phrase.content or all(word in _LINKS for word in phrase.content):
        return []
    if len(phrase.folded) < SHORTEST_FUZZY:
        floor = _EXACT
    places = [_places(text, word, phrase, floor) for word in phrase.content]
    rarest = min(range(len(places)), key=lambda number: len(places[number]))
    # As it stands first: where words are repeated, the nearest ones need not be those of the phrase.
    found = [] if phrase.abbreviations else text.folded.find(phrase.folded)
    for anchor in places[rarest]:
        chosen = _around(text, anchor, places, rarest)
        if chosen is None or not _is_one_phrase(text, chosen, phrase):
            continue
        begin, end = text.words[min(chosen)].begin, text.words[max(chosen)].end
        if all(end <= other_begin or other_end <= begin for other_begin, other_end in found):
            found.append((begin, end))
    return sorted(found)


def snap(text: TextWords, quote: str, floor: float) -> tuple[int, int] | None:
    """Returns (begin, end) of the words nearest to a quote, None if they are not near enough.

    Near enough is a rapidfuzz ratio of at least `floor` between the folded words, of which none is another word: each
    of the quote's has one that is spelled alike, fillers apart, and linking words and numbers are the same.
    """
    wanted = fold(quote)
    if not SHORTEST_FUZZY <= len(wanted) <= min(len(text.line), _LONGEST_FUZZY):
        return None
    # An alignment may end within a word, which lowers its score.
    alignment = fuzz.partial_ratio_alignment(wanted, text.line, score_cutoff=max(0.0, floor - _LOST_AT_THE_ENDS))
    if alignment is None or alignment.dest_end <= alignment.dest_start:
        return None
    first, last = text.word_at(alignment.dest_start), text.word_at(alignment.dest_end - 1)
    # A word that the alignment only touches may be none of the quote's.
    choices = [(first + i, last - j) for i in (0, 1) for j in (0, 1) if first + i <= last - j]
    scored = []
    for begin, end in choices:
        found = [word.folded for word in text.words[begin : end + 1]]
        if _same_words(wanted.split(), found):
            scored.append((fuzz.ratio(wanted, ' '.join(found)), begin, end))
    score, begin, end = max(scored, default=(-1.0, 0, 0), key=lambda choice: choice[0])
    return (text.words[begin].begin, text.words[end].end) if score >= floor else None


def _same_words(wanted: Sequence[str], found: Sequence[str]) -> bool:
    exact = {word for word in wanted if word in _LINKS or any(character.isdigit() for character in word)}
    if exact != {word for word in found if word in _LINKS or any(character.isdigit() for character in word)}:
        return False
    return all(word in _FILLERS or any(alike(word, other, 0.0) for other in found) for word in wanted)


def _places(text: TextWords, word: str, phrase: Phrase, floor: float) -> list[int]:
    places = text.places(word, floor)
    printed = phrase.abbreviations.get(word)
    return places if printed is None else [n for n in places if text.words[n].printed == printed]


def _around(text: TextWords, anchor: int, places: Sequence[Sequence[int]], rarest: int) -> list[int] | None:
    """Returns for each content word the nearest place to `anchor` in its piece that no other word has taken."""
    chosen: dict[int, int] = {rarest: anchor}
    reach = len(places) + _MAX_BETWEEN
    for number, candidates in enumerate(places):
        if number == rarest:
            continue
        near = [n for n in candidates if abs(n - anchor) <= reach and n not in chosen.values()]
        near = [n for n in near if text.words[n].piece == text.words[anchor].piece]
        if not near:
            return None
        chosen[number] = min(near, key=lambda n: abs(n - anchor))
    return [chosen[number] for number in range(len(places))]


def _is_one_phrase(text: TextWords, chosen: Sequence[int], phrase: Phrase) -> bool:
    first, last = min(chosen), max(chosen)
    # 'Stenosis of the spinal' goes on: an adjective that ends words in another order has lost its noun.
    if list(chosen) != sorted(chosen) and (phrase.ordered or is_adjective(text.words[last].folded)):
        return False
    taken = set(chosen)
    between = [text.words[n].folded for n in range(first, last + 1) if n not in taken]
    others = [word for word in between if word not in _FILLERS]
    return len(between) <= _MAX_BETWEEN and len(others) <= _MAX_OTHERS and not any(word in _LINKS for word in others)
