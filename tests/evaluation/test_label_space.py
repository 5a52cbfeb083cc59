"""Files of codes, and which codes are valid."""

import pytest

from ccl_jax.errors import UserError
from ccl_jax.evaluation.label_space import ValidCodes, read_label_space, without_form
from ccl_jax.icd.codes import CPT, ICD9CM, ICD10CM, ICD10PCS
from ccl_jax.icd.release import Release


def test_a_file_of_codes(tmp_path):
    path = tmp_path / 'codes.tsv'
    # As CodiEsp's lists are: lower case, with a title in the second column.
    path.write_text('\ufeffi10\tHypertension\r\nE119\n\nICD-9-CM\t25000\nI10\n', encoding='utf-8')
    assert read_label_space(path) == {(ICD10CM, 'I10'), (ICD10CM, 'E11.9'), (ICD9CM, '250.00')}


def test_a_code_without_system_is_that_of_the_systems_that_use_it(tmp_path):
    path = tmp_path / 'codes.txt'
    path.write_text('0dtj4zz\nI10\n99213\n')
    used = {(ICD10PCS, '0DTJ4ZZ'), (CPT, '99213'), (ICD10CM, 'R52')}
    assert read_label_space(path, used) == {(ICD10PCS, '0DTJ4ZZ'), (ICD10CM, 'I10'), (CPT, '99213')}


def test_bad_files(tmp_path):
    empty, binary = tmp_path / 'empty', tmp_path / 'binary'
    empty.write_text('\n \n')
    binary.write_bytes(b'I10\n\xff\xfe\n')
    for path, words in ((tmp_path / 'absent', 'cannot read'), (empty, 'holds no code'), (binary, 'UTF-8')):
        with pytest.raises(UserError, match=words):
            read_label_space(path)


def test_valid_codes():
    valid = ValidCodes(Release.embedded(), frozenset({(ICD10CM, 'A00.Z')}))
    assert (ICD10CM, 'I10') in valid
    # Retired or misspelt, but annotated.
    assert (ICD10CM, 'A00.Z') in valid
    assert (ICD10CM, 'A00.Y') not in valid
    # No list of another system is at hand.
    assert (ICD9CM, '250.00') in valid
    assert (ICD9CM, 'I10') not in valid
    assert without_form([(ICD10CM, 'I10'), (ICD9CM, 'I10'), (ICD10CM, 'zzz')]) == 2
