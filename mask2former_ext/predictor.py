"""From images to results in one call.

Shapes: H, W of an image as it is given, C = 3 colours, K classes, N instances.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.modeling import build_model
from PIL import Image
from torch import Tensor, nn

from .checkpoint import build_checkpointer
from .classes import STUFF, THING, class_names, listed_colours, listed_names
from .config import is_maskformer, load_config
from .data.index_maps import IndexMapInput
from .data.reading import upright
from .modeling import MaskFormer

logger = logging.getLogger(__name__)

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray

CHANNEL_ORDERS = ("RGB", "BGR")
MAX_LISTED = 3


class Predictor:
    """A trained model that takes images: Mask2Former, Mask R-CNN or another of Detectron2's.

    Example::

        predictor = Predictor("configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml", "model_final.pth")
        panoptic_seg, segments_info = predictor("photo.jpg")["panoptic_seg"]
        names = [predictor.metadata.stuff_classes[info["category_id"]] for info in segments_info]

    It may be called from several threads, which then take turns.

    Attributes:
        cfg: the config, frozen, with ``weights``, ``opts`` and ``device`` in it.
        model: in evaluation mode.
        metadata: names and colours of the classes, see :func:`class_metadata`.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | CfgNode,
        weights: str | os.PathLike[str] | None = None,
        *,
        opts: Sequence[Any] = (),
        device: str | torch.device | None = None,
    ) -> None:
        """Build the model and load its weights.

        Args:
            config: path of a YAML config, or a config.
            weights: a checkpoint of the whole model, a file or URL; by default the config's ``MODEL.WEIGHTS``.
            opts: alternating keys and values that override the config's, for example
                ``["MODEL.MASK_FORMER.TEST.INSTANCE_ON", True]``.
            device: by default the GPU where there is one, else the CPU, whatever ``MODEL.DEVICE`` of the config says;
                in ``opts`` it counts.

        Raises:
            FileNotFoundError: there is no such config or checkpoint.
            ValueError: the config cannot be read, the device is not there, or the checkpoint does not hold all that the
                model needs.
        """
        self.cfg = _settings(config, weights, opts, device)
        if self.cfg.INPUT.FORMAT not in CHANNEL_ORDERS:
            raise ValueError(f"INPUT.FORMAT is {self.cfg.INPUT.FORMAT!r}, but images come as {CHANNEL_ORDERS} only.")
        self.metadata = class_metadata(self.cfg)
        self.model = load_trained_model(self.cfg)
        if isinstance(self.model, MaskFormer) and not self.model.thing_classes:
            self.model.metadata = self.metadata  # the training set is not known here, the test set may be
        size = self.cfg.INPUT.MIN_SIZE_TEST
        self._resize = T.ResizeShortestEdge([size, size], self.cfg.INPUT.MAX_SIZE_TEST)
        self._turn = threading.Lock()

    def __call__(self, image: ImageLike, *, channels: str = "RGB") -> dict[str, Any]:
        """Results of one image.

        Args:
            image: a file (its EXIF orientation is applied; of 16 bits the higher 8 count, as in training), a PIL image
                (likewise), or a uint8 array H×W×3 or, in grey, H×W.
            channels: order of the colours in an array, "RGB" or "BGR".

        Returns:
            Detectron2's dict of results, on H×W, on the model's device: as the config has them on, ``panoptic_seg``
            (int32 H×W and a list of segments), ``instances`` (``pred_masks`` N×H×W bool, ``scores``, ``pred_classes``,
            ``pred_boxes``), ``sem_seg`` (K×H×W float scores).

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the image cannot be read, or is no such array.
        """
        return self.batch([image], channels=channels)[0]

    def batch(self, images: Iterable[ImageLike], *, channels: str = "RGB") -> list[dict[str, Any]]:
        """Results of several images, which the model takes at once.

        They are padded to a common size, which changes results slightly where sizes differ; memory grows with their
        number. Arguments, results and errors are those of calling with one image.
        """
        inputs = [self._model_input(as_rgb(image, channels=channels)) for image in images]
        if not inputs:
            return []
        with self._turn, torch.inference_mode():
            return self.model(inputs)

    def _model_input(self, image: np.ndarray) -> dict[str, Any]:
        """What Detectron2's models take, from H×W×3 RGB."""
        height, width = image.shape[:2]
        if self.cfg.INPUT.FORMAT == "BGR":
            image = image[:, :, ::-1]
        augmented = IndexMapInput(image)
        self._resize(augmented)
        return {"image": _channels_first(augmented.image), "height": height, "width": width}


def as_rgb(image: ImageLike, *, channels: str = "RGB") -> np.ndarray:
    """Read or check an image, see :meth:`Predictor.__call__`; returns uint8 H×W×3, RGB."""
    if channels not in CHANNEL_ORDERS:
        raise ValueError(f"channels is {channels!r}, but must be one of {CHANNEL_ORDERS}.")
    if isinstance(image, np.ndarray):
        return _checked_array(image, channels)
    if isinstance(image, Image.Image):
        return _pillow_to_rgb(image)
    try:
        with Image.open(image) as opened:
            return _pillow_to_rgb(opened)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"image '{image}' does not exist (looked in '{os.getcwd()}').") from error
    # Pillow says SyntaxError and ValueError of broken files, too
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image '{image}' cannot be read: {error}") from error


def class_metadata(cfg: CfgNode) -> Metadata:
    """Names, colours and ids of the classes that a model predicts.

    They are of the first data set of ``DATASETS.TEST``, then ``DATASETS.TRAIN``, that names its classes, or else tells
    which are things. Where none does, all classes are things.

    ``thing_classes`` and ``stuff_classes`` both have a name for each label of the model, which is "class 7" where the
    data set has none, with a warning; ``thing_colors`` and ``stuff_colors`` have a colour for each, or are left out.
    Models other than MaskFormer have labels of their own for stuff, whose lists stay as they are.
    """
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES if is_maskformer(cfg) else cfg.MODEL.ROI_HEADS.NUM_CLASSES
    fields = _fields_of_datasets(cfg)
    listed = Metadata(**fields)
    named = len(listed_names(listed, num_classes, of_things=True))
    if named < num_classes:
        logger.warning(
            "%s: only %d of the model's %d classes have names; the others are called by their numbers. Register the "
            "data set, or set thing_classes or stuff_classes in its metadata, before the model is built.",
            ", ".join([*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]) or "DATASETS.TEST and DATASETS.TRAIN are empty",
            named,
            num_classes,
        )
    if not fields:
        own_ids = {index: index for index in range(num_classes)}
        fields = {"thing_dataset_id_to_contiguous_id": own_ids, "stuff_dataset_id_to_contiguous_id": own_ids}
    for kind in (THING, STUFF) if is_maskformer(cfg) else (THING,):
        fields[f"{kind}_classes"] = class_names(listed, num_classes, of_things=kind == THING)
        fields.pop(f"{kind}_colors", None)
        if colours := listed_colours(listed, num_classes, of_things=kind == THING):
            fields[f"{kind}_colors"] = colours
    fields.setdefault("stuff_classes", fields["thing_classes"])
    return Metadata(**fields)


def _fields_of_datasets(cfg: CfgNode) -> dict[str, Any]:
    """The metadata of the data set that :func:`class_metadata` chooses; empty where none tells."""
    names = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    known = [MetadataCatalog.get(name).as_dict() for name in names if name in MetadataCatalog.list()]
    keys = (("thing_classes", "stuff_classes"), ("thing_dataset_id_to_contiguous_id",))
    return next((fields for some in keys for fields in known if any(map(fields.get, some))), {})


def _settings(
    config: str | os.PathLike[str] | CfgNode,
    weights: str | os.PathLike[str] | None,
    opts: Sequence[Any],
    device: str | torch.device | None,
) -> CfgNode:
    if isinstance(config, CfgNode):
        cfg = config.clone()
        cfg.defrost()
        cfg.merge_from_list(list(opts))
    else:
        cfg = load_config(os.fspath(config), opts)
    if weights is not None:
        cfg.MODEL.WEIGHTS = os.fspath(weights)
    if device is not None:
        cfg.MODEL.DEVICE = str(device)
    elif "MODEL.DEVICE" not in opts[::2]:
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.freeze()
    return cfg


def load_trained_model(cfg: CfgNode) -> nn.Module:
    """The model of ``cfg`` in evaluation mode, with all of its weights from the checkpoint ``MODEL.WEIGHTS``.

    They are the averaged ones where the config says that these are what is evaluated. Where ``MODEL.WEIGHTS`` is empty
    they stay random, with a warning. Memory format and arithmetic are those that ``cfg.MODEL`` asks for.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the device is not there, or the checkpoint does not hold all that the model needs.
    """
    # these bring the whole trainer, which importing the package should not
    from .engine.checks import check_device
    from .engine.model_options import apply_model_options

    check_device(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.MODEL.WEIGHTS and is_maskformer(cfg):
        cfg.MODEL.TIMM.PRETRAINED = False  # a download for weights that the checkpoint replaces
    model = build_model(cfg)
    if "ACTIVATION_CHECKPOINTING" in cfg.MODEL:  # which a config of Detectron2 alone has not
        node = cfg.MODEL.ACTIVATION_CHECKPOINTING
        node.BACKBONE = node.PIXEL_DECODER = False  # of use for gradients alone
        apply_model_options(cfg, model)
    if not cfg.MODEL.WEIGHTS:
        logger.warning("MODEL.WEIGHTS is empty: the model keeps its random weights, and its results mean nothing.")
        return model.eval()
    missing: list[str] = []
    hook = model.register_load_state_dict_post_hook(lambda _, keys: missing.extend(keys.missing_keys))
    checkpoint = build_checkpointer(cfg, model, new_classes=False).load(cfg.MODEL.WEIGHTS)
    hook.remove()
    parameters = dict(model.named_parameters())
    random = [name for name in missing if name in parameters]
    if random:
        listed = ", ".join(random[:MAX_LISTED]) + (", …" if len(random) > MAX_LISTED else "")
        raise ValueError(
            f"{cfg.MODEL.WEIGHTS} does not hold the whole model: {len(random)} of its {len(parameters)} parameters are "
            f"missing or of another shape, and would stay random ({listed}). Give the weights that this config was "
            "trained to, not those that training starts from."
        )
    _use_average(cfg, model, checkpoint)
    return model.eval()


def _use_average(cfg: CfgNode, model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Use the averaged weights where the config says that these are what is evaluated."""
    if not cfg.get("MODEL_EMA", {}).get("ENABLED", False):
        return
    from .engine.ema import load_average  # not above, see load_trained_model

    average = load_average(cfg, model, checkpoint)
    if average is not None:
        model.load_state_dict(average.weights, strict=False)


def _checked_array(image: np.ndarray, channels: str) -> np.ndarray:
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.dtype != np.uint8 or 0 in image.shape or not (image.ndim == 2 or image.shape[2:] == (3,)):
        raise ValueError(
            f"the image is a {image.dtype} array of shape {image.shape}, but must be uint8, height × width × 3 "
            f"({channels}) or height × width (grey). Scale other numbers to 0…255, and leave a fourth channel out."
        )
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    return image[:, :, ::-1] if channels == "BGR" else image


def _pillow_to_rgb(image: Image.Image) -> np.ndarray:
    return convert_PIL_to_numpy(upright(image), "RGB")


def _channels_first(image: np.ndarray) -> Tensor:
    return torch.as_tensor(image.astype(np.float32).transpose(2, 0, 1))
