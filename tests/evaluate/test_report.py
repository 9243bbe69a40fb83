"""The page: self-contained, escaped, equal for equal inputs, and it renders."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
import shutil
import subprocess

import pytest

from uio2.evaluate import charts, report, score, tables
from uio2.evaluate.specs import ReportSpec, ScoreSpec
from uio2.pipeline.stage import StageError

from . import tiny

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page; `open` must be empty at its end."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "wbr", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def make(folder, inputs, **fields) -> str:
    context = tiny.context(folder, **inputs)
    report.run(ReportSpec(**fields), context)
    return (context.out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(scored, tmp_path_factory) -> str:
    return make(tmp_path_factory.mktemp("report") / "r", scored, title="Digits")


def test_the_page_is_well_formed_and_loads_nothing(page):
    parsed = Page(page)
    assert not parsed.open
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "iframe", "object", "embed"}
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
            assert attributes.get(name, "data:").startswith("data:image/"[:5]), (tag, attributes)
    assert not re.search(r"url\(|@import|https?://", page.replace("http://www.w3.org/2000/svg", ""))


def test_the_page_shows_what_was_measured(page, scored):
    words = " ".join(Page(page).texts)
    metrics = json.loads((scored["score"].path / "metrics.json").read_text())["metrics"]
    for figure in metrics.values():
        assert f"{figure['value']:.3f}" in words
        assert f"{figure['baseline']:.3f}" in words
    for artifact in ("digits/score", "digits/predict", "digits/train", "digits/coco"):
        assert artifact in words
    tags = Page(page).tags
    assert sum(tag == "image" for tag, _ in tags) >= 4 * (8 + 4)
    roles = {a["class"].split()[1] for tag, a in tags if tag == "rect" and a.get("class", "").startswith("box ")}
    assert roles == {"true", "predicted", "asked"}


def test_equal_inputs_give_equal_bytes_and_no_path_leaks(page, scored, tmp_path):
    assert make(tmp_path / "again", scored, title="Digits") == page
    for artifact in scored.values():
        assert artifact.uri not in page


def test_text_of_data_and_model_is_escaped(world, tmp_path):
    rows = {task: tiny.rows_of(task, found=world.validation, skill=0.5) for task in tiny.TASKS}
    rows = {
        task: [
            dataclasses.replace(
                r, text=EVIL, question=EVIL, prompt=EVIL, targets=(EVIL + "!",), example_id=f"{EVIL}{i}"
            )
            for i, r in enumerate(found)
        ]
        for task, found in rows.items()
    }
    inputs = world.inputs | {"predictions": tiny.write_predictions(tmp_path / "p", rows=rows)}
    context = tiny.context(tmp_path / "s", **inputs)
    score.run(ScoreSpec(resamples=20), context)
    inputs["score"] = tiny.artifact(context.out, kind="report", name="digits/score")
    parsed = Page(make(tmp_path / "r", inputs, title=EVIL))
    assert not {tag for tag, _ in parsed.tags} & {"script", "img"}
    assert sum(EVIL in text for text in parsed.texts) > 100


def test_pictures_that_no_dataset_holds_are_said_to_be_missing(scored, tmp_path):
    without = {name: artifact for name, artifact in scored.items() if name not in ("coco", "refcoco", "train")}
    text = " ".join(Page(make(tmp_path / "r", without)).texts)
    assert "is not in the given datasets" in text
    assert "Training" not in text


def test_predictions_of_another_run_are_refused(world, scored, tmp_path):
    rows = {task: tiny.rows_of(task, found=world.validation[:3], skill=1.0) for task in tiny.TASKS}
    other = tiny.write_predictions(tmp_path / "p", rows=rows)
    with pytest.raises(StageError, match="give `report` the predictions"):
        make(tmp_path / "r", scored | {"predictions": other})


def test_large_pictures_are_shrunk_and_keep_their_coordinates(scored, tmp_path):
    small = make(tmp_path / "r", scored, max_image_side=32)
    assert 'viewBox="0 0 96 96"' in small
    assert len(small) < len(make(tmp_path / "r2", scored))


def test_confusion_folds_rare_classes_and_strange_answers(world):
    rows = tiny.rows_of("box_classification_coco_2017", found=world.validation, skill=1.0)
    rows[0] = dataclasses.replace(rows[0], text="eleven")
    table = tables.confusion(rows, max_classes=3)
    assert table.columns[-1] == "other"
    assert [row.label for row in table.rows][-1] == "rarer"
    rarer = table.rows[-1]
    wrong = rarer.label == "rarer" and rows[0].targets[0] not in table.columns
    assert rarer.counts[3] == rarer.total - wrong
    assert sum(row.total for row in table.rows) == len(rows)
    full = tables.confusion(rows, max_classes=10)
    assert [row.counts[-1] for row in full.rows if row.label == rows[0].targets[0]] == [1]


def test_a_loss_curve_with_a_spike_keeps_its_scale():
    points = [(float(step), 0.5 - 0.4 * step / 999) for step in range(1, 1000)]
    chart = charts.line_chart({"loss": [(0.0, 1000.0), *points]})
    assert chart.y_ticks[0].label == "0"
    assert float(chart.y_ticks[-1].label) < 1
    assert chart.series[0].last == "0.100"


def test_history_that_is_not_json_is_named(tmp_path):
    (tmp_path / "history.jsonl").write_text('{"step": 1, "loss": 2}\nnonsense\n')
    with pytest.raises(ValueError, match="line 2"):
        charts.read_history(tmp_path / "history.jsonl")
    assert charts.read_history(tmp_path / "none.jsonl") == {}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_renders_without_sideways_scrolling(page, tmp_path, width):
    probe = "<script>document.title = 'w' + document.documentElement.scrollWidth</script></body>"
    (tmp_path / "page.html").write_text(page.replace("</body>", probe))
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1000", "--dump-dom",
        f"file://{tmp_path / 'page.html'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>w(\d+)</title>", done.stdout)
    assert title, done.stdout[:300]
    assert int(title.group(1)) <= width
