"""Files of each format, run at sizes that they were not captured at, against the model's own results."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import onnx
import onnxruntime
import pytest
import torch
from detectron2.data import Metadata
from detectron2.modeling import build_model
from torch import nn
from torch.fx.experimental import _config

from mask2former_ext.export import (
    TASKS,
    ExportableModel,
    export_model,
    exporter,
    load_onnx,
    load_torch_export,
    load_torchscript,
)
from mask2former_ext.export.capture import SETTING
from mask2former_ext.export.module import plain_operator
from mask2former_ext.export.verify import verification_images

# batch, height, width: none of them that of the example
SIZES = [(1, 96, 128), (1, 100, 75), (2, 67, 130)]
EXAMPLE = (64, 96)
SMALL = ["MODEL.MASK_FORMER.DEC_LAYERS", 2, "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", 0.3]
SWIN = [
    *("MODEL.BACKBONE.NAME", "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM", 16, "MODEL.SWIN.DEPTHS", [2, 1, 1, 1]),
    *("MODEL.SWIN.NUM_HEADS", [2, 2, 4, 4], "MODEL.SWIN.WINDOW_SIZE", 5),
]
TOLERANCE = 1e-3
captures = pytest.mark.skipif(not hasattr(_config, SETTING), reason="needs torch 2.9; older ones are refused by name")


@pytest.fixture
def model(tiny_cfg):
    tiny_cfg.merge_from_list(SMALL)
    return build_model(tiny_cfg).eval()


def assert_same_as_the_model(model, run, tasks):
    for size in SIZES:
        images = verification_images(size, 3)
        found = run(images)
        with torch.no_grad():
            results = model([{"image": image} for image in images])
            predictions = model.sem_seg_head(model.backbone(model._preprocess([{"image": x} for x in images]).tensor))
        for name in ("pred_logits", "pred_masks") if "raw" in tasks else ():
            assert_close(found[name], predictions[name])
        for index, result in enumerate(results):
            if "semantic" in tasks:
                assert_close(found["sem_seg"][index], result["sem_seg"])
            if "panoptic" in tasks:
                assert_same_segments({name: value[index] for name, value in found.items()}, *result["panoptic_seg"])
            if "instance" in tasks:
                assert_same_instances({name: value[index] for name, value in found.items()}, result["instances"])


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert ((found - expected).abs().max() / expected.abs().max()).item() <= TOLERANCE


def assert_same_segments(found, segmentation, segments):
    assert (found["panoptic_seg"] != segmentation).float().mean() <= TOLERANCE
    assert found["segment_valid"].sum() == len(segments) > 0
    classes = found["segment_classes"][: len(segments)].tolist()
    assert classes == [segment["category_id"] for segment in segments]


def assert_same_instances(found, instances):
    valid = found["instance_valid"]
    assert 0 < valid.sum() == len(instances) < len(valid)  # stuff classes are left out
    ours = found["instance_scores"].where(valid, -1).argsort(descending=True)[: len(instances)]
    theirs = instances.scores.argsort(descending=True)
    assert_close(found["instance_scores"][ours], instances.scores[theirs])
    assert found["instance_classes"][ours].equal(instances.pred_classes[theirs])
    assert_close(found["instance_boxes"][ours], instances.pred_boxes.tensor[theirs])
    assert (found["instance_masks"][ours] != instances.pred_masks[theirs]).float().mean() <= TOLERANCE


@captures
def test_onnx_of_all_tasks(model, tmp_path):
    path = tmp_path / "new" / "model.onnx"
    report = export_model(model, path, format="onnx", tasks=TASKS, size=EXAMPLE, input_format="RGB")
    assert report.largest.value <= 1e-3 and report.files == {path: path.stat().st_size}
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    loaded = load_onnx(path)
    assert_same_as_the_model(model, loaded.run, TASKS)

    metadata = loaded.metadata
    assert metadata["input_format"] == "RGB" and metadata["height"] == "any" and metadata["needs"] == ""
    assert json.loads(metadata["class_names"]) == ["class 0", "class 1", "class 2"]
    assert json.loads(metadata["thresholds"]) == {"object_mask_threshold": 0.3, "overlap_threshold": 0.0}
    assert json.loads(metadata["thing_classes"]) == [0, 1] and json.loads(metadata["tasks"]) == list(TASKS)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(each.name, each.shape) for each in session.get_inputs()] == [("images", ["batch", 3, "height", "width"])]
    assert [each.name for each in session.get_outputs()] == list(json.loads(metadata["outputs"]))
    domains = {opset.domain: opset.version for opset in onnx.load(path).opset_import}
    assert domains == {"": 20}


@captures
def test_onnx_of_a_swin_transformer(tiny_cfg, tmp_path):
    tiny_cfg.merge_from_list([*SMALL, *SWIN])
    model = build_model(tiny_cfg).eval()
    report = export_model(model, tmp_path / "model.onnx", format="onnx", size=EXAMPLE)
    assert report.largest.value <= 1e-3
    assert_same_as_the_model(model, load_onnx(tmp_path / "model.onnx").run, ["raw"])


@captures
def test_torch_export_of_a_swin_transformer_keeps_the_operator(tiny_cfg, tmp_path):
    tiny_cfg.merge_from_list([*SMALL, *SWIN])
    model = build_model(tiny_cfg).eval()
    path = tmp_path / "model.pt2"
    export_model(model, path, format="torch_export", size=EXAMPLE)
    loaded = load_torch_export(path)
    assert_same_as_the_model(model, loaded.run, ["raw"])
    assert loaded.metadata["needs"] == "mask2former_ext"
    assert "mask2former_ext.ms_deform_attn" in str(torch.export.load(path).graph)


@captures
def test_torch_export_that_loads_anywhere(model, tmp_path):
    path = tmp_path / "model.pt2"
    export_model(model, path, format="torch_export", size=(70, 90), static=True, reference_op=True)
    assert load_torch_export(path).metadata["needs"] == ""
    code = (
        "import sys, torch; program = torch.export.load(sys.argv[1]); "
        "outputs = program.module()(torch.zeros(1, 3, 70, 90)); "
        "assert 'mask2former_ext' not in sys.modules; print(tuple(outputs['pred_masks'].shape))"
    )
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, cwd=tmp_path, timeout=200)
    assert ran.stdout.strip() == "(1, 10, 24, 24)", ran.stderr


@pytest.mark.parametrize("options", [SMALL, SMALL + SWIN])
def test_torchscript(tiny_cfg, tmp_path, options):
    tiny_cfg.merge_from_list(options)
    model = build_model(tiny_cfg).eval()
    path = tmp_path / "model.pt"
    export_model(model, path, format="torchscript", tasks=["raw", "panoptic"], size=EXAMPLE)
    loaded = load_torchscript(path)
    assert_same_as_the_model(model, loaded.run, ["raw", "panoptic"])
    assert json.loads(loaded.metadata["size_divisibility"]) == 32


def test_one_size(model, tmp_path):
    report = export_model(model, tmp_path / "model.ts", format="torchscript", size=(70, 90), static=True)
    assert {difference.size for difference in report.differences} == {(1, 70, 90)}
    metadata = load_torchscript(tmp_path / "model.ts").metadata
    assert [metadata[name] for name in ("batch", "height", "width")] == ["1", "70", "90"]
    assert metadata["thresholds"] == "{}"  # nothing was chosen by them


def test_a_file_that_differs_is_not_kept(model, tmp_path, monkeypatch):
    def load(path):
        loaded = load_torchscript(path)
        return replace(loaded, run=lambda images: {k: v * 1.01 for k, v in loaded.run(images).items()})

    monkeypatch.setitem(exporter.FORMATS, "torchscript", replace(exporter.FORMATS["torchscript"], load=load))
    path = tmp_path / "model.pt"
    path.write_text("of before")
    with pytest.raises(ValueError, match=r"differs too much: pred_\w+ at .* by 0.01, above the tolerance 0.001"):
        export_model(model, path, format="torchscript", size=EXAMPLE)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"] and path.read_text() == "of before"
    export_model(model, path, format="torchscript", size=EXAMPLE, tolerance=0.02)
    assert path.stat().st_size > 1000


def test_an_older_torch_is_refused_by_name(model, tmp_path, monkeypatch):
    monkeypatch.setattr("mask2former_ext.export.capture.SETTING", "of_a_later_torch")
    with pytest.raises(ImportError, match=rf"needs torch 2\.9 or newer, this is {re.escape(torch.__version__)}"):
        export_model(model, tmp_path / "model.pt2", format="torch_export", size=EXAMPLE)
    assert not list(tmp_path.iterdir())


def test_wrong_arguments(model, tmp_path):
    def refused(name, **arguments):
        with pytest.raises(ValueError) as error:
            export_model(model, tmp_path / name, **{"format": "onnx", **arguments})
        assert not list(tmp_path.iterdir())
        return str(error.value)

    assert "must end in .onnx" in refused("model.pt")
    assert "--size H W" in refused("model.onnx", static=True)
    assert "opset 15 has no GridSample" in refused("model.onnx", opset=15, size=EXAMPLE)
    assert "--size 64 32: " in refused("model.pt2", format="torch_export", size=(64, 32))
    assert "--opset is ONNX's" in refused("model.pt2", format="torch_export", opset=18)
    assert "format 'tflite' is unknown" in refused("model.tflite", format="tflite")
    assert "must be among ['raw'" in refused("model.onnx", tasks=["depth"])
    model.train()
    assert "call model.eval() first" in refused("model.onnx")


def test_a_folder_is_no_file_to_write(model, tmp_path):
    (tmp_path / "model.pt").mkdir()
    with pytest.raises(ValueError, match=r"model\.pt' is a folder"):
        export_model(model, tmp_path / "model.pt", format="torchscript", size=EXAMPLE)


def test_a_dataset_may_have_more_classes_than_the_model(model):
    model.metadata = Metadata(thing_dataset_id_to_contiguous_id={1: 2, 2: 3, 3: 79})
    assert ExportableModel(model, ["panoptic"]).is_thing.tolist() == [False, False, True]


def test_stuff_is_left_out_of_instances_with_panoptic_results_alone(model):
    images = verification_images((1, *EXAMPLE), 3)
    with torch.no_grad():
        things = ExportableModel(model, ["instance"])(images)
        model.panoptic_on = False
        everything = ExportableModel(model, ["instance"])(images)
    assert (things["instance_valid"] == (things["instance_classes"] < 2)).all() and not things["instance_valid"].all()
    assert everything["instance_valid"].all()


def test_plain_operator_is_the_operator_and_ends_with_the_block(model):
    module = ExportableModel(model, ["raw"])
    images = verification_images((2, 96, 64), 3)
    with torch.no_grad():
        expected = module(images)
        with plain_operator(module):
            found = module(images)
            assert module.sem_seg_head.pixel_decoder.transformer.plain_operator
    assert not module.sem_seg_head.pixel_decoder.transformer.plain_operator
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


@captures
def test_weights_beside_the_file(model, tmp_path, monkeypatch):
    """The size from which weights go into a file of their own is torch's; here it is set to nothing."""
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 0)
    monkeypatch.setattr(exporter, "ExportableModel", OneConvolution)
    path = tmp_path / "model.onnx"
    report = export_model(model, path, format="onnx", size=EXAMPLE)
    data = tmp_path / "model.onnx.data"
    assert report.files == {path: path.stat().st_size, data: data.stat().st_size}
    assert data.stat().st_size >= 4 * 64 * 3 * 9 > path.stat().st_size / 4
    assert load_onnx(path).run(torch.zeros(1, 3, 8, 8))["pred_masks"].shape == (1, 64, 6, 6)


class OneConvolution(nn.Module):
    """Stands in for the model, which would take long to export."""

    tasks = ["raw"]
    outputs = {"pred_masks": ""}
    size_divisibility = 32

    def __init__(self, model, tasks):
        super().__init__()
        self.convolution = nn.Conv2d(3, 64, 3)
        self.is_thing = torch.zeros(0, dtype=torch.bool)

    def forward(self, images):
        return {"pred_masks": self.convolution(images / 255)}
