"""The result of an audit, and how it is printed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from .findings import KINDS, SEVERITIES, Finding, Severity, printable
from .sources import Source

_HISTOGRAM_ROWS = 24
_BAR = 30


@dataclass
class AuditReport:
    """What an audit found.

    Attributes:
        source: the dataset.
        findings: all of them, those of one kind together.
        statistics: figures of the dataset; see ``to_json``.
        digests: digest of an image file → its path.
    """

    source: Source = field(repr=False)
    findings: list[Finding]
    statistics: dict[str, Any]
    digests: dict[bytes, str] = field(default_factory=dict, repr=False)

    @property
    def faults(self) -> list[Finding]:
        """What stops training or evaluation, or changes without a word what annotations mean."""
        return self._of("fault")

    @property
    def warnings(self) -> list[Finding]:
        """What trains, and is likely not what was meant."""
        return self._of("warning")

    @property
    def infos(self) -> list[Finding]:
        """What is good to know."""
        return self._of("info")

    def _of(self, severity: Severity) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON value: dataset, task, counts of each severity, statistics, findings."""
        return {
            "dataset": self.source.name,
            "task": self.source.task,
            "faults": len(self.faults),
            "warnings": len(self.warnings),
            "infos": len(self.infos),
            "statistics": self.statistics,
            "findings": [finding.to_json() for finding in self.findings],
        }


def format_report(report: AuditReport, *, examples: int = 3) -> str:
    """The report as text: statistics, then the findings of each kind with their number and the first few of them."""
    lines = [*_statistics(report), ""]
    for severity in SEVERITIES:
        lines += _findings([finding for finding in report.findings if finding.severity == severity], examples)
    lines.append(f"{_number(len(report.faults), 'fault')}, {_number(len(report.warnings), 'warning')}.")
    return printable("\n".join(lines) + "\n")


def _findings(findings: list[Finding], examples: int) -> Iterator[str]:
    for kind, group in groupby(findings, key=lambda finding: finding.kind):
        found = list(group)
        severity, headline, way_out = KINDS[kind]
        yield f"{severity.upper():7}  {kind} ({len(found)}): {headline}"
        yield f"{'':9}{way_out}"
        for finding in found[:examples]:
            place = f"{finding.place}: " if finding.place else ""
            yield f"{'':9}- {place}{finding.cause}"
        if len(found) > examples:
            yield f"{'':9}- … and {len(found) - examples} more"
        yield ""


def _statistics(report: AuditReport) -> Iterator[str]:
    figures = report.statistics
    objects = figures["instances_per_image"]
    what = "classes" if report.source.task == "semantic" else "objects"
    yield f"{report.source.name} ({report.source.task}): {_number(figures['images'], 'image')} of " + (
        f"{_range(figures['image_height'])} × {_range(figures['image_width'])} pixels (height × width)"
    )
    queries = "" if objects["num_queries"] is None else f"; {_number(objects['num_queries'], 'query', 'queries')}"
    yield f"{what} an image: {objects['min']} to {objects['max']}, median {objects['median']:g}{queries}"
    shares = {"without label": figures["void_share"], "crowds": figures["crowd_share"]}
    shown = [f"{name} {share:.1%}" for name, share in shares.items() if share is not None]
    yield f"pixels: {', '.join(shown)}"
    yield ""
    yield f"{'images' if what == 'classes' else 'objects'} of each class:"
    yield from _histogram(figures["class_histogram"])


def _histogram(counts: dict[str, int]) -> Iterator[str]:
    """Rows with bars; of many classes the most and the least frequent."""
    ranked = sorted(counts.items(), key=lambda entry: -entry[1])
    half = _HISTOGRAM_ROWS // 2
    left_out = len(ranked) - _HISTOGRAM_ROWS
    width = max((len(name) for name in counts), default=0)
    for place, (name, count) in enumerate(ranked):
        if left_out > 0 and half <= place < half + left_out:
            if place == half:
                yield f"  … {left_out} classes between them …"
            continue
        yield f"  {name:{width}}  {count:>8}  {'█' * round(_BAR * count / max(ranked[0][1], 1))}".rstrip()


def _range(ends: dict[str, int]) -> str:
    return str(ends["min"]) if ends["min"] == ends["max"] else f"{ends['min']}–{ends['max']}"


def _number(count: int, singular: str, plural: str | None = None) -> str:
    return f"{count} {singular if count == 1 else plural or singular + 's'}"
