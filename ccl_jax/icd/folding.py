"""Texts with the differences removed that do not matter when words are compared.

A folded text holds the words of the original in lower case without accents,
one space between two of them. Punctuation separates words, but an apostrophe
does not: "Crohn's", 'Crohn’s' and 'CROHNS' are all 'crohns'.
"""

import functools
import unicodedata

_APOSTROPHES = frozenset("'\u2019\u02bc\u00b4`")


class FoldedText:
    """A folded text that knows where its characters stood in the original.

    Attributes:
        original: the text as given.
        folded: its folded form with one space before the first and after the last word, so that a whole word or
            phrase is found as ' phrase '.
    """

    def __init__(self, original: str):
        self.original = original
        characters = [' ']
        begins, ends = [0], [0]
        for offset, character in enumerate(original):
            pieces = _fold_character(character)
            if not pieces and characters[-1] != ' ':
                # A mark that was dropped belongs to the letter before it.
                ends[-1] = offset + 1
            for piece in pieces:
                if piece != ' ' or characters[-1] != ' ':
                    characters.append(piece)
                    begins.append(offset)
                    ends.append(offset + 1)
        if characters[-1] != ' ':
            characters.append(' ')
            begins.append(len(original))
            ends.append(len(original))
        self.folded = ''.join(characters)
        self._begins, self._ends = begins, ends

    def find(self, phrase: str) -> list[tuple[int, int]]:
        """Returns where a folded phrase stands as whole words: (begin, end) in the original, end exclusive, in order.

        Occurrences that overlap an earlier one of the same phrase are not given.
        """
        places = []
        position = self.folded.find(f' {phrase} ') if phrase else -1
        while position >= 0:
            last = position + len(phrase)
            places.append((self._begins[position + 1], self._ends[last]))
            # The space after a phrase may be the one before its next occurrence.
            position = self.folded.find(f' {phrase} ', last + 1)
        return places


def fold(text: str) -> str:
    """Returns the folded form of a text, '' if it holds no letter and no digit."""
    folded = text.translate(_ASCII) if text.isascii() else ''.join(map(_fold_character, text))
    return ' '.join(folded.split())


@functools.lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    """Returns what a character becomes: letters and digits, a space for a separator, '' for what is dropped."""
    if character in _APOSTROPHES:
        return ''
    decomposed = unicodedata.normalize('NFKD', character.casefold())
    kept = (c for c in decomposed if not unicodedata.combining(c))
    return ''.join(c if c.isalnum() else ' ' for c in kept)


# The same for all ASCII characters at once, which makes folding a release ten times faster.
_ASCII = {code: _fold_character(chr(code)) for code in range(128)}
