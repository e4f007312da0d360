"""Files converted to transformers and back: a checkpoint of the trainer, folders in every form, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

from mask2former_ext.checkpoint.hf import Parity, build_hf_peer, convert_to_d2, convert_to_hf, files, load_hf_model
from mask2former_ext.config import load_config
from mask2former_ext.engine import Trainer

NAME = "dataset_of_bridge_file_tests"
WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"


class TrainerWithoutData(Trainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return [[{}]]


@pytest.fixture
def cfg(tiny_cfg, tmp_path):
    DatasetCatalog.register(NAME, lambda: [{"file_name": "1.jpg", "sem_seg_file_name": "1.png", "image_id": 1}])
    MetadataCatalog.get(NAME).set(stuff_classes=["a", "b", "c"], ignore_label=255, evaluator_type="sem_seg")
    tiny_cfg.OUTPUT_DIR = str(tmp_path)
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TEST = (NAME,), ()
    tiny_cfg.SOLVER.update(IMS_PER_BATCH=1, MAX_ITER=3, WARMUP_ITERS=0, STEPS=())
    tiny_cfg.INPUT.MIN_SIZE_TEST = 64
    tiny_cfg.MODEL.RESNETS.update(DEPTH=50, STEM_OUT_CHANNELS=8, RES2_OUT_CHANNELS=16, WIDTH_PER_GROUP=4)
    yield tiny_cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def swin_cfg(tiny_cfg):
    tiny_cfg.MODEL.BACKBONE.NAME = "D2SwinTransformer"
    tiny_cfg.MODEL.SWIN.update(EMBED_DIM=8, DEPTHS=[1, 2, 1, 1], NUM_HEADS=[1, 2, 4, 8], WINDOW_SIZE=4)
    return tiny_cfg


@pytest.fixture
def folder(swin_cfg, tmp_path):
    """A folder of transformers with a small Swin model."""
    build_hf_peer(swin_cfg).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


def names_in(path):
    return sorted(entry.name for entry in Path(path).iterdir())


def rewrite(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def test_checkpoint_of_the_trainer_to_transformers_and_back(cfg, tmp_path):
    trainer = TrainerWithoutData(cfg)
    with torch.no_grad():
        for key, value in trainer.model.state_dict().items():
            if key.endswith(("running_mean", "running_var", "bias")):
                value.uniform_(0.5, 1.0)
    trainer.checkpointer.save("model_final", iteration=2)
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    image = np.random.randint(0, 256, (40, 60, 3), np.uint8)
    expected = DefaultPredictor(cfg)(image)

    report = convert_to_hf(cfg, cfg.MODEL.WEIGHTS, tmp_path / "hf")
    assert "model_final.pth: all" in report and "Parity: class logits differ by at most" in report
    assert "INPUT.FORMAT is BGR" in report
    assert names_in(tmp_path / "hf") == [CONFIG, WEIGHTS, PROCESSOR]
    assert json.loads((tmp_path / "hf" / CONFIG).read_text())["id2label"] == {"0": "a", "1": "b", "2": "c"}
    processor = AutoImageProcessor.from_pretrained(tmp_path / "hf")
    assert processor.size["shortest_edge"] == 64

    report = convert_to_d2(tmp_path / "hf", tmp_path / "back.pth")
    assert "SEMANTIC_ON, INSTANCE_ON, PANOPTIC_ON" in report and "Parity" in report
    content = torch.load(tmp_path / "back.pth", weights_only=True)
    assert content["class_names"] == ["a", "b", "c"]
    assert content["model"].keys() == trainer.model.state_dict().keys()
    for key, value in trainer.model.state_dict().items():
        assert torch.equal(content["model"][key], value), key
    converted = load_config(str(tmp_path / "back.yaml"))
    assert Path(converted.MODEL.WEIGHTS) == tmp_path / "back.pth" and converted.DATASETS.TRAIN == (NAME,)
    actual = DefaultPredictor(load_config(str(tmp_path / "back.yaml"), ["MODEL.DEVICE", "cpu"]))(image)
    assert torch.equal(actual["sem_seg"], expected["sem_seg"])
    assert torch.equal(actual["panoptic_seg"][0], expected["panoptic_seg"][0])
    assert torch.equal(actual["instances"].pred_masks, expected["instances"].pred_masks)

    convert_to_hf(converted, tmp_path / "back.pth", tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "hf" / WEIGHTS).read_bytes()
    assert (tmp_path / "again" / PROCESSOR).read_text() == (tmp_path / "hf" / PROCESSOR).read_text()


def test_shards_and_files_of_older_versions(folder, tmp_path, swin_cfg):
    reference, processor = load_hf_model(folder)
    assert processor is None and not reference.training
    on_disk = load_file(folder / WEIGHTS)
    assert any(".attention.self.query." in key for key in on_disk)  # the names that files have had all along
    rewrite(folder, lambda weights: [weights.pop(key) for key in list(weights) if "swin.layernorm" in key])
    assert len(load_file(folder / WEIGHTS)) == len(on_disk) - 2
    reference.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(names_in(tmp_path / "shards")) > 4
    for source in ("hf", "shards"):
        convert_to_d2(tmp_path / source, tmp_path / f"{source}.pth")
        content = torch.load(tmp_path / f"{source}.pth", weights_only=True)["model"]
        swin_cfg.MODEL.DEVICE = "cpu"
        build_model(swin_cfg).load_state_dict(content)
        table = "backbone.layers.1.blocks.1.attn.relative_position_bias_table"
        key = next(
            key for key in on_disk if "layers.1.blocks.1" in key and key.endswith("relative_position_bias_table")
        )
        assert torch.equal(content[table], on_disk[key])


def test_norm_that_nothing_reads_comes_back(folder, tmp_path):
    def change(weights):
        key = next(key for key in weights if key.endswith("layernorm.weight") and "pixel_level" in key)
        weights[key] = torch.arange(64.0)

    rewrite(folder, change)
    convert_to_d2(folder, tmp_path / "a.pth")
    convert_to_hf(load_config(str(tmp_path / "a.yaml")), tmp_path / "a.pth", tmp_path / "again")
    before, after = (load_file(tmp_path / name / WEIGHTS) for name in ("hf", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.update({"x.weight": w.pop("class_predictor.weight")}),
            "missing: class_predictor.weight(.|\n)*x.w",
        ),
        (lambda w: w.update({"class_predictor.bias": torch.ones(9)}), r"shape \(9,\) .* \(4,\) .*class_predictor.bias"),
    ],
)
def test_weights_that_do_not_fit_are_listed(folder, tmp_path, change, message):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=message):
        convert_to_d2(folder, tmp_path / "a.pth")
    assert names_in(tmp_path) == ["hf"]


def test_files_that_are_not_there(folder, tmp_path, swin_cfg):
    with pytest.raises(FileNotFoundError, match="no folder 'nowhere'"):
        load_hf_model("nowhere")
    with pytest.raises(FileNotFoundError, match=r"no folder .*hf/deeper"):
        load_hf_model(folder / "deeper")
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_hf_model(folder)
    (folder / CONFIG).unlink()
    with pytest.raises((FileNotFoundError, ValueError), match="hf"):
        load_hf_model(folder)
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.pth"):
        convert_to_hf(swin_cfg, tmp_path / "gone.pth", tmp_path / "out")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        convert_to_hf(swin_cfg, tmp_path / "gone.pth", tmp_path)


def test_models_of_another_type_are_refused(folder):
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**values, "model_type": "swin"}))
    with pytest.raises(ValueError, match="of the type 'swin', not 'mask2former'"):
        load_hf_model(folder)


def test_checkpoints_with_other_parameters_are_refused(swin_cfg, tmp_path):
    weights = build_model(swin_cfg).state_dict()
    source = tmp_path / "in.pth"

    def refused(changed, message):
        torch.save({"model": changed}, source)
        with pytest.raises(ValueError, match=message):
            convert_to_hf(swin_cfg, source, tmp_path / "out")
        assert names_in(tmp_path) == ["in.pth"]

    key = "backbone.layers.0.blocks.0.attn.qkv.weight"
    refused({k.replace("0.attn.qkv", "0.attn.qk"): v for k, v in weights.items()}, rf"{key} (.|\n)*0\.attn\.qk\.weight")
    head = "sem_seg_head.predictor.query_feat.weight"
    refused({k: v for k, v in weights.items() if k != head}, rf"missing: {head}")
    refused({**weights, "sem_seg_head.more": torch.ones(1)}, r"not used: sem_seg_head.*more")
    refused({k: v for k, v in weights.items() if k.startswith("backbone")}, "of a backbone alone")
    swin_cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    refused(weights, "META_ARCHITECTURE is 'GeneralizedRCNN'")


@pytest.mark.parametrize("value", [2e-3, float("nan")])
def test_nothing_is_written_when_predictions_differ(folder, tmp_path, swin_cfg, monkeypatch, value):
    torch.save(build_model(swin_cfg).state_dict(), tmp_path / "in.pth")
    before = names_in(tmp_path)
    monkeypatch.setattr(files, "compare", lambda *args, **kwargs: Parity(1.0, 0.0, 1.0, value))
    with pytest.raises(ValueError, match="The conversion is wrong, and nothing was written"):
        convert_to_d2(folder, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="The conversion is wrong, and nothing was written"):
        convert_to_hf(swin_cfg, tmp_path / "in.pth", tmp_path / "out")
    assert names_in(tmp_path) == before
    with pytest.raises(ValueError, match=r"ending \.pth"):
        convert_to_d2(folder, tmp_path / "a.pkl")
    with pytest.raises(FileNotFoundError, match=r"no folder .*deeper"):
        convert_to_d2(folder, tmp_path / "deeper" / "a.pth")


def test_the_one_config_that_fits_becomes_the_base(folder, tmp_path, swin_cfg):
    configs = tmp_path / "configs"
    configs.mkdir()
    peer, _ = load_hf_model(folder)
    peer.config.detectron2["TEST.DETECTIONS_PER_IMAGE"] = 5
    peer.config.save_pretrained(folder)
    (configs / "base.yaml").write_text(swin_cfg.dump())
    (configs / "fits.yaml").write_text("_BASE_: base.yaml\nSOLVER: {BASE_LR: 7.0}\n")
    (configs / "other.yaml").write_text("_BASE_: base.yaml\nMODEL: {SWIN: {DEPTHS: [1, 1, 1, 1]}}\n")
    report = convert_to_d2(folder, tmp_path / "a.pth", configs=configs)
    assert f"a.yaml (over {configs / 'fits.yaml'})" in report
    assert "_BASE_: configs/fits.yaml" in (tmp_path / "a.yaml").read_text()
    written = load_config(str(tmp_path / "a.yaml"))
    assert written.SOLVER.BASE_LR == 7.0 and written.TEST.DETECTIONS_PER_IMAGE == 5

    (configs / "too.yaml").write_text("_BASE_: base.yaml\n")
    report = convert_to_d2(folder, tmp_path / "b.pth", configs=configs)
    assert "choose with --config-file" in report and str(configs / "too.yaml") in report
    assert "_BASE_" not in (tmp_path / "b.yaml").read_text()
    report = convert_to_d2(folder, tmp_path / "b.pth", str(configs / "other.yaml"), ["SOLVER.MAX_ITER", "9"], configs)
    written = load_config(str(tmp_path / "b.yaml"))
    assert written.SOLVER.MAX_ITER == 9 and list(written.MODEL.SWIN.DEPTHS) == [1, 2, 1, 1]


def test_notes_on_training(cfg, tmp_path):
    cfg.MODEL.MASK_FORMER.DEEP_SUPERVISION, cfg.MODEL.MASK_FORMER.DROPOUT = False, 0.1
    cfg.MODEL.RESNETS.NORM = "FrozenBN"
    torch.save(build_model(cfg).state_dict(), tmp_path / "in.pth")
    report = convert_to_hf(cfg, tmp_path / "in.pth", tmp_path / "hf")
    assert all(f"{key} is" in report for key in ("DEEP_SUPERVISION", "RESNETS.NORM")) and "DROPOUT: transf" in report
    peer = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "hf", local_files_only=True)
    assert peer.config.dropout == 0.1 and peer.config.use_auxiliary_loss


def test_no_config_is_lost(folder, tmp_path, swin_cfg):
    """Least of all the one to start from, which would be left with itself as its base."""
    mine = tmp_path / "mine.yaml"
    mine.write_text(swin_cfg.dump())
    for config_file in (str(mine), ""):
        with pytest.raises(
            FileExistsError, match=r"mine\.yaml', where the converted config would go, is there already"
        ):
            convert_to_d2(folder, tmp_path / "mine.pth", config_file)
    assert mine.read_text() == swin_cfg.dump() and not (tmp_path / "mine.pth").exists()

    convert_to_d2(folder, tmp_path / "a.pth", str(mine))
    first = (tmp_path / "a.yaml").read_text()
    with pytest.raises(FileExistsError, match=r"a\.yaml"):
        convert_to_d2(folder, tmp_path / "a.pth", str(tmp_path / "a.yaml"))
    with pytest.raises(FileExistsError, match=r"a\.yaml"):  # chosen as the one that fits
        convert_to_d2(folder, tmp_path / "a.pth", configs=tmp_path)
    assert (tmp_path / "a.yaml").read_text() == first
    convert_to_d2(folder, tmp_path / "a.pth", str(mine), ["SOLVER.MAX_ITER", "9"])
    assert load_config(str(tmp_path / "a.yaml")).SOLVER.MAX_ITER == 9
