"""``report.html``, made of results whose numbers are known."""

import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from gpa_lightning.studies import Claim, Result, Settings
from gpa_lightning.studies.page import save_page


class Page(HTMLParser):
    """What is on a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def attributes(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def result(name: str, holds: bool) -> Result:
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    return Result(
        name=name,
        title=f"All about {name} & <more>",
        lecture="It is said.",
        method="It was done.",
        table=pd.DataFrame({"epoch": [0, 1], "loss": [1.0, 0.5]}),
        summary=pd.DataFrame({"epoch": ["0", "end"], "lecture": [0.7296, float("nan")]}),
        figure=figure,
        alt=f'A "{name}" line',
        claims=[Claim("So it is.", "1 < 2", holds)],
        uses_data=False,
    )


@pytest.mark.parametrize("size", ["full", "tiny"])
def test_page(tmp_path, size):
    quick, settings = size != "full", Settings(output=tmp_path, size=size)
    results = [result("one", True), result("two", False)]
    for each in results:
        each.save(settings)
    page = Page(save_page(results, settings))
    assert [tag for tag, _ in page.tags if tag in ("h1", "h2")] == ["h1", "h2", "h2"]
    assert page.attributes("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in page.attributes("meta"))
    images = page.attributes("img")
    assert [image["alt"] for image in images] == ['A "one" line', 'A "two" line']
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    links = [link["href"] for tag in ("a", "link") for link in page.attributes(tag)]
    assert links == ["#one", "#two", "data:,"]
    assert page.attributes("script") == []
    verdicts = [text for text in page.texts if text in ("holds", "does not hold")]
    assert verdicts == ([] if quick else ["holds", "does not hold"])
    assert page.texts.count("not judged (quick)") == (2 if quick else 0)
    assert any("QUICK VERSION" in text for text in page.texts) == quick
    assert "0.7296" in page.texts
    assert page.texts.count("All about one & <more>") == 2  # in the contents, above the report
    assert "nan" not in page.texts


@pytest.mark.parametrize(("size", "seeds"), [("full", "3, 4, 5"), ("quick", "3"), ("tiny", "3, 4")])
def test_a_report_names_the_seeds_that_were_used(tmp_path, size, seeds):
    report = result("one", True).report(Settings(output=tmp_path, size=size, seeds=[3, 4, 5]))
    assert f"- seeds: {seeds}\n" in report


def test_a_report_names_the_processor(tmp_path):
    table = Path("/proc/cpuinfo")
    text = table.read_text() if table.exists() else ""
    names = re.findall(r"^model name\s*: (.+)$", text, re.MULTILINE)
    if not names:
        pytest.skip("needs Linux, and a processor whose name it tells")
    assert f"- hardware: {names[0]}, " in result("one", True).report(Settings(output=tmp_path))


def test_a_notebook_shows_figure_table_and_numbers(tmp_path):
    path = tmp_path / "cell.html"
    path.write_text(result("one", True)._repr_html_())
    page = Page(path)
    (image,) = page.attributes("img")
    assert image["alt"] == 'A "one" line'
    assert b64decode(image["src"].partition(",")[2]).startswith(b"\x89PNG")
    for text in ("All about one & <more>", "It was done.", "So it is.", "1 < 2", "0.7296", "end"):
        assert text in page.texts
    assert "nan" not in page.texts


def test_a_claim_that_fails_is_reported(tmp_path):
    folder = result("one", False).save(Settings(output=tmp_path))
    report = (folder / "report.md").read_text()
    assert "- **does not hold**: So it is." in report
    assert "| end |  |" in report
    assert "QUICK" not in report


def test_the_same_result_is_the_same_files(tmp_path):
    folder = result("one", True).save(Settings(output=tmp_path))
    names = ("figure.png", "figure.svg", "results.csv", "report.md")
    first = [(folder / name).read_bytes() for name in names]
    result("one", True).save(Settings(output=tmp_path))
    assert [(folder / name).read_bytes() for name in names] == first
    assert len(list(folder.glob("events*"))) == 1


def test_all_files_or_none(tmp_path, monkeypatch):
    monkeypatch.setattr(pd.DataFrame, "to_csv", lambda *_, **__: 1 / 0)  # after the figures
    with pytest.raises(ZeroDivisionError):
        result("one", True).save(Settings(output=tmp_path))
    assert list((tmp_path / "one").iterdir()) == []
