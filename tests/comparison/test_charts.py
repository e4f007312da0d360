"""Charts: where things lie in them, and that they are well-formed and say what they are."""

import xml.etree.ElementTree as ElementTree

import pytest

from mask2former_ext.comparison.charts import (
    BOTTOM,
    HEIGHT,
    LABEL_WIDTH,
    LEFT,
    RIGHT,
    TOP,
    VALUE_WIDTH,
    WIDTH,
    Axis,
    Bars,
    Line,
    bar_chart,
    line_chart,
    swatch,
)


def elements(svg, tag, kind=""):
    return [e for e in ElementTree.fromstring(svg).iter(tag) if kind in e.get("class", "").split() or not kind]


def test_ticks_are_round_numbers_within():
    assert Axis("recall", 0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert Axis("iteration", 0, 450).ticks() == [0, 100, 200, 300, 400]
    assert Axis.up_to("loss", 27.3).high == 30
    assert Axis.up_to("loss", 30.0).high == 30


def test_lines_go_where_their_points_are():
    lines = [Line(0, "first", [(0, 0), (5, 1), (10, 0.5)]), Line(1, "second", [(0, 1), (10, 1)])]
    svg = line_chart("A title", Axis("iteration", 0, 10), Axis("AP", 0, 1), lines)
    first, second = elements(svg, "polyline")
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    points = [tuple(map(float, pair.split(","))) for pair in first.get("points").split()]
    assert points == [(LEFT, HEIGHT - BOTTOM), (middle, TOP), (WIDTH - RIGHT, TOP + (HEIGHT - TOP - BOTTOM) / 2)]
    assert (first.get("class"), second.get("class")) == ("line m0", "line m1")
    assert first.get("stroke-dasharray") != second.get("stroke-dasharray")
    assert len(elements(svg, "circle", "m0")) == 3
    texts = ["".join(e.itertext()) for e in elements(svg, "text")]
    assert {"iteration", "AP", "0.2", "10"} <= set(texts)


def test_long_lines_have_no_dots():
    svg = line_chart("t", Axis("x", 0, 100), Axis("y", 0, 1), [Line(0, "a", [(k, 0.5) for k in range(101)])])
    assert elements(svg, "circle") == []


def test_bars_are_as_long_as_their_values():
    series = [Bars(0, "first", [50.0, None]), Bars(2, "third", [100.0, 0.0])]
    svg = bar_chart("t", Axis("AP in percent", 0, 100), ["car", "a very long name of a class"], series)
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    bars = elements(svg, "rect")
    assert [(bar.get("class"), float(bar.get("width"))) for bar in bars] == [
        ("bar m0", room / 2),
        ("bar m2", room),
        ("bar m2", 0),
    ]
    assert len({bar.get("y") for bar in bars}) == 3
    texts = ["".join(e.itertext()) for e in elements(svg, "text")]
    assert {"50.0", "100.0", "–", "car", "AP in percent"} <= set(texts)
    assert any(text.startswith("a very long name…") and text.endswith("a very long name of a class") for text in texts)


def test_charts_say_what_they_are_and_names_are_escaped():
    name = '<b>&"quotes"'
    svg = line_chart(name, Axis(name, 0, 1), Axis("y", 0, 1), [Line(0, name, [(0, 0), (1, 1)])])
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label").startswith(name)
    assert root.find("title").text == name
    bars = bar_chart("t", Axis("x", 0, 1), [name], [Bars(0, name, [1.0])])
    assert name in ["".join(e.itertext()) for e in elements(bars, "text")]


def test_swatches_are_drawn_as_the_lines_are():
    line = elements(swatch(1), "line")[0]
    drawn = elements(line_chart("t", Axis("x", 0, 1), Axis("y", 0, 1), [Line(1, "n", [(0, 0)])]), "polyline")[0]
    assert (line.get("class"), line.get("stroke-dasharray")) == (drawn.get("class"), drawn.get("stroke-dasharray"))
