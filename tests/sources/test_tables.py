"""Tables against Python's own csv writer, and damaged files made by hand."""

import csv
import gzip
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.sources.report import Rejection, SourceReport
from ccl_jax.sources.tables import LONGEST_FIELD, find_table, read_table

# Any text, rich in what quoting is about.
FIELDS = st.text(
    st.one_of(st.sampled_from(['"', ',', '\n', '\r', ' ', 'a']), st.characters(codec='utf-8', exclude_characters='\0'))
)


def _write(path, content, *, gzipped=False):
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if gzipped else content)
    return path


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(FIELDS, FIELDS, FIELDS), max_size=8),
    line_end=st.sampled_from(['\n', '\r\n']),
    mark=st.booleans(),
    gzipped=st.booleans(),
)
@example(rows=[('a\r\nb', '"\n,"', '\r')], line_end='\n', mark=True, gzipped=True)
def test_every_field_comes_back_as_written(tmp_path_factory, rows, line_end, mark, gzipped):
    out = io.StringIO(newline='')
    writer = csv.writer(out, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerows([('A', ' text ', 'c'), *rows])
    content = ('\ufeff' if mark else '') + out.getvalue()
    # The name says nothing about the compression.
    path = _write(tmp_path_factory.mktemp('tables') / 'table.csv', content, gzipped=gzipped)
    read = list(read_table(path, ('TEXT', 'a')))
    assert read == [(i, {'TEXT': text, 'a': a}) for i, (a, text, _) in enumerate(rows, start=1)]


def test_optional_columns_are_returned_where_the_file_has_them(tmp_path):
    path = _write(tmp_path / 'a.csv', 'id,Flag\n1,x\n\n2,\n')
    assert list(read_table(path, ('ID',), optional=('flag', 'other'))) == [
        (1, {'ID': '1', 'flag': 'x'}),
        (2, {'ID': '2', 'flag': ''}),
    ]


def test_bad_rows_are_refused_with_their_place(tmp_path):
    rows = [b'a,text', b'1,"two\nlines"', b'2', b'3,x,y', b'4,a\0b', b'5,caf\xe9', b'6,caf\xc3\xa9']
    path = _write(tmp_path / 't.csv', b'\n'.join(rows))
    report = SourceReport('test')
    assert list(read_table(path, ('a', 'text'), report=report)) == [
        (1, {'a': '1', 'text': 'two\nlines'}),
        (6, {'a': '6', 'text': 'café'}),
    ]
    fields = 'row has not as many fields as the header'
    assert report.rejections == [
        Rejection('t.csv row 2', fields, 'line 4'),
        Rejection('t.csv row 3', fields, 'line 5'),
        Rejection('t.csv row 4', 'row holds a NUL byte', 'line 6'),
        Rejection('t.csv row 5', 'row is not UTF-8', 'line 7'),
    ]
    with pytest.raises(UserError, match=r't\.csv row 2 \(line 4\)'):
        list(read_table(path, ('a', 'text')))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'has no column a, text among the 0 '),
        (b'private words\nand more\n', 'has no column a, text among the 1 '),
        ('a,text\n1,x\n'.encode('utf-16'), 'has no column a, text'),
        (b'a,Text,TEXT\n', 'several columns named text'),
        (b'a,text\n1,ok\n2,"private', 'begins at line 3.*not closed'),
        (b'a,text\n1,"private "words" here"\n', 'begins at line 2.*not doubled'),
        (b'\x1f\x8b' + b'private' * 9, 'not a whole gzip file'),
        (gzip.compress(b'a,text\n' + b'1,private\n' * 99, mtime=0)[:-12], 'not a whole gzip file'),
        (gzip.compress(b'a,text\n1,x\n', mtime=0) + b'private', 'not a whole gzip file'),
    ],
)
def test_an_unusable_file_is_one_sentence_without_its_content(tmp_path, content, message):
    path = _write(tmp_path / 't.csv', content)
    with pytest.raises(UserError, match=message) as caught:
        list(read_table(path, ('a', 'text'), report=SourceReport('test')))
    assert 'private' not in str(caught.value)


def test_flipped_bytes_of_a_gzip_file_do_not_pass(tmp_path):
    content = gzip.compress(b'a,text\n' + b''.join(b'%d,word\n' % (i * i) for i in range(300)), mtime=0)
    # Behind the ten bytes of the header, whose time and system say nothing about the content.
    for place in range(10, len(content), 7):
        flipped = bytearray(content)
        flipped[place] ^= 0xFF
        with pytest.raises(UserError):
            list(read_table(_write(tmp_path / 't.csv', bytes(flipped)), ('a', 'text'), report=SourceReport('test')))


def test_an_unclosed_quote_does_not_swallow_the_file(tmp_path):
    # Cut off far behind the limit: whoever reads on to there complains about that instead.
    content = gzip.compress(b'a,text\n1,"word\n' + b'2,word\n' * (LONGEST_FIELD // 3), compresslevel=1)[:-12]
    with pytest.raises(UserError, match='begins at line 2: a quote'):
        list(read_table(_write(tmp_path / 't.csv', content), ('a', 'text')))


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match='No such file'):
        list(read_table(tmp_path / 'none.csv', ('a',)))
    with pytest.raises(UserError, match='cannot read'):
        list(read_table(tmp_path, ('a',)))


def test_find_table(tmp_path):
    _write(tmp_path / 'NOTES.CSV.gz', '')
    assert find_table(tmp_path, 'notes').name == 'NOTES.CSV.gz'
    _write(tmp_path / 'Notes.csv', '')
    assert find_table(tmp_path, 'notes').name == 'Notes.csv'
    with pytest.raises(UserError, match=r'neither codes\.csv nor codes\.csv\.gz'):
        find_table(tmp_path, 'codes')
    with pytest.raises(UserError, match='cannot read the folder'):
        find_table(tmp_path / 'none', 'codes')
