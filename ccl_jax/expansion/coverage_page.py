"""The page of the coverage: two plots, and the numbers behind them. One HTML file that loads nothing."""

import base64
import hashlib
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_jax.errors import UserError
from ccl_jax.expansion.coverage import chapter_label, format_coverage
from ccl_jax.records import TIERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart in print and by readers who are colour-blind (palette of Okabe and Ito, 2008).
_COLORS = {'gold': '#e69f00', 'document': '#0072b2', 'silver': '#999999', 'synthetic': '#009e73'}
_STYLE = (
    'body{font-family:system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222;background:#fff}'
    'img{max-width:100%;height:auto}pre{overflow-x:auto;font-size:.8rem}'
)


def write_coverage_page(covered: Mapping[str, Any], directory: str | Path) -> Path:
    """Writes coverage_by_chapter.png, coverage_by_frequency.png and coverage.html, which holds both; returns its path.

    Args:
        covered: as `coverage` returns it.

    Raises:
        UserError: matplotlib is not installed.
    """
    directory = Path(directory)
    plots = {
        'coverage_by_chapter.png': (_plot(10, 9, lambda axes: _by_chapter(axes, covered)), 'Spans per code by chapter'),
        'coverage_by_frequency.png': (
            _plot(10, 4.5, lambda axes: _by_frequency(axes, covered)),
            'Spans per code by the number of documents of the corpus that carry the code',
        ),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, (image, _) in plots.items():
        (directory / name).write_bytes(image)
    path = directory / 'coverage.html'
    path.write_text(_page(covered, list(plots.values())), encoding='utf-8')
    return path


def _plot(width: float, height: float, draw: Callable[['Axes'], None]) -> bytes:
    """Returns a PNG of so many inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError('the coverage page needs matplotlib; run "pip install matplotlib"') from None
    # Not pyplot, which keeps figures in a global and may want a display.
    figure = Figure(figsize=(width, height), layout='constrained')
    draw(figure.add_subplot())
    image = io.BytesIO()
    figure.savefig(image, format='png', dpi=110, metadata={'Software': None})
    return image.getvalue()


def _by_chapter(axes: 'Axes', covered: Mapping[str, Any]) -> None:
    rows = covered['chapters']
    labels = [chapter_label(row['chapter']) for row in rows]
    places = list(range(len(rows)))
    left = [0.0] * len(rows)
    for tier in _tiers(covered):
        widths = [_per_code(row, tier) for row in rows]
        axes.barh(places, widths, left=left, color=_COLORS[tier], label=tier)
        left = [end + width for end, width in zip(left, widths, strict=True)]
    for place, (row, end) in enumerate(zip(rows, left, strict=True)):
        axes.annotate(
            _coverage_label(row), (end, place), xytext=(4, 0), textcoords='offset points', va='center', size=8
        )
    axes.set_yticks(places, labels, size=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel('spans per billable code that is not held out (mean)')
    axes.set_title('Spans by chapter and tier; beside the bars, the share of these codes that have a span')
    _legend(axes)


def _by_frequency(axes: 'Axes', covered: Mapping[str, Any]) -> None:
    rows = covered['frequency']
    places = list(range(len(rows)))
    bottom = [0.0] * len(rows)
    for tier in _tiers(covered):
        heights = [_per_code(row, tier) for row in rows]
        axes.bar(places, heights, bottom=bottom, color=_COLORS[tier], label=tier)
        bottom = [end + height for end, height in zip(bottom, heights, strict=True)]
    for place, (row, end) in enumerate(zip(rows, bottom, strict=True)):
        axes.annotate(
            _coverage_label(row), (place, end), xytext=(0, 3), textcoords='offset points', ha='center', size=8
        )
    axes.set_xticks(places, [f'{row["documents"]}\n{row["codes"] - row["held_out"]:,} codes' for row in rows])
    axes.margins(y=0.12)
    axes.set_xlabel('documents of the corpus that carry the code')
    axes.set_ylabel('spans per code (mean)')
    axes.set_title('Spans against frequency; above the bars, the share of the codes that have a span')
    _legend(axes)


def _legend(axes: 'Axes') -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _tiers(covered: Mapping[str, Any]) -> list[str]:
    return [tier for tier in TIERS if tier in covered['spans']]


def _per_code(row: Mapping[str, Any], tier: str) -> float:
    wanted = row['codes'] - row['held_out']
    return row['spans'].get(tier, 0) / wanted if wanted else 0.0


def _coverage_label(row: Mapping[str, Any]) -> str:
    wanted = row['codes'] - row['held_out']
    return f'{row["with_span"] / wanted:.0%}' if wanted else 'no codes'


def _page(covered: Mapping[str, Any], plots: Sequence[tuple[bytes, str]]) -> str:
    style = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"
    images = '\n'.join(
        f'<p><img alt="{html.escape(alt)}; the numbers are below" '
        f'src="data:image/png;base64,{base64.b64encode(image).decode()}"></p>'
        for image, alt in plots
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>Coverage of the code space</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n'
        f'<h1>Coverage of the code space</h1>\n{images}\n'
        f'<pre tabindex="0">{html.escape(format_coverage(covered))}</pre>\n'
        '</body>\n</html>\n'
    )
