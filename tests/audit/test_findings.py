"""Findings as a whole: several at once, what they say, and that each kind is tested."""

import json
from pathlib import Path

from mask2former_ext.audit import KINDS


def test_several_faults_at_once_are_all_named(make):
    dataset = make("instance")
    dataset.image(2).unlink()
    dataset.annotation(21).update(segmentation=[[6, 4, 9, 4, 9, 9, 6, 9]], bbox=[6, 4, 3, 5], area=15)
    dataset.annotation(22)["segmentation"]["counts"] = "cut off"
    dataset.annotation(11)["category_id"] = 4
    report = dataset.audit(workers=2)
    assert {(finding.kind, finding.image_id, finding.annotation_id) for finding in report.findings} == {
        *(("image-missing", 2, None), ("mask-tiny", 2, 21), ("rle-invalid", 2, 22), ("category-unknown", 1, 11))
    }
    assert [finding.kind for finding in report.warnings] == ["mask-tiny"] and len(report.findings) == 4


def test_findings_say_cause_and_way_out(make):
    dataset = make("instance")
    dataset.annotation(21)["bbox"] = [6, 4, 26, 20]  # its corners
    (found,) = dataset.audit().findings
    assert str(found) == (
        f"{dataset.image(2)}, image_id 2, annotation 21: The box is [6.0, 4.0, 26.0, 20.0], that of the mask"
        " [6, 4, 20, 16]. A box is [x, y, width, height] in pixels of the image, around the mask. Compute them from the"
        " masks."
    )
    assert json.loads(json.dumps(found.to_json()))["severity"] == "warning"


def test_every_kind_is_expected_by_a_test():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [kind for kind in KINDS if f'"{kind}"' not in tests] == []
