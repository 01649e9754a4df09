"""Every page in headless Chromium at the width of a phone: no error, no sideways scrolling, tables that sort."""

import csv
import io
import re
import xml.dom.minidom

import numpy as np
import pytest
from in_browser import BROWSER, PHONE, look_at
from PIL import Image
from report_runs import ARMS, TASKS, begin_run, write_stage, write_targets
from study_measurements import make_outcomes, make_study, measure
from test_measures import attributes, write_arms  # noqa: F401
from test_measures import run as measure_run
from test_search_page import made

from aiseeme_jax import report
from aiseeme_jax.evidence import pairs
from aiseeme_jax.evidence.networks import PIXELS, Compared, Layer
from aiseeme_jax.evidence.similarity import cka
from aiseeme_jax.jobs.similarity import measure_geometry
from aiseeme_jax.report import search_page, similarity_page, study_page
from aiseeme_jax.study.certainty import compare, list_values, summarise
from aiseeme_jax.study.tables import StudyTables

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium: pages are not looked at in a browser"),
]
CONFIG = {
    "title": "A long title without a place to break it: " + "x" * 60,
    "data": {"name": "derm/64", "synthetic": True},
    "model": {"name": "resnet18"},
}


def make_png():
    buffer = io.BytesIO()
    Image.new("RGB", (900, 300), "teal").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def run_page(tmp_path_factory):
    """Of a whole run with long names and real pictures."""
    workdir = tmp_path_factory.mktemp("looked_at")
    begin_run(workdir)
    for position, task in enumerate(TASKS):
        write_stage(workdir, "curriculum", position, task, devices=2)
    for task in TASKS[1:]:
        write_stage(workdir, f"single:{task}", 0, task, devices=2)
    for picture in workdir.glob("stages/*/views.png"):
        picture.write_bytes(make_png())
    write_targets(workdir)
    return report.write_report(workdir).read_text()


def assert_usable(page, folder, tables=1, figures=1):
    """What holds for every page; returns what the browser found."""
    found = look_at(page, folder)
    assert found["console"] == []
    assert found["width"] == PHONE and found["scrolls"] <= PHONE and found["wide"] == []
    assert all(loaded for _, loaded in found["pictures"]), found["pictures"]
    assert found["nameless"] == [] and found["unreachable"] == []
    assert len(found["tables"]) >= tables
    for table in found["tables"]:
        assert table["others"] == 1 and {order["sort"] for order in table["orders"]} == {"ascending", "descending"}
        assert all(order["reached"] for order in table["orders"])
        first, second = (order["texts"] for order in table["orders"])
        assert [sorted(body) for body in first] == [sorted(body) for body in second], "a row was lost"
    saved = [text.partition(",")[2] for name, text in found["saved"] if name.endswith(".svg")]
    assert len(saved) >= figures
    for text in saved:
        picture = xml.dom.minidom.parseString(text).documentElement
        assert picture.getAttribute("xmlns") and float(picture.getAttribute("width")) > 0 and "var(" not in text
    return found


def test_what_is_wrong_with_a_page_is_found(tmp_path):
    broken = '<p style="width: 600px">wide</p><img alt="lost" src="lost.png"><button></button><pre>' + "x" * 200
    page = f"<!doctype html><html><body><main>{broken}</pre></main><script>undefinedName()</script></body></html>"
    found = look_at(page.replace("<pre>", '<pre style="overflow-x: auto">'), tmp_path)
    assert found["scrolls"] > PHONE and "P " in found["wide"] and found["pictures"] == [["lost", False]]
    assert any("undefinedName is not defined" in line for line in found["console"])
    assert len(found["nameless"]) == 1 and len(found["unreachable"]) == 1


def test_the_page_of_a_run(run_page, tmp_path):
    found = assert_usable(run_page, tmp_path, tables=3, figures=5)
    assert len(found["pictures"]) == 5
    stages = next(table for table in found["tables"] if table["head"] == "Skipped steps")
    assert len(stages["orders"][0]["texts"][0]) == 5
    text = dict(found["saved"])["results.csv"].partition(",")[2]
    rows = list(csv.reader(io.StringIO(text)))
    costs = ["Images shown", "Device time", "Energy", "Time of measuring"]
    assert rows[0][1:] == ["Arm", "kNN", "Linear probe", "Fine-tuning", *costs]
    assert {row[1] for row in rows[1:]} == set(ARMS) and len({len(row) for row in rows}) == 1
    (scratch,) = {tuple(row[5:]) for row in rows[1:] if row[1] == "scratch"}
    assert scratch == ("0", "0 s", "0 Wh", "–")


def test_many_pictures_lie_beside_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MOST_BYTES", 4 * len(make_png()))
    begin_run(tmp_path)
    for position, task in enumerate(TASKS):
        folder = write_stage(tmp_path, "curriculum", position, task)
        (folder / "views.png").write_bytes(make_png())
    page = report.write_report(tmp_path).read_text()
    assert page.count("data:image/png") == 3 and not (tmp_path / "report_pictures").exists()
    for task in TASKS[1:]:
        folder = write_stage(tmp_path, f"single:{task}", 0, task)
        (folder / "views.png").write_bytes(make_png())
    page = report.write_report(tmp_path).read_text()
    assert "data:image/png" not in page and len(list((tmp_path / "report_pictures").iterdir())) == 5
    found = assert_usable(page, tmp_path, tables=1, figures=5)
    assert len(found["pictures"]) == 5
    monkeypatch.setattr(report, "MOST_BYTES", 5 * len(make_png()))
    assert report.write_report(tmp_path).read_text().count("data:image/png") == 5
    assert list((tmp_path / "report_pictures").iterdir()) == [], "pictures of another page are not left"


def test_tables_are_sorted_by_number_with_what_is_missing_last(tmp_path):
    numbers = ["0.5 [0.1–0.9]", "–", "−0.25", "1,234", "12.5"]
    times = ["1 min 20 s", "–", "45 s", "2 h 5 min", "3 d 4 h"]
    rows = "".join(f"<tr><td>{a}</td><td>{b}</td></tr>" for a, b in zip(times, numbers, strict=True))
    heads = "<tr><th>Time</th><th>Number</th></tr>"
    script = report.templates.load_template("script.html.jinja").render()

    def sort(rows, heads):
        body = f'<table class="stages"><thead>{heads}</thead><tbody>{rows}</tbody></table>'
        found = look_at(f"<!doctype html><html><body><main>{body}</main>{script}</body></html>", tmp_path)
        return [order["texts"][0] for order in found["tables"][0]["orders"]]

    down, up = sort(rows, heads)
    assert down == ["1,234", "12.5", "0.5 [0.1–0.9]", "−0.25", "–"]
    assert up == ["−0.25", "0.5 [0.1–0.9]", "12.5", "1,234", "–"]
    swapped = re.sub(r"<(t[dh])>(.*?)</\1><\1>(.*?)</\1>", r"<\1>\3</\1><\1>\2</\1>", rows)
    down, up = sort(swapped, heads)
    assert up == ["45 s", "1 min 20 s", "2 h 5 min", "3 d 4 h", "–"]


def test_the_page_of_a_study(tmp_path):
    values = [measure(arm, s) for arm in ("curriculum", "scratch", "single:a") for s in (0, 1, 2)]
    study = make_study()
    outcomes = make_outcomes(study, values)
    tables = StudyTables(list_values(outcomes), summarise(outcomes), compare(outcomes))
    assert_usable(study_page.render(study, outcomes, tables, (), CONFIG), tmp_path, tables=3)


def test_the_page_of_a_search(tmp_path):
    assert_usable(search_page.render(made(), CONFIG), tmp_path, tables=2)


def test_the_page_of_metrics(tmp_path, attributes):  # noqa: F811
    write_arms(tmp_path)
    measure_run(tmp_path, "--against", "scratch")
    assert_usable((tmp_path / "metrics" / "metrics.html").read_text(), tmp_path, tables=3, figures=3)


def test_the_page_of_similarities(tmp_path):
    rng = np.random.default_rng(0)
    networks = ("curriculum", "single:rotation_with_a_long_name", "random weights, seed 0", "random weights, seed 1")
    layers = [Layer(network, endpoint) for network in networks for endpoint in ("stage1", "pooled")]
    layers.append(Layer(PIXELS, PIXELS))
    features = {layer: rng.normal(size=(40, 6)) for layer in layers}
    between = np.array([[cka(features[one], features[other]) for other in layers] for one in layers])
    compared = Compared(tuple(layers), between, features, 40)
    page = similarity_page.Page(
        title=CONFIG["title"],
        data="derm/64:test",
        own_groups=True,
        compared=compared,
        rows=pairs.list_cka(compared),
        measures=[],
        geometry=measure_geometry(compared, dict.fromkeys(compared.networks, 0.5), {}),
        levels=["The floor is 0.1."],
        layered=[networks[0], networks[2]],
        missing=[],
        gains=None,
        costs={networks[0]: ("96,000", "8 min", "not measured")},
    )
    assert_usable(similarity_page.render(page), tmp_path, figures=4)
