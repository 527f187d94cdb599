"""What a student sees: TensorBoard on real runs, and the studies' page, in a real browser."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import PROJECT, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
RATES = ("0.001", "0.003")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="needs Chromium (on Debian: apt-get install chromium)"
    ),
]


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def logs(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``lightning_logs`` of two short runs, beside which a quick study lies."""
    folder = tmp_path_factory.mktemp("student")
    small = ["--model.hidden_sizes", "[16,8]", "--accelerator", "cpu", "--max_epochs", "4"]
    for rate in RATES:
        flags = [*small, "--data.path", table, "--model.learning_rate", rate, "--name", rate]
        result = run(PROJECT / "scripts/train.py", *flags, cwd=folder)
        assert result.returncode == 0, result.stderr
    result = run(PROJECT / "scripts/study.py", "polynomial", "--quick", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "lightning_logs"


@pytest.fixture(scope="module")
def tensorboard(logs: Path) -> Iterator[str]:
    """The address of a TensorBoard that shows the runs."""
    with showing(logs) as address:
        yield address


@contextmanager
def showing(logs: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs)]
    options = ["--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    try:
        output = iter(process.stderr.readline, "")
        yield next(filter(None, (re.search(r"http://127[.0-9]+:\d+/", line) for line in output)))[0]
    finally:
        process.terminate()
        process.communicate(timeout=3600)


@pytest.fixture
def page(browser):
    # as wide as TensorBoard's table of hyperparameters: it draws only the columns in view
    page = browser.new_page(viewport={"width": 5000, "height": 900})
    page.set_default_timeout(3_600_000)
    yield page
    page.close()


def test_the_first_thing_shown_is_both_losses_of_each_run_by_epochs(browser, tensorboard):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(3_600_000)
    page.goto(tensorboard)
    page.locator(".group-title").nth(2).wait_for()
    titles = page.locator(".group-title").all_inner_texts()
    assert titles[:3] == ["Pinned", "Loss", "Loss of the best epoch"]
    assert "test" in titles
    assert "epoch" not in titles
    chart = page.locator("scalar-card-component").first
    for number, rate in enumerate(RATES):
        for curve in ("train", "validation"):
            chart.get_by_text(f"version_{number}-{rate}/{curve}").wait_for()
    page.close()


def test_both_losses_stand_in_one_chart(page, tensorboard):
    page.goto(f"{tensorboard}#custom_scalars")
    charts = page.locator("tf-custom-scalar-multi-line-chart-card")
    page.locator(".match-list-entry").nth(3).wait_for(state="attached")
    assert charts.count() == 1
    entries = charts.locator(".match-list-entry").all_inner_texts()
    series = {" ".join(text.split()[1:]) for text in entries}
    losses = ("train_loss", "val_loss")
    assert series == {
        f"{loss} (version_{n}-{rate})" for loss in losses for n, rate in enumerate(RATES)
    }
    # each is drawn as a line, once as it is and once smoothed, through its four epochs, of which
    # the chart leaves out what makes no difference in pixels
    lines = charts.locator("path.line[d*=L]")
    lines.nth(7).wait_for(state="attached")
    paths = {line.get_attribute("d") for line in lines.all()}
    assert len(paths) == 8
    assert all(2 <= path.count("L") <= 3 for path in paths)


def test_the_table_of_hyperparameters_has_the_final_test_losses(page, tensorboard, logs):
    page.goto(f"{tensorboard}#hparams")
    table = page.locator("tf-hparams-table-view")
    test = "Loss of the best epoch/test"
    # what differs between the runs comes first, then what came out of them
    headers = ["learning_rate", test, "Loss of the best epoch/validation", "train.Loss/by epoch"]
    for text in (*headers, "version_0-0.001", "version_1-0.003"):
        table.get_by_text(text, exact=True).first.wait_for()
    places = [table.get_by_text(text, exact=True).first.bounding_box()["x"] for text in headers]
    assert places == sorted(places)
    cells = [text.strip() for text in table.locator("vaadin-grid-cell-content").all_inner_texts()]
    for number, rate in enumerate(RATES):
        events = EventAccumulator(str(logs / f"version_{number}-{rate}"))
        events.Reload()
        (test_loss,) = events.Scalars(test)
        assert f"{test_loss.value:#.5g}" in cells
        assert f"{float(rate):#.5g}" in cells


def test_a_studys_figure_is_among_the_images(page, logs):
    with showing(logs.parent / "lightning_studies") as address:
        page.goto(f"{address}#images")
        image = page.locator("tf-image-loader img")
        image.wait_for()
        page.wait_for_function("image => image.complete", arg=image.element_handle())
        assert image.evaluate("image => image.naturalWidth") > 400
        assert page.locator("tf-image-loader").get_by_text("polynomial").count() > 0


@pytest.mark.parametrize("width", [390, 1440])
def test_the_report_shows_all_it_has_and_asks_for_nothing(browser, everything, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((everything / "report.html").as_uri())
    images = page.locator("img")
    assert images.count() == 9
    for image in images.all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("image => image.complete && image.naturalWidth > 400")
        box = image.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["height"] > 100
    # the page itself does not scroll sideways; wide tables do, each by itself
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert requests
    assert all(url.startswith(("file:", "data:")) for url in requests)
    page.close()
