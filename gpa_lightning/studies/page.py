"""``report.html``: all studies on one page that needs nothing but itself."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path

from gpa_lightning.resuming.whole_file import whole_file
from gpa_lightning.studies.result import QUICK, Result, cell, circumstances
from gpa_lightning.studies.settings import Settings

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 50rem; padding: 0 1rem 3rem; background: #fff; color: #1a1a1a;
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.25; } h2 { margin-top: 3rem; border-top: 1px solid #767676;
  padding-top: 1rem; }
blockquote { margin: 1rem 0; padding: .1rem 1rem; border-left: 4px solid #767676; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #bbb; text-align: right;
  overflow-wrap: normal; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
.quick { border: 3px solid #a00000; padding: .5rem 1rem; font-weight: bold; color: #a00000; }
a { color: #003e9c; }
@media print { body { max-width: none; font-size: 10pt; } figure, table, li { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .wide { overflow: visible; } }
"""


def save_page(results: Sequence[Result], settings: Settings) -> Path:
    """Write all results as one HTML page, in the order in which they come.

    Args:
        results: Of the studies; each figure is embedded.
        settings: Those that they were made with.

    Returns:
        The page's path: ``report.html`` in the output folder.

    Raises:
        OutputError: If it cannot be written.
    """
    with whole_file(settings.output / "report.html", overwrite=True) as path:
        path.write_text(page(results, settings), encoding="utf-8")
    return settings.output / "report.html"


def page(results: Sequence[Result], settings: Settings) -> str:
    """Lay out the page.

    Args:
        results: Of the studies.
        settings: Those that they were made with.

    Returns:
        HTML that asks the network for nothing.
    """
    contents = "".join(
        f'<li><a href="#{result.name}">{escape(result.title)}</a></li>' for result in results
    )
    quick = f'<p class="quick">{QUICK}.</p>' if settings.quick else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>The overfitting lab</title><style>{STYLE}</style></head><body><main>\n"
        f"<h1>The overfitting lab</h1>{quick}<p>What the lecture “PyTorch and Overfitting” shows "
        "and says, measured anew, in the lecture's order.</p>"
        f'<nav aria-label="Studies"><ol>{contents}</ol></nav>\n'
        + "\n".join(_section(result, settings) for result in results)
        + "\n</main></body></html>\n"
    )


def _section(result: Result, settings: Settings) -> str:
    image = BytesIO()
    result.figure.savefig(image, format="png", dpi=110)
    source = f"data:image/png;base64,{b64encode(image.getvalue()).decode()}"
    claims = "".join(
        f"<li><strong>{verdict}</strong>: {escape(claim.text)}<br>{escape(claim.numbers)}</li>"
        for verdict, claim in result.verdicts(settings)
    )
    made = "".join(
        f"<li>{escape(name)}: {escape(text)}</li>"
        for name, text in circumstances(settings, result).items()
    )
    return (
        f'<section id="{result.name}"><h2>{escape(result.title)}</h2>'
        f"<blockquote><p>{escape(result.lecture)}</p></blockquote><p>{escape(result.method)}</p>"
        f'<figure><img src="{source}" alt="{escape(result.alt)}"></figure>'
        f"<h3>Claims</h3><ul>{claims}</ul><h3>Numbers</h3>{_table(result)}"
        f"<h3>Made with</h3><ul>{made}</ul></section>"
    )


def _table(result: Result) -> str:
    header = "".join(f'<th scope="col">{escape(str(c))}</th>' for c in result.summary.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell(value))}</td>' for value in row)}</tr>"
        for row in result.summary.itertuples(index=False)
    )
    # a region that scrolls has to be reachable by the keyboard
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="Numbers: '
        f'{escape(result.title)}"><table><thead><tr>{header}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
