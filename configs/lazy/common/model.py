"""Mask2Former with ResNet-50. Numbers that several parts share stand once; the others refer to them."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BasicStem, ResNet

from mask2former_ext.lazy import dataset_metadata
from mask2former_ext.modeling import (
    HungarianMatcher,
    MaskFormer,
    MaskFormerHead,
    MSDeformAttnPixelDecoder,
    MultiScaleMaskedTransformerDecoder,
    SetCriterion,
)

FEATURES = ("res2", "res3", "res4", "res5")


def features(channels):
    """Shapes of the backbone's features, of which the first has so many channels."""
    shapes = {name: L(ShapeSpec)(channels=channels << i, stride=4 << i) for i, name in enumerate(FEATURES)}
    return L("builtins.dict")(**shapes)  # OmegaConf does not take dict itself


model = L(MaskFormer)(
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="${..stem.norm}"),
        out_features=FEATURES,
    ),
    sem_seg_head=L(MaskFormerHead)(
        input_shape=features(256),
        num_classes=133,
        pixel_decoder=L(MSDeformAttnPixelDecoder)(
            input_shape="${..input_shape}",
            transformer_in_features=FEATURES[1:],
            transformer_enc_layers=6,
            transformer_nheads=8,
            transformer_npoints=4,
            transformer_dropout=0.0,
            conv_dim=256,
            mask_dim=256,
            norm="GN",
            common_stride=4,
        ),
        predictor=L(MultiScaleMaskedTransformerDecoder)(
            in_channels="${..pixel_decoder.conv_dim}",
            num_classes="${..num_classes}",
            hidden_dim=256,
            num_queries="${...num_queries}",
            nheads=8,
            dim_feedforward=2048,
            dec_layers=9,
            pre_norm=False,
            mask_dim="${..pixel_decoder.mask_dim}",
            enforce_input_project=False,
        ),
    ),
    criterion=L(SetCriterion)(
        num_classes="${..sem_seg_head.num_classes}",
        matcher=L(HungarianMatcher)(
            class_weight="${..class_weight}",
            mask_weight="${..mask_weight}",
            dice_weight="${..dice_weight}",
        ),
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
        no_object_weight=0.1,
        num_points=112 * 112,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        deep_supervision=True,
    ),
    num_queries=100,
    object_mask_threshold=0.8,
    overlap_threshold=0.8,
    metadata=L(dataset_metadata)(name="${dataloader.train.dataset.names}"),
    size_divisibility=32,
    sem_seg_postprocess_before_inference=True,
    pixel_mean=[123.675, 116.280, 103.530],
    pixel_std=[58.395, 57.120, 57.375],
    semantic_on=True,
    panoptic_on=True,
    instance_on=True,
    test_topk_per_image=100,
    max_memory_mb=64,
    compile=False,
)


def semantic_only(model):
    """Semantic results alone, of masks that are resized after their classes are summed."""
    model.update(panoptic_on=False, instance_on=False, sem_seg_postprocess_before_inference=False)
