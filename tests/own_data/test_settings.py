"""What a config needs for data of one's own: classes, task, sizes, schedule, weights; and bases that do not suit."""

from pathlib import Path

import pytest

from mask2former_ext.config import load_config
from mask2former_ext.own_data.settings import check_suits, own_config
from mask2former_ext.own_data.sources import read_source

CONFIGS = Path(__file__).parents[2] / "configs"
MASK2FORMER = str(CONFIGS / "coco" / "instance-segmentation" / "maskformer2_R50_bs16_50ep.yaml")
ADE20K = str(CONFIGS / "ade20k" / "semantic-segmentation" / "maskformer2_R50_bs16_160k.yaml")
CITYSCAPES = str(CONFIGS / "cityscapes" / "panoptic-segmentation" / "maskformer2_R50_bs16_90k.yaml")
MASK_RCNN = str(CONFIGS / "coco" / "instance-segmentation" / "mask_rcnn_R50_FPN_bs16_160k.yaml")


@pytest.fixture
def adapted(data):
    """A function: base, task and overrides → the config; training starts from random weights."""

    def adapt(base, task, *overrides, copies=1, **options):
        source = read_source(task, data["images"], data[task])
        source.content["images"] += [
            image | {"file_name": f"{k}-{image['file_name']}"}
            for k in range(1, copies)
            for image in source.content["images"][:10]
        ]
        options = {"weights": "", "epochs": None, "processes": 1} | options
        return own_config(base, [str(item) for item in overrides], source, **options)

    return adapt


@pytest.mark.parametrize(
    ("base", "task", "mapper"),
    [
        (MASK2FORMER, "instance", "coco_instance_lsj"),
        (MASK2FORMER, "panoptic", "coco_panoptic_lsj"),
        (MASK2FORMER, "semantic", "mask_former_semantic"),
        (ADE20K, "instance", "mask_former_instance"),
        (ADE20K, "panoptic", "mask_former_panoptic"),
        (ADE20K, "semantic", "mask_former_semantic"),
    ],
)
def test_every_base_serves_every_task(adapted, base, task, mapper):
    cfg = adapted(base, task)
    test = cfg.MODEL.MASK_FORMER.TEST
    on = {"instance": test.INSTANCE_ON, "panoptic": test.PANOPTIC_ON, "semantic": test.SEMANTIC_ON}
    assert [key for key, value in on.items() if value] == [task]
    classes = 2 if task == "instance" else 3
    assert classes == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert mapper == cfg.INPUT.DATASET_MAPPER_NAME


def test_mask_rcnn_gets_its_classes_and_keeps_polygons(adapted, data):
    cfg = adapted(MASK_RCNN, "instance")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert cfg.INPUT.MASK_FORMAT == "polygon"
    code = {"segmentation": {"size": [48, 60], "counts": "0"}}
    source = read_source("instance", data["images"], data["instance"])
    source.content["annotations"][3] |= code
    assert own_config(MASK_RCNN, [], source, weights="", epochs=None, processes=1).INPUT.MASK_FORMAT == "bitmask"


@pytest.mark.parametrize(
    ("overrides", "task", "message"),
    [
        ([], "panoptic", "GeneralizedRCNN, does no panoptic segmentation.*Mask2Former's"),
        ([], "semantic", "GeneralizedRCNN, does no semantic segmentation"),
        (["MODEL.MASK_ON", "False"], "instance", "has no masks"),
        (
            ["MODEL.META_ARCHITECTURE", "PanopticFPN"],
            "panoptic",
            "its model is PanopticFPN; own data are for MaskFormer",
        ),
    ],
)
def test_bases_that_do_not_suit_are_refused(overrides, task, message):
    with pytest.raises(ValueError, match=message):
        check_suits(load_config(MASK_RCNN, overrides), task, MASK_RCNN)


def test_small_images_shrink_all_sizes_alike(adapted):
    cfg = adapted(ADE20K, "semantic")  # of 512 pixels; the images have 48
    assert cfg.INPUT.MIN_SIZE_TEST == 96
    assert (cfg.INPUT.MIN_SIZE_TRAIN[0], cfg.INPUT.MIN_SIZE_TRAIN[-1]) == (48, 192)
    assert (cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TEST) == (384, 384)
    assert tuple(cfg.INPUT.CROP.SIZE) == (96, 96)
    assert cfg.INPUT.SIZE_DIVISIBILITY == 96
    assert cfg.TEST.AUG.MIN_SIZES[0] == 48
    jittered = adapted(MASK2FORMER, "instance")  # of 800 pixels
    assert (jittered.INPUT.IMAGE_SIZE, jittered.INPUT.MIN_SIZE_TEST) == (128, 96)


def test_sizes_of_images_that_are_hardly_enlarged_stay(adapted):
    cfg = adapted(ADE20K, "semantic", "INPUT.MIN_SIZE_TEST", 96)
    assert cfg.INPUT.MIN_SIZE_TRAIN == load_config(ADE20K).INPUT.MIN_SIZE_TRAIN
    assert cfg.INPUT.SIZE_DIVISIBILITY == 512


def test_semantic_crops_replace_large_scale_jittering(adapted):
    cfg = adapted(MASK2FORMER, "semantic")
    assert cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.TYPE == "absolute"
    assert tuple(cfg.INPUT.CROP.SIZE) == (96, 96)
    assert (cfg.INPUT.MIN_SIZE_TRAIN[0], cfg.INPUT.MIN_SIZE_TRAIN[-1]) == (48, 192)


def test_the_schedule_follows_the_size_of_the_data(adapted, base):
    # the base: batches of 4 at a rate of 0.001, 40 iterations with steps at 20 and 36, 3 of them to warm up
    solver = adapted(base, "instance", copies=10).SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR) == (2, 0.0005)
    assert solver.MAX_ITER == 50 * 100 // 2
    assert tuple(solver.STEPS) == (1250, 2250)
    assert (solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD) == (3, 250)
    assert adapted(base, "instance", copies=10).TEST.EVAL_PERIOD == 250


def test_small_data_are_gone_through_more_often_unless_epochs_are_given(adapted, base):
    assert adapted(MASK2FORMER, "instance").SOLVER.MAX_ITER == 2000
    assert adapted(base, "instance", "SOLVER.MAX_ITER", 7).SOLVER.MAX_ITER == 7
    solver = adapted(MASK2FORMER, "instance", epochs=2).SOLVER
    assert (solver.MAX_ITER, solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD) == (10, 1, 1)
    assert tuple(solver.STEPS) == (9,)  # at 8/9; that at 26/27 would come with the end


def test_several_processes_have_larger_batches(adapted, base):
    solver = adapted(MASK2FORMER, "instance", processes=3).SOLVER
    assert solver.IMS_PER_BATCH == 6
    assert round(solver.BASE_LR, 12) == 0.0000375
    assert adapted(base, "instance", processes=3).SOLVER.IMS_PER_BATCH == 3
    with pytest.raises(ValueError, match=r"SOLVER\.IMS_PER_BATCH is 4, which 3 processes cannot share"):
        adapted(base, "instance", "SOLVER.IMS_PER_BATCH", 4, processes=3)


def test_overrides_stand(adapted, base):
    cfg = adapted(
        base,
        "instance",
        *("SOLVER.IMS_PER_BATCH", 8, "SOLVER.MAX_ITER", 200, "TEST.EVAL_PERIOD", 3, "MODEL.RESNETS.DEPTH", 34),
        *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 11, "MODEL.WEIGHTS", ""),
        weights="nowhere.pth",
    )
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, tuple(cfg.SOLVER.STEPS)) == (0.002, 200, (100, 180))
    assert (cfg.TEST.EVAL_PERIOD, cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == (3, 34, 11)
    assert cfg.MODEL.WEIGHTS == ""


def test_what_the_base_expects_and_scales_by_is_dropped(adapted):
    quickstart = str(CONFIGS / "quickstart" / "maskformer2_R18_coins.yaml")
    assert load_config(quickstart).TEST.EXPECTED_RESULTS
    cfg = adapted(quickstart, "instance", "MODEL.MASK_FORMER.DEC_LAYERS", 3)
    assert cfg.TEST.EXPECTED_RESULTS == []
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH) == (600, 0.0004, 2)


def test_without_a_gpu_norms_and_device_are_those_of_the_cpu(adapted, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cfg = adapted(CITYSCAPES, "panoptic")
    assert (cfg.MODEL.DEVICE, cfg.MODEL.RESNETS.NORM) == ("cpu", "BN")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    cfg = adapted(CITYSCAPES, "panoptic")
    assert (cfg.MODEL.DEVICE, cfg.MODEL.RESNETS.NORM) == ("cuda", "SyncBN")


def test_weights_are_files_or_downloaded_later(adapted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start.pth").touch()
    assert Path(adapted(MASK2FORMER, "instance", weights="start.pth").MODEL.WEIGHTS) == tmp_path / "start.pth"
    assert adapted(MASK2FORMER, "instance", weights=None).MODEL.WEIGHTS.startswith("detectron2://ImageNetPretrained")
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: these weights.*--weights FILE"):
        adapted(MASK2FORMER, "instance", weights="gone.pth")
    with pytest.raises(FileNotFoundError, match=r"of_the_base\.pth: these weights"):
        adapted(MASK2FORMER, "instance", "MODEL.WEIGHTS", "of_the_base.pth", weights=None)


@pytest.mark.parametrize("epochs", [0, -1, float("inf"), float("nan")])
def test_epochs_that_never_end_or_begin_are_refused(adapted, epochs):
    with pytest.raises(ValueError, match=f"--epochs is {epochs:g}; it must be above 0, and finite"):
        adapted(MASK2FORMER, "instance", epochs=epochs)


@pytest.mark.parametrize("batch", [0, -2])
def test_batches_without_images_are_refused(adapted, batch):
    with pytest.raises(ValueError, match=rf"SOLVER\.IMS_PER_BATCH is {batch}; it must be 1 or more"):
        adapted(MASK2FORMER, "instance", "SOLVER.IMS_PER_BATCH", batch)
