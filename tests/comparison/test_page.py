"""The report: what is on the page and in the JSON, and the page in a real browser."""

import json
import math
import os
import re
import shutil

import pytest
from playwright.sync_api import sync_playwright

from mask2former_ext.comparison.curves import IOU_THRESHOLDS, TrainingCurves
from mask2former_ext.comparison.models import CURVED_METRICS
from mask2former_ext.comparison.page import CLASSES_CHARTED, render, report_of, write_report
from mask2former_ext.comparison.regions import THINGS

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SEGM = {"AP": 30.0, "AP50": 52.0, "APs": math.nan, "AP-car": 61.0, "AP-dog & <b>cat</b>": 20.0}
FIRST = {
    "segm": SEGM,
    "bbox": {"AP": 31.0, "AP-car": 60.0},
    "panoptic_seg": {"PQ": 50.0, "SQ": 80.0, "RQ": 60.0},
    "boundary_segm": {"AP": 22.0, "AP-car": 33.0},
    "sem_seg": {"mIoU": 70.0, "IoU-road": 90.0},
}


@pytest.fixture(scope="module")
def comparison(make_comparison, made_up):
    """Two models, with everything that a page may have, and a name that is no text for HTML."""
    curve = {name: [(k / 100, 1 - k / 200) for k in range(101)] for name in IOU_THRESHOLDS}
    losses = [(20.0 * k, 30 / k) for k in range(1, 30)]
    training = TrainingCurves(losses, {key: [(200.0, 20.0), (400.0, 50.0)] for key in CURVED_METRICS.items()})
    return make_comparison(
        made_up("First <script>alert(1)</script>", (0, 2, 4, 0), FIRST, precision={"segm": curve}, training=training),
        made_up("Second", (0, 2, 4, 16), {"segm": SEGM | {"AP": 33.0}}, frozenset({THINGS}), {"segm": curve}),
        opts=("MODEL.DEVICE", "cpu"),
    )


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "new" / "page.html"
    write_report(comparison, path, path.with_name("report.json"), images_per_group=1)
    return path


@pytest.fixture
def _without_pictures(monkeypatch):
    """Pictures take longest."""
    monkeypatch.setattr("mask2former_ext.comparison.page.make_gallery", lambda comparison, per_group: [])


def test_page_needs_nothing_else(page):
    text = page.read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text) == []
    assert "url(" not in text and "@import" not in text and "<script" not in text
    assert sorted(path.name for path in page.parent.iterdir()) == ["page.html", "report.json"]


def test_names_are_escaped(page):
    text = page.read_text(encoding="utf-8")
    assert "First &lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<b>cat" not in text and "dog &amp; &lt;b&gt;cat&lt;/b&gt;" in text


@pytest.mark.usefixtures("_without_pictures")
def test_sections_appear_with_what_there_is_to_show(comparison, make_comparison, made_up):
    text = render(comparison, 1)
    for section in ("figures", "classes", "precision", "training", "gallery", "method"):
        assert f'<section id="{section}">' in text and f'href="#{section}"' in text
    for caption in ("Instance masks, boundaries: AP", "total loss", "IoU 0.75", "PQ: panoptic segmentation"):
        assert f"<figcaption>{caption}</figcaption>" in text
    assert text.count('<svg class="chart"') == 3 + 3 + 4  # tasks with classes, thresholds, loss and metrics
    bare = render(make_comparison(made_up("Alone", (0, 0, 0, 0), {"panoptic_seg": {"PQ": 1.0}})), 1)
    assert re.findall(r'<section id="(\w+)">', bare) == ["figures", "gallery", "method"]
    assert "difference</th>" not in bare and "(best)" not in bare


@pytest.mark.usefixtures("_without_pictures")
def test_a_single_evaluation_is_no_curve(make_comparison, made_up):
    training = TrainingCurves([(20.0, 3.0), (40.0, 2.0)], {("segm", "AP"): [(40.0, 30.0)]})
    text = render(make_comparison(made_up("One", (0, 0, 0, 0), {}, training=training)), 1)
    assert text.count('<svg class="chart"') == 1
    assert "<figcaption>total loss</figcaption>" in text


@pytest.mark.usefixtures("_without_pictures")
def test_of_many_classes_the_chart_has_some_and_the_table_all(make_comparison, made_up):
    many = {f"IoU-class {k}": float(k) for k in range(CLASSES_CHARTED + 6)}
    text = render(make_comparison(made_up("One", (0, 0, 0, 0), {"sem_seg": many})), 1)
    assert text.count('<rect class="bar m0"') == CLASSES_CHARTED
    assert f"the {CLASSES_CHARTED} of {len(many)} classes that differ most" in text
    assert text.count('<tr><th scope="row">class ') == len(many)


def test_json_has_all_figures(page, comparison):
    report = json.loads((page.parent / "report.json").read_text(encoding="utf-8"))
    assert report == json.loads(json.dumps(report_of(comparison), allow_nan=False))
    first, second = report["models"]
    assert first["results"]["segm"]["APs"] is None and first["results"]["panoptic_seg"]["PQ"] == 50.0
    assert first["costs"]["input_size"] == [32, 48]
    assert first["training"]["metrics"]["segm/AP"] == [[200.0, 20.0], [400.0, 50.0]]
    assert second["training"] is None and len(second["precision_over_recall"]["segm"]["IoU 0.50"]) == 101
    assert report["image_scores"]["kinds"] == ["things"]
    assert next(iter(report["image_scores"]["scores"].values())) == [100, 100]
    assert report["options"] == ["MODEL.DEVICE", "cpu"] and report["images"] == 4


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    executable = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None and os.environ.get("REQUIRE_BROWSER") != "1":
        pytest.skip("there is no Chromium; CHROMIUM names one")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


PICTURES = "Array.from(document.images, x => [x.complete, x.naturalWidth, x.getBoundingClientRect().width, x.alt])"
CHARTS = "Array.from(document.querySelectorAll('svg'), x => x.getBoundingClientRect()).map(x => [x.width, x.height])"
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_page_in_a_browser(browser, page, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True)
    opened = context.new_page()
    complaints, requests = [], []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(page.as_uri())
    opened.wait_for_load_state("networkidle")
    pictures, charts = opened.evaluate(PICTURES), opened.evaluate(CHARTS)
    assert len(pictures) == 3 * 4
    for complete, natural_width, shown_width, alternative in pictures:
        assert complete and natural_width == 48 * 13 and 100 < shown_width < width and alternative
    assert len(charts) > 10
    assert all(chart_width > 0 and chart_height > 0 for chart_width, chart_height in charts)
    assert opened.evaluate(SIDEWAYS) == 0
    assert opened.locator("h1").inner_text() == "First <script>alert(1)</script> and Second on comparison_test_streets"
    assert opened.locator("td.best").count() > 0
    assert complaints == []
    assert {url.partition(":")[0] for url in requests} <= {"file", "data"}
    context.close()
