"""`allowed()` against a language that is written out line by line."""

import functools
import itertools
import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.decoding.constraints import AnswerConstraints
from tests.decoding.tokenizers_for_tests import byte_level, sentence_piece

CODES = ('I10', 'I10.1', 'E11.9', 'QA0')
LONGEST_QUOTE = 9
PIECES = ['a', 'ab', 'b', '_', '1', '-', '->', '>', '.', '...', 'é', 'e\u0301', '漢', '#', 'I10', '\ud800']
SPACES = [' ', ' ', ' ', '', '\n', '\r\n', '\t', '\u00a0', '\u2028', '  ']


@st.composite
def weird_texts(draw, longest=6):
    pieces = draw(st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(SPACES)), max_size=longest))
    return ''.join(itertools.chain.from_iterable(pieces))


def word(character):
    return character.isalnum() or character == '_' or unicodedata.category(character)[0] == 'M'


def quotes_of(text):
    """All quotes of a document, by trying every piece and every chain of pieces."""
    folded = ' '.join(text.split())

    def border(i):
        return not (0 < i < len(folded) and word(folded[i - 1]) and word(folded[i]))

    pieces = [
        (begin, end)
        for begin in range(len(folded))
        for end in range(begin + 1, len(folded) + 1)
        if border(begin)
        and border(end)
        and not folded[begin].isspace()
        and not folded[end - 1].isspace()
        and '\ud800' not in folded[begin:end]
    ]
    found = set()

    def extend(quote, position):
        for begin, end in pieces:
            longer = quote + folded[begin:end]
            if begin >= position and len(longer.encode()) <= LONGEST_QUOTE:
                found.add(longer)
                if folded[:end][-4:] != ' ...':
                    extend(longer + ' ... ', end)

    extend('', 0)
    return found


class Language:
    """Answers as chains of lines: state -> [(lines, next state)]."""

    def __init__(self, text, shape):
        quotes = quotes_of(text)
        bare = {f'- {code}' for code in CODES}
        pairs = {f'- {quote} -> {code}' for quote in quotes for code in CODES} | {f'- -> {code}' for code in CODES}
        self.accepting = {'codes'}
        if shape == 'pairs':
            self.lines = {'start': [({'## ICD Codes'}, 'codes')], 'codes': [(pairs | bare, 'codes')]}
        elif shape == 'blocks':
            self.lines = {
                'start': [({'## Evidence'}, 'quotes'), ({'## ICD Codes'}, 'codes')],
                'quotes': [({f'- {quote}' for quote in quotes}, 'quotes'), ({''}, 'middle')],
                'middle': [({'## ICD Codes'}, 'codes')],
                'codes': [(bare, 'codes')],
            }
        else:
            self.lines = {'start': [({'## ICD Code'}, 'one')], 'one': [(bare, 'end')], 'end': []}
            self.accepting = {'end'}
        self.finish = functools.cache(self._finish)
        self.after = functools.cache(self._after)
        self.partial = {state: self._partial(state) for state in self.lines}

    def _finish(self, state):
        if state in self.accepting:
            return 0
        if state == 'quotes':  # a further quote is never the shorter way
            return 1 + self.finish('middle')
        return min(1 + len(line.encode()) + self.finish(after) for lines, after in self.lines[state] for line in lines)

    def _partial(self, state):
        """Beginning of a line -> the fewest bytes from there to the end of an answer."""
        ways = {}
        for lines, after in self.lines[state]:
            for line in lines:
                encoded = line.encode()
                for i in range(len(encoded) + 1):
                    way = len(encoded) - i + self.finish(after)
                    ways[encoded[:i]] = min(way, ways.get(encoded[:i], way))
        return ways

    def _after(self, state, line):
        return {after for following, after in self.lines[state] if line in {known.encode() for known in following}}

    def way_to_end(self, written):
        """Returns the fewest bytes that make an answer of `written`, or None."""
        *lines, last = written.split(b'\n')
        states = {'start'}
        for line in lines:
            states = {after for state in states for after in self.after(state, line)}
        ways = [self.partial[state][last] for state in states if last in self.partial[state]]
        return min(ways, default=None)


SAMPLE = ['## ICD Codes\n- ab -> I10\n- a ... b -> E11.9\n- -> I10.1', 'a ab b - -> . ... a ... b é漢 I10 # >'] * 3
SAMPLE += ['## Evidence\n- ab\n- a ... b\n\n## ICD Codes\n- I10\n- E11.9', '## ICD Code\n- E11.9']
TOKENIZERS = {'byte_level': byte_level(SAMPLE, 360), 'sentence_piece': sentence_piece(SAMPLE, 120)}


@functools.cache
def constraints(kind, shape, max_new_tokens):
    tokenizer = TOKENIZERS[kind]
    return AnswerConstraints(
        tokenizer,
        end_id=tokenizer.eos_token_id,
        output_format='blocks' if shape == 'blocks' else 'pairs',
        codes=CODES,
        evidence=True,
        format=True,
        max_new_tokens=max_new_tokens,
        longest_quote=LONGEST_QUOTE,
    )


@pytest.mark.parametrize('kind', TOKENIZERS)
@pytest.mark.parametrize('shape', ['pairs', 'blocks', 'span'])
@given(text=weird_texts(), seed=st.integers(0, 1 << 20), max_new_tokens=st.sampled_from([32, 40, 60]))
@settings(max_examples=25, deadline=None)
def test_exactly_the_tokens_that_can_still_become_an_answer(kind, shape, text, seed, max_new_tokens):
    shared = constraints(kind, shape, max_new_tokens)
    constraint = shared.of_span() if shape == 'span' else shared.of_document(text)
    language = Language(text, shape)
    choose = random.Random(seed)
    written, left = b'', max_new_tokens
    while not constraint.ended:
        # SentencePiece writes a space before an answer; `written` is without it.
        leading = shared.vocabulary.writes_leading_space and left == max_new_tokens
        wanted = set()
        for token, token_bytes in enumerate(shared.vocabulary.token_bytes):
            longer = {written + token_bytes} if token_bytes else set()
            if leading and token_bytes[:1] == b' ':
                longer.add(token_bytes[1:])
            ways = [way for way in map(language.way_to_end, longer) if way is not None]
            if ways and min(ways) + 1 <= left - 1:
                wanted.add(token)
        if language.way_to_end(written) == 0:
            wanted.add(shared.end_id)
        allowed = constraint.allowed()
        assert allowed.tolist() == sorted(wanted)
        # The end is one of many: let it come seldom, so that answers grow.
        others = [token for token in allowed.tolist() if token != shared.end_id]
        token = choose.choice(others) if others and choose.random() < 0.95 else choose.choice(allowed.tolist())
        constraint.advance(token)
        left -= 1
        if token != shared.end_id:
            written += shared.vocabulary.token_bytes[token]
            if leading:
                written = written.removeprefix(b' ')
    assert left >= 0
