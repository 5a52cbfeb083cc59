"""Order files: fabricated ones, damaged ones, and the real one against the tabular list of the same release."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.icd.order_file import OrderLine, read_order_file
from ccl_jax.icd.release import Release

DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'icd10cm' / '2021'


def order_line(order: int, bare: str, billable: bool, short_title: str, title: str = '') -> str:
    return f'{order:05} {bare:<7} {billable:d} {short_title:<60} {title or short_title}'


LINES = [
    order_line(1, 'I10', True, 'Essential (primary) hypertension'),
    order_line(2, 'W19', False, 'Unspecified fall'),
    order_line(3, 'W19XXXA', True, 'Unspecified fall, initial encounter'),
    order_line(4, 'W19XXXS', True, 'Unspecified fall, sequela'),
    order_line(5, 'C7A', False, 'Malignant  neuroendocrine tumors'),
    order_line(6, 'C7A0', False, 'Malignant carcinoid tumors'),
    order_line(7, 'C7A00', True, 'Carcinoid tumor of unsp site', 'Carcinoid tumor of unspecified site'),
]


@pytest.fixture
def order_file(tmp_path) -> Path:
    return tmp_path / 'order-1999.txt'


@pytest.mark.parametrize(
    ('encoding', 'end'), [('utf-8', '\n'), ('utf-8', '\r\n'), ('utf-8-sig', '\r\n'), ('utf-8', '\n\n')]
)
def test_lines(order_file, encoding, end):
    order_file.write_bytes((end.join(LINES) + end).encode(encoding))
    lines = list(read_order_file(order_file))
    assert len(lines) == 7
    assert lines[0] == (1, 'I10', True, 'Essential (primary) hypertension', 'Essential (primary) hypertension')
    assert lines[4] == OrderLine(5, 'C7A', False, 'Malignant neuroendocrine tumors', 'Malignant neuroendocrine tumors')
    assert lines[6].code == 'C7A.00'
    assert lines[6].short_title == 'Carcinoid tumor of unsp site'
    assert lines[6].title == 'Carcinoid tumor of unspecified site'


def test_release(order_file):
    order_file.write_text('\n'.join(LINES), encoding='utf-8')
    release = Release.from_order_file(order_file)
    assert release.name == 'ICD-10-CM (order-1999)'
    assert release.codes() == ('I10', 'W19', 'W19.XXXA', 'W19.XXXS', 'C7A', 'C7A.0', 'C7A.00')
    assert release.billable_codes() == ('I10', 'W19.XXXA', 'W19.XXXS', 'C7A.00')
    assert release.ancestors('C7A.00') == ('C7A.0', 'C7A')
    assert release.siblings('W19.XXXA') == ('W19.XXXS',)
    assert release.seventh_character('W19.XXXS') == ('S', 'sequela')
    assert release.seventh_character('C7A.00') is None
    assert (release.chapter('I10'), release.block('I10'), release.siblings('I10')) == ('', '', ())
    assert release.excludes1('I10') == release.inherited_notes('I10', 'excludes1') == ()
    assert release.terms('I10') == [('Essential (primary) hypertension', 'title')]
    assert release.excludes1_conflicts(['I10', 'W19']) == []


@pytest.mark.parametrize(
    ('number', 'line', 'message'),
    [
        (2, 'A00,Cholera', r'line 2 of .* is no line of an order file'),
        (2, LINES[1][:40], r'line 2 of .* is no line of an order file'),
        (2, LINES[1].replace('W19 ', '419 '), r'line 2 of .* is no line of an order file'),
        (2, LINES[1].replace('W19    ', 'W 19   '), r'line 2 of .* is no line of an order file'),
        (2, LINES[1].replace(' 0 ', ' 2 '), r'line 2 of .* is no line of an order file'),
        (4, LINES[2], r'lists W19\.XXXA twice'),
        (2, LINES[2], r'lists W19\.XXXA without its category before it'),
        (7, '', r'flags C7A\.0 as a header and lists no code below it'),
        (6, LINES[5].replace(' 0 ', ' 1 '), r'flags C7A\.0 as billable and lists codes below it'),
    ],
)
def test_damaged_files(order_file, number, line, message):
    order_file.write_text('\n'.join([*LINES[: number - 1], line, *LINES[number:]]), encoding='utf-8')
    with pytest.raises(UserError, match=rf'order-1999\.txt.*; give the order file|{message}') as error:
        Release.from_order_file(order_file)
    assert error.match(message)


def test_unusable_files(order_file):
    with pytest.raises(UserError, match=r'cannot read .*order-1999\.txt: No such file'):
        Release.from_order_file(order_file)
    order_file.write_bytes(b'')
    with pytest.raises(UserError, match='holds no codes'):
        Release.from_order_file(order_file)
    order_file.write_bytes(('\n'.join(LINES) + '\u00e9').encode('latin-1'))
    with pytest.raises(UserError, match=r'line 7 of .* is not UTF-8'):
        Release.from_order_file(order_file)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.sampled_from(LINES) | st.text(max_size=100), max_size=8).map(lambda ls: '\n'.join(ls).encode()),
    )
)
def test_any_bytes_are_a_release_or_a_user_error(order_file, content):
    order_file.write_bytes(content)
    try:
        release = Release.from_order_file(order_file)
    except UserError:
        return
    assert release.codes()


def test_fy2021_order_file_against_the_tabular_list():
    if not DATA.is_dir():
        pytest.skip(f'no ICD-10-CM 2021 release at {DATA}')
    path = DATA / 'icd10cm-order-Jan-2021.txt'
    lines = list(read_order_file(path))
    assert len(lines) == 95_358
    assert sum(line.billable for line in lines) == 72_621
    assert [line.order for line in lines] == list(range(1, 95_359))
    order, tabular = Release.from_order_file(path), Release.from_tabular(DATA / 'icd10cm_tabular_2021.xml')
    assert order.codes() == tabular.codes()
    assert order.billable_codes() == tabular.billable_codes()
    # The tabular list nests one code under another that it does not begin with.
    moved = [code for code in order.codes() if order.parent(code) != tabular.parent(code)]
    assert [(code, tabular.parent(code)) for code in moved] == [('H54.512A', 'H54.511')]
    for code in order.codes():
        assert order.seventh_character(code) == tabular.seventh_character(code)
