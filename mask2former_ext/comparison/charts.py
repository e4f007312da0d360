"""Charts as inline SVG, without scripts or fonts of their own; the page's style sheet gives them colours.

Whatever belongs to a model has the class ``m0``, ``m1``, …, by the model's place in the comparison, and lines are
dashed in different ways, so that colour is not all that tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

MAX_MODELS = 7
"""Models beyond that would share colours."""

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 48
DASHES = ("", "8 4", "2 3", "10 3 2 3", "5 5", "12 3 2 3 2 3", "1 4")

LABEL_WIDTH, VALUE_WIDTH, LABEL_LETTERS = 128, 44, 18
BAR, BAR_GAP, ROW_GAP = 11, 2, 11


@dataclass(frozen=True)
class Axis:
    """A labelled axis from ``low`` to ``high``."""

    label: str
    low: float
    high: float

    @classmethod
    def up_to(cls, label: str, highest: float) -> Axis:
        """From 0 to the round number from ``highest`` on."""
        return cls(label, 0.0, _round_numbers(0.0, highest)[-1])

    def ticks(self) -> list[float]:
        """Round numbers on the axis."""
        return [value for value in _round_numbers(self.low, self.high) if self.low <= value <= self.high]

    def share(self, value: float) -> float:
        """Where a value lies, 0 at ``low`` and 1 at ``high``."""
        return (value - self.low) / (self.high - self.low)


def _round_numbers(low: float, high: float) -> list[float]:
    locator = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10])
    return [float(value) for value in locator.tick_values(low, high)]


@dataclass(frozen=True)
class Line:
    """A line of a chart: which model's (its place), that model's name, and its points from left to right."""

    model: int
    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bars:
    """A model's bars of a chart, one for each category; None where it has none."""

    model: int
    name: str
    values: Sequence[float | None]


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> Markup:
    """Lines in a frame; points are marked where a line has few."""
    parts = [_frame(x, y)]
    for line in lines:
        places = [(_across(x, px), _up(y, py)) for px, py in line.points]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        dash = DASHES[line.model]
        parts.append(
            Markup('<polyline class="line m{}" points="{}" stroke-dasharray="{}"/>').format(line.model, path, dash)
        )
        if len(places) <= 12:
            dot = Markup('<circle class="dot m{}" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}: {:.4g}</title></circle>')
            parts += [
                dot.format(line.model, px, py, line.name, value)
                for (px, py), (_, value) in zip(places, line.points, strict=True)
            ]
    described = f"{y.label} over {x.label}; lines: {', '.join(line.name for line in lines)}"
    return _svg(title, described, HEIGHT, parts)


def bar_chart(title: str, axis: Axis, categories: Sequence[str], series: Sequence[Bars]) -> Markup:
    """Horizontal bars, those of a category together, with their values beside them."""
    row = len(series) * (BAR + BAR_GAP) + ROW_GAP
    bottom = TOP + len(categories) * row
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    parts = []
    for tick in axis.ticks():
        at = LABEL_WIDTH + axis.share(tick) * room
        parts.append(_grid_line(at, TOP, at, bottom))
        parts.append(_text(at, bottom + 17, f"{tick:g}", "middle"))
    for index, category in enumerate(categories):
        top = TOP + index * row + ROW_GAP / 2
        middle = top + (row - ROW_GAP) / 2
        parts.append(_text(LABEL_WIDTH - 8, middle + 4, category, "end", "label", LABEL_LETTERS))
        for place, bars in enumerate(series):
            parts.append(_bar(bars, index, top + place * (BAR + BAR_GAP), axis, room))
    parts.append(_text(LABEL_WIDTH + room / 2, bottom + 36, axis.label, "middle", "axis-label"))
    described = f"{axis.label} of {len(categories)} classes; models: {', '.join(bars.name for bars in series)}"
    return _svg(title, described, bottom + 46, parts)


def swatch(model: int) -> Markup:
    """A model's colour and dashes, for legends; the name stands beside it."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 34 12" width="34" height="12" aria-hidden="true">'
        '<line class="line m{}" x1="1" y1="6" x2="33" y2="6" stroke-dasharray="{}"/></svg>'
    ).format(model, DASHES[model])


def _svg(title: str, description: str, height: float, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" role="img" viewBox="0 0 {} {:.0f}" aria-label="{}"><title>{}</title><desc>{}</desc>{}</svg>'
    ).format(WIDTH, height, f"{title}. {description}", title, description, Markup("").join(parts))


def _frame(x: Axis, y: Axis) -> Markup:
    """Grid, ticks and labels of both axes."""
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    parts = []
    for tick in y.ticks():
        at = _up(y, tick)
        parts += [_grid_line(left, at, right, at), _text(left - 7, at + 4, f"{tick:g}", "end")]
    for tick in x.ticks():
        at = _across(x, tick)
        parts += [_grid_line(at, top, at, bottom), _text(at, bottom + 18, _short(tick), "middle")]
    middle = (top + bottom) / 2
    parts.append(_text((left + right) / 2, HEIGHT - 8, x.label, "middle", "axis-label"))
    parts.append(
        Markup('<text class="axis-label" text-anchor="middle" transform="translate(13 {:.1f}) rotate(-90)">{}</text>')
        .format(middle, y.label)
    )  # fmt: skip
    return Markup("").join(parts)


def _across(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def _up(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def _bar(bars: Bars, index: int, top: float, axis: Axis, room: float) -> Markup:
    value = bars.values[index]
    baseline = top + BAR - 1
    if value is None:
        return _text(LABEL_WIDTH + 4, baseline, "–", "start")
    length = max(axis.share(value) * room, 0.0)
    rectangle = Markup(
        '<rect class="bar m{}" x="{}" y="{:.1f}" width="{:.1f}" height="{}"><title>{}: {:.1f}</title></rect>'
    )
    drawn = rectangle.format(bars.model, LABEL_WIDTH, top, length, BAR, bars.name, value)
    return drawn + _text(LABEL_WIDTH + length + 5, baseline, f"{value:.1f}", "start")


def _grid_line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick", letters: int | None = None) -> Markup:
    """Text, shortened to so many letters where that is given; pointing at it shows all."""
    shown = text if letters is None or len(text) <= letters else f"{text[: letters - 1].rstrip()}…"
    full = Markup("<title>{}</title>").format(text) if shown != text else ""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}{}</text>').format(
        kind, x, y, anchor, shown, full
    )


def _short(value: float) -> str:
    """Thousands of iterations as 90k."""
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"
