"""The images of a dataset taken together: statistics, and what only all of them show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from .findings import KINDS, Finding, printable
from .image_checks import ImageReport, Rules, listed
from .sources import Item, Source

HIGH_SHARE = 0.5


class Summary:
    """Takes the report of every image in turn.

    Attributes:
        digests: digest of a file → its path, the first of each.
    """

    def __init__(self, source: Source, rules: Rules) -> None:
        self._source = source
        self._rules = rules
        self._findings = list(source.findings)
        self._objects: list[int] = []
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._counts: Counter[int] = Counter()
        self._pixels: Counter[int] = Counter()
        self._areas: Counter[str] = Counter()
        self.digests: dict[bytes, str] = {}

    def add(self, item: Item, report: ImageReport) -> None:
        """Take the next image."""
        self._findings += report.findings
        self._objects.append(report.objects)
        self._counts.update(report.counts)
        self._pixels.update(report.pixels)
        self._areas.update({"all": report.measured, "void": report.void, "crowd": report.crowd})
        if report.size is not None:
            self._sizes[report.size] += 1
        if report.digest is not None:
            same = self.digests.setdefault(report.digest, item.image)
            if same != item.image:
                cause = f"The file is the same as {same}."
                self._findings.append(Finding("image-repeated", cause, item.image, item.image_id))
        if self._source.task != "semantic" and not item.annotations:
            cause = "The image has no annotations."
            self._findings.append(Finding("image-without-annotations", cause, item.image, item.image_id))

    def findings(self) -> list[Finding]:
        """All findings, those of one kind together, in the order of ``KINDS``."""
        advice = self._advice_on_labels()
        findings = [
            replace(finding, cause=f"{finding.cause}{advice}") if finding.kind == "label-outside-range" else finding
            for finding in self._findings
        ]
        findings += self._of_the_whole(without_first=bool(advice))
        order = {kind: place for place, kind in enumerate(KINDS)}
        return sorted(findings, key=lambda finding: order[finding.kind])

    def statistics(self) -> dict[str, Any]:
        """Figures of the dataset, as JSON has them. Shares are of pixels, None where the task has none."""
        objects, queries = np.array(self._objects), self._rules.num_queries
        heights, widths = zip(*self._sizes, strict=True) if self._sizes else ((0,), (0,))
        has_pngs, is_semantic = self._source.task != "instance", self._source.task == "semantic"
        labelled = self._areas["all"] - self._areas["void"]
        listed_objects = sum(len(item.annotations) for item in self._source.items)
        pixel_share = {name: pixels / max(labelled, 1) for name, pixels in self._of_names(self._pixels).items()}
        return {
            "images": len(self._source.items),
            "annotations": int(objects.sum()) if is_semantic else listed_objects,
            "classes": len(self._names()),
            "class_histogram": self._of_names(self._counts),
            "class_pixel_share": pixel_share if has_pngs else None,
            "void_share": self._share("void") if has_pngs else None,
            "crowd_share": None if is_semantic else self._share("crowd"),
            "instances_per_image": {
                "min": int(objects.min()),
                "median": float(np.median(objects)),
                "mean": float(objects.mean()),
                "max": int(objects.max()),
                "num_queries": queries,
                "images_above": 0 if queries is None else int((objects > queries).sum()),
            },
            "image_height": {"min": min(heights), "max": max(heights)},
            "image_width": {"min": min(widths), "max": max(widths)},
        }

    def _names(self) -> dict[int, str]:
        known = {number: printable(category.name) for number, category in self._source.categories.items()}
        return known or {label: str(label) for label in sorted(self._counts)}

    def _of_names(self, figures: Counter[int]) -> dict[str, int]:
        """Figures of categories as those of classes: categories of one name are taken together."""
        of_names: Counter[str] = Counter()
        for number, name in self._names().items():
            of_names[name] += figures[number]
        return dict(of_names)

    def _share(self, of: str) -> float:
        return self._areas[of] / max(self._areas["all"], 1)

    def _has_wrong_labels(self) -> bool:
        return any(finding.kind == "label-outside-range" for finding in self._findings)

    def _advice_on_labels(self) -> str:
        """What to add when semantic labels seem to be numbered from 1."""
        if not self._has_wrong_labels() or self._counts[0]:
            return ""
        return (
            " No file has the label 0: if labels were numbered from 1, subtract 1 from each, and write what was 0"
            f" (unlabelled) as {self._source.ignore_label}."
        )

    def _of_the_whole(self, *, without_first: bool) -> Iterator[Finding]:
        name, names = self._source.name, self._names()
        unused = [names[number] for number in names if not self._counts[number] and not (without_first and number == 0)]
        if unused:
            cause = f"{len(unused)} of {len(names)} classes have no annotation: {listed(unused)}."
            yield Finding("class-without-annotations", cause, name)
        if self._source.task == "semantic" and len(self._counts) == 1 and not self._has_wrong_labels():
            yield self._one_class(next(iter(self._counts)))
        elif self._share("void") > HIGH_SHARE:
            yield Finding("void-share-high", f"{self._share('void'):.0%} of all pixels have no label.", name)
        if self._share("crowd") > HIGH_SHARE:
            yield Finding("crowd-share-high", f"{self._share('crowd'):.0%} of all pixels are crowds.", name)

    def _one_class(self, label: int) -> Finding:
        ignore = self._source.ignore_label
        if not self._areas["void"]:
            return Finding("one-class-only", f"Every pixel has the label {label}.", self._source.name)
        cause = (
            f"The only label is {label}, and all other pixels have the ignore label {ignore}. A model that knows one"
            " class predicts it everywhere."
        )
        if (label, ignore) == (0, 255):
            cause += (
                " If these are black and white masks, 255 is the object, which is ignored here, and 0 the background:"
                " write the object as 1."
            )
        return Finding("one-class-with-ignore", cause, self._source.name)
