"""An untrained model under constraints, and that the check of its answers can fail."""

import dataclasses
import re

import pytest

from ccl_jax.data.tokenization import encode_target, train_tokenizer
from ccl_jax.decoding.generate import Generation
from ccl_jax.icd.release import Release
from ccl_jax.records import Document
from ccl_jax.studies import bench_constraints as study
from ccl_jax.studies.known_models import SMALL_LLAMA

NOTE = Document('d', 'Known gout.\nNow chest\npain, and HTN.')


@pytest.mark.slow
def test_answers_of_an_untrained_model_keep_every_promise():
    tiny = dataclasses.replace(SMALL_LLAMA, hidden_size=64, intermediate_size=96, num_hidden_layers=2)
    text = study.bench_constraints(documents=12, repeats=1, rows=6, new_tokens=48, architecture=tiny)
    for output_format in ('blocks', 'pairs'):
        found = text[text.index(f'{output_format}:') :]
        answers, codes, quotes = map(int, re.search(r'(\d+) answers, (\d+) codes, (\d+) quotes', found).groups())
        assert answers == 12
        assert codes > 0
        assert quotes > 0 or output_format == 'blocks'
        assert 'codes not in the release: 0\n' in found
        assert 'not verbatim at their offsets: 0 (' in found
        assert 'malformed lines: 0; unfinished answers: 0\n' in found
        assert re.search(r'constraints cost -?[\d.]+% of decoding time', found)


def test_the_check_sees_what_is_wrong(tmp_path):
    answers = {
        '## ICD Codes\n- chest pain -> R07.9\n- gout -> M10.9': {'codes': 2, 'quotes': 2},
        '## ICD Codes\n- gout -> Z99.999\nnonsense': {'codes': 1, 'quotes': 1, 'unknown_codes': 1, 'malformed': 1},
        '## ICD Codes\n- goutt -> M10.9': {'codes': 1, 'quotes': 1, 'not_verbatim': 2},
        # One word more than codes, so that no quote has a code.
        '## Evidence\n- gout\n- HTN\n- fever\n\n## ICD Codes\n- I10': {
            'codes': 1,
            'quotes': 3,
            'unplaced_quotes': 3,
            'not_verbatim': 1,
        },
    }
    tokenizer = train_tokenizer(list(answers), 400, tmp_path / 'tokenizer')
    release = Release.embedded()
    for text, expected in answers.items():
        tokens = tuple(encode_target(tokenizer, text)[:-1])
        generations = [Generation(tokens, (0.0,) * len(tokens), True)]
        found = study.check_answers(tokenizer, release, [NOTE], generations)
        assert {name: count for name, count in vars(found).items() if count and name != 'answers'} == expected
    cut = study.check_answers(tokenizer, release, [NOTE], [Generation((), (), False)])
    assert cut.unfinished == 1
