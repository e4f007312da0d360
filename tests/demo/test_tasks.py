import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.demo.tasks import NOT_SHOWN, TASKS, choose_task, configure
from mask2former_ext.visualization.overlays import ThingNumbers, distinct_colour, varied_colour


@pytest.fixture
def cfg(tiny_cfg):
    return tiny_cfg


def switches(cfg):
    test = cfg.MODEL.MASK_FORMER.TEST
    return {"panoptic": test.PANOPTIC_ON, "instance": test.INSTANCE_ON, "semantic": test.SEMANTIC_ON}


def test_default_is_the_first_task_that_is_on(cfg):
    test = cfg.MODEL.MASK_FORMER.TEST
    assert choose_task(cfg, None) == "panoptic"
    test.PANOPTIC_ON = False
    assert choose_task(cfg, None) == "instance"
    test.INSTANCE_ON = False
    assert choose_task(cfg, None) == "semantic"
    assert choose_task(cfg, "panoptic") == "panoptic"
    test.SEMANTIC_ON = False
    with pytest.raises(ValueError, match="no task on"):
        choose_task(cfg, None)


def test_other_models_give_instances_with_masks():
    cfg = get_cfg_defaults()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON = "GeneralizedRCNN", True
    assert choose_task(cfg, None) == choose_task(cfg, "instance") == "instance"
    with pytest.raises(ValueError, match="GeneralizedRCNN gives instances only"):
        choose_task(cfg, "panoptic")
    cfg.MODEL.MASK_ON = False
    with pytest.raises(ValueError, match="without masks"):
        choose_task(cfg, None)


def test_only_what_the_task_needs_is_on(cfg):
    assert switches(configure(cfg, "panoptic", None)) == {"panoptic": True, "instance": False, "semantic": False}
    assert switches(configure(cfg, "semantic", None)) == {"panoptic": False, "instance": False, "semantic": True}
    # or stuff would be among the instances
    assert switches(configure(cfg, "instance", None)) == {"panoptic": True, "instance": True, "semantic": False}
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = False
    assert switches(configure(cfg, "instance", None)) == {"panoptic": False, "instance": True, "semantic": False}
    assert switches(cfg) == {"panoptic": False, "instance": True, "semantic": True}  # the argument is as it was


def test_thresholds_reach_the_model(cfg):
    cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD = 0.8
    assert configure(cfg, "panoptic", None).MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD == 0.8
    assert configure(cfg, "panoptic", 0.0).MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD == 0.0
    mask_rcnn = get_cfg_defaults()
    configured = [configure(mask_rcnn, "instance", threshold) for threshold in (None, 0.5, 0.01, 0.0)]
    assert [cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST for cfg in configured] == [0.05, 0.05, 0.01, 0.0]


@pytest.fixture
def instances():
    found = Instances((4, 6))
    found.pred_masks = torch.zeros(4, 4, 6, dtype=torch.bool)
    for index in range(4):
        found.pred_masks[index, index] = True
    found.scores = torch.tensor([0.0, 1.0, 0.3, 0.6])
    found.pred_classes = torch.tensor([0, 1, 1, 0])
    found.pred_boxes = Boxes(torch.zeros(4, 4))
    return {"instances": found}


@pytest.mark.parametrize(
    ("threshold", "scores"), [(0.0, [1.0, 0.6, 0.3, 0.0]), (0.3, [1.0, 0.6]), (0.99, [1.0]), (1.0, [])]
)
def test_instances_above_a_threshold(instances, threshold, scores):
    shown = TASKS["instance"].select(instances, threshold)
    assert shown.scores.tolist() == pytest.approx(scores)


def test_pixels_above_a_threshold():
    # the best class scores 0, 0.4, 1.7; sums over queries may be above 1
    scores = torch.tensor([[[0.0, 0.1, 1.7]], [[0.0, 0.4, 0.2]]])
    for threshold, expected in ((0.0, [0, 1, 0]), (0.4, [-1, -1, 0]), (0.39, [-1, 1, 0]), (1.0, [-1, -1, -1])):
        assert TASKS["semantic"].select({"sem_seg": scores}, threshold).tolist() == [expected]
    assert NOT_SHOWN == -1


METADATA = Metadata(
    thing_classes=["cat", "dog", "sky"],
    stuff_classes=["cat", "dog", "sky"],
    thing_colors=[[9, 9, 9]],  # things alone, as ADE20K numbers them: not by class
    stuff_colors=[[255, 0, 0], [0, 255, 0], [0, 0, 255]],
)


def test_panoptic_segments_in_the_data_sets_colours():
    ids = torch.tensor([[1, 1, 2], [3, 0, 4]], dtype=torch.int32)
    infos = [
        {"id": 1, "isthing": True, "category_id": 0},
        {"id": 2, "isthing": False, "category_id": 2},
        {"id": 3, "isthing": True, "category_id": 0},
        {"id": 4, "isthing": True, "category_id": 1},
    ]
    shown = TASKS["panoptic"].select({"panoptic_seg": (ids, infos)}, 0.7)
    segments, colours = TASKS["panoptic"].draw(shown, METADATA, ThingNumbers())
    assert [(s.label, s.is_thing, int(s.mask.sum())) for s in segments] == [
        ("cat", True, 2),
        ("sky", False, 1),
        ("cat", True, 1),
        ("dog", True, 1),
    ]
    assert colours[0] == (1, 0, 0) and colours[1] == (0, 0, 1)
    assert colours[2] not in colours[:2]  # another cat: close to red
    assert colours[2][0] > 0.6 and max(colours[2][1:]) < 0.5
    assert colours[3] == varied_colour((0, 1, 0), 2)
    without = Metadata(stuff_classes=METADATA.stuff_classes)
    assert TASKS["panoptic"].draw(shown, without, ThingNumbers())[1] == [distinct_colour(n) for n in (0, 2, 1, 2)]


def test_instances_have_scores_and_colours_of_their_own(instances):
    task = TASKS["instance"]
    segments, colours = task.draw(task.select(instances, 0.2), METADATA, ThingNumbers())
    assert [segment.label for segment in segments] == ["dog 100%", "cat 60%", "dog 30%"]
    assert [segment.mask[row].all() for segment, row in zip(segments, (1, 3, 2))] == [True] * 3
    assert colours == [distinct_colour(number) for number in range(3)]


def test_semantic_segments_leave_out_what_is_not_shown():
    segments, colours = TASKS["semantic"].draw(np.array([[2, -1], [0, 2]]), METADATA, ThingNumbers())
    assert [(segment.label, segment.mask.tolist()) for segment in segments] == [
        ("cat", [[False, False], [True, False]]),
        ("sky", [[True, False], [False, True]]),
    ]
    assert colours == [(1, 0, 0), (0, 0, 1)]
