"""``report.html``: the reports of all studies on one page that needs nothing but itself."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path

from markdown import markdown

from gpa_lightning.resuming.whole_file import whole_file
from gpa_lightning.studies.result import Result
from gpa_lightning.studies.settings import Settings

HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>The overfitting lab</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>
body { margin: 0 auto; max-width: 50rem; padding: 0 1rem 3rem; background: #fff; color: #1a1a1a;
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; color-scheme: light; }
h1, h2, h3 { line-height: 1.25; break-after: avoid; } a { color: #003e9c; }
h2 { margin-top: 3rem; border-top: 1px solid #767676; padding-top: 1rem; }
blockquote { margin: 1rem 0; padding: .1rem 1rem; border-left: 4px solid #767676; }
img { max-width: 100%; } img, table, li { break-inside: avoid; } li > p { margin: .4rem 0; }
.wide { overflow-x: auto; overflow-wrap: normal; } table { border-collapse: collapse; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #bbb; text-align: right; }
th:first-child, td:first-child { text-align: left; }
</style></head><body><main><h1>The overfitting lab</h1>
<p>What the lecture “PyTorch and Overfitting” shows and says, measured, in the same order.</p>
"""


def save_page(results: Sequence[Result], settings: Settings) -> Path:
    """Write the reports of saved results as one HTML page, with their figures in it.

    Returns:
        Path of the page, ``report.html`` in the output folder.
    """
    links = (f'<li><a href="#{each.name}">{escape(each.title)}</a></li>' for each in results)
    contents = f'<nav aria-label="Studies"><ol>{"".join(links)}</ol></nav>'
    sections = "".join(_section(result, settings.output / result.name) for result in results)
    with whole_file(settings.output / "report.html", overwrite=True) as path:
        path.write_text(f"{HEAD}{contents}{sections}</main></body></html>\n", "utf-8")
    return settings.output / "report.html"


def _section(result: Result, folder: Path) -> str:
    report = (folder / "report.md").read_text("utf-8").replace("&", "&amp;").replace("<", "&lt;")
    report = report.replace("[results.csv](results.csv)", f"{result.name}/results.csv")
    html = markdown(re.sub("^#", "##", report, flags=re.MULTILINE), extensions=["tables"])
    figure = b64encode((folder / "figure.png").read_bytes()).decode()
    html = html.replace('src="figure.png"', f'src="data:image/png;base64,{figure}"')
    # a region that scrolls has to be reachable by the keyboard
    wide = f'<div class="wide" tabindex="0" role="region" aria-label="{escape(result.title)}">'
    html = html.replace("<table>", f"{wide}<table>").replace("</table>", "</table></div>")
    return f'<section id="{result.name}">{html}</section>'
