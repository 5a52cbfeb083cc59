"""The page stands alone: its images are inside, nothing is fetched, and names are escaped."""

import base64
import struct
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ccl_jax.errors import UserError
from ccl_jax.expansion.coverage_page import write_coverage_page


def _row(codes: int, spans: dict[str, int], **key: str) -> dict[str, Any]:
    return {**key, 'codes': codes, 'held_out': 0, 'with_span': codes, 'mean_spans': 2.0, 'spans': spans}


COVERED = {
    'release': 'ICD-10-CM <script>alert(1)</script>',
    'spans': {'gold': 40, 'synthetic': 4},
    'codes': {'gold': 20, 'synthetic': 3},
    'billable': {'codes': 20, 'held_out': 0, 'with_span': 20, 'mean_spans': 2.2},
    'without_span': [],
    'held_out_with_span': 0,
    'round_trip': {},
    'chapters': [
        _row(19, {'gold': 38, 'synthetic': 4}, chapter='A $x_1$ & "b" <i> (A00-B99)'),
        _row(0, {}, chapter='C'),
    ],
    'frequency': [_row(20, {'gold': 40}, documents='0'), _row(0, {}, documents='>20')],
    'filters': {},
}


class _Elements(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def _size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b'\x89PNG\r\n\x1a\n'
    return struct.unpack('>II', png[16:24])


def test_page_holds_its_plots_and_loads_nothing(tmp_path):
    path = write_coverage_page(COVERED, tmp_path / 'new' / 'folder')
    page = path.read_text(encoding='utf-8')
    elements = _Elements(page).found
    images = [base64.b64decode(a['src'].removeprefix('data:image/png;base64,')) for tag, a in elements if tag == 'img']
    written = [(path.parent / f'coverage_by_{name}.png').read_bytes() for name in ('chapter', 'frequency')]
    assert images == written
    assert all(min(_size(image)) > 300 for image in images)
    assert {tag for tag, _ in elements}.isdisjoint({'script', 'link', 'iframe', 'i'})
    assert all(value.startswith('data:') for _, a in elements for name, value in a.items() if name in ('src', 'href'))
    assert "default-src 'none'" in next(a['content'] for _, a in elements if 'http-equiv' in a)
    assert 'http:' not in page
    assert 'https:' not in page
    assert '20 of 20 billable codes' in page


def test_same_content_makes_the_same_files(tmp_path):
    pages = [write_coverage_page(COVERED, tmp_path / name) for name in 'ab']
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_no_matplotlib_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(UserError, match='needs matplotlib; run'):
        write_coverage_page(COVERED, tmp_path / 'out')
    assert not Path(tmp_path / 'out').exists()
