"""Loading of checkpoints into MaskFormer: Detectron2's checkpointer, which says what fitted and refuses what did not.

Three kinds of files are told apart by their keys: whole models (keys under ``sem_seg_head.``), backbones whose keys
carry the prefix ``backbone.``, and ImageNet weights without that prefix, which Detectron2's matching by suffix finds
the place of. Keys of older checkpoints are renamed by the modules that own them while they are loaded.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from ..config import is_maskformer
from .reading import read_checkpoint, require_weights
from .writing import SafeCheckpointer

logger = logging.getLogger(__name__)

BACKBONE = "backbone."
HEAD = "sem_seg_head."
# Depend on the number of classes; with the shapes of one of them, the number stands first.
CLASS_HEAD = (
    "sem_seg_head.predictor.class_embed.weight",
    "sem_seg_head.predictor.class_embed.bias",
    "criterion.empty_weight",
)
# The model computes them, or no result depends on them.
COMPUTED = ("num_batches_tracked", "relative_position_index", "criterion.empty_weight", "pixel_mean", "pixel_std")
# Swin's norms of the feature maps: ImageNet classification has none.
FEATURE_NORM = re.compile(r"backbone\.norm\d+\.(weight|bias)")
STATISTICS = ("running_mean", "running_var")
MAX_LISTED = 40

SHAPES_WAY_OUT = (
    "Use the config that the checkpoint was trained with (what differs most often: MODEL.MASK_FORMER."
    "NUM_OBJECT_QUERIES, MODEL.SWIN.WINDOW_SIZE, the widths *_DIM), or delete these keys from the file to train them "
    "from scratch."
)
BACKBONE_WAY_OUT = (
    "MODEL.WEIGHTS has to be of the backbone that MODEL.BACKBONE, MODEL.RESNETS or MODEL.SWIN describe. Published "
    "ImageNet weights are converted with tools/convert_swin_to_d2.py or tools/convert_torchvision_to_d2.py; "
    "MODEL.WEIGHTS '' starts from scratch."
)


class Checkpointer(SafeCheckpointer):
    """Detectron2's checkpointer for MaskFormer models.

    ``load`` says in one line how many keys it loaded. It raises ValueError when a parameter of the backbone is not in
    the file, or when a shape differs: before it loads anything, except for shapes under names of older checkpoints.
    Only the class head may differ, see ``new_classes``. A head that the file has in part is loaded in part, with
    Detectron2's warnings.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        new_classes: bool = True,
        **checkpointables: Any,
    ) -> None:
        """
        Args:
            model: a MaskFormer, or DistributedDataParallel around one.
            save_dir: where checkpoints are saved, and looked for on resumption.
            save_to_disk: by default the main process saves.
            new_classes: fine-tuning: a class head for another number of classes keeps its fresh values, and so does
                the loss's weight per class. If False it is refused, as it always is on resumption.
            checkpointables: objects whose state is saved and resumed with the model's.
        """
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.new_classes = new_classes
        self._path = ""
        self._resuming = False

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a ``.pkl``, ``.pth`` or ``.safetensors`` file.

        Args:
            path: file or URL; if empty, nothing is loaded.
            checkpointables: names of those to load with the model; None stands for all.

        Returns:
            What the file holds besides, for example ``iteration``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file does not fit the model (the message lists the keys), is damaged, or holds more than
                tensors and plain values, which could run code.
        """
        if path and "://" not in path and not os.path.isfile(path):
            raise FileNotFoundError(f"MODEL.WEIGHTS: file '{path}' does not exist (looked in '{os.getcwd()}').")
        self._path = path
        self._resuming = checkpointables is None and bool(self.checkpointables)
        return super().load(path, checkpointables)

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_checkpoint(filename, self._path)
        if content.get("__author__") == "Caffe2":
            content = _unless_caffe2(content)
        require_weights(content["model"], self._path)
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        weights = checkpoint["model"]
        self._convert_ndarray_to_tensor(weights)
        consume_prefix_in_state_dict_if_present(weights, "module.")
        model_state = self.model.state_dict()
        if checkpoint.pop("matching_heuristics", False):
            # Not with the whole model's keys: by its suffix, a classifier's "norm.weight" is that of many modules.
            backbone = {key: value for key, value in model_state.items() if key.startswith(BACKBONE)}
            weights = align_and_update_state_dicts(
                backbone, weights, c2_conversion=checkpoint.get("__author__") == "Caffe2"
            )
            # What was left out for its shape keeps the file's name; under the model's, the error is about shapes.
            places = backbone.keys() - weights.keys()
            weights = {BACKBONE + key if BACKBONE + key in places else key: value for key, value in weights.items()}
            checkpoint["model"] = weights
        self._check_backbone(weights, model_state)
        fresh = self._drop_class_head(weights, model_state)
        file_keys = set(weights)
        try:
            incompatible = super()._load_model(checkpoint)
        except RuntimeError as error:  # shapes of parameters that only the modules' renaming brings to light
            raise ValueError(f"{self._path}: {error}\n{SHAPES_WAY_OUT}") from error
        self._report(file_keys, incompatible.unexpected_keys, model_state)
        return _to_warn_of(incompatible, fresh, whole_model=_is_whole_model(file_keys))

    def _check_backbone(self, weights: Mapping[str, Tensor], model_state: Mapping[str, Tensor]) -> None:
        """Raise ValueError if a parameter of the backbone is not in the file."""
        expected = [key for key in model_state if key.startswith(BACKBONE)]
        missing = [key for key in expected if key not in weights and not _may_be_missing(key, weights)]
        if not missing:
            return
        unused = [key for key in weights if key not in model_state and not key.startswith((HEAD, "criterion."))]
        raise ValueError(
            f"{self._path} does not fit the backbone: {len(missing)} of its {len(expected)} keys are not in the file:\n"
            f"{_listing(missing, model_state)}\n"
            f"Keys of the file that the model has no use for: {len(unused)}\n{_listing(unused, weights)}\n"
            f"{BACKBONE_WAY_OUT}"
        )

    def _drop_class_head(self, weights: dict[str, Tensor], model_state: Mapping[str, Tensor]) -> list[str]:
        """Remove a class head of other classes from ``weights`` and return its keys; ValueError for other shapes."""
        shapes = {
            key: (tuple(weights[key].shape), tuple(value.shape))
            for key, value in model_state.items()
            if key in weights and weights[key].shape != value.shape
        }
        fresh = [key for key in CLASS_HEAD if key in shapes and shapes[key][0][1:] == shapes[key][1][1:]]
        wrong = [key for key in shapes if key not in fresh]
        if wrong:
            lines = [f"  {key}: {shapes[key][0]} in the file, {shapes[key][1]} in the model" for key in wrong]
            raise ValueError(f"{self._path} has other shapes than the model:\n{shortened(lines)}\n{SHAPES_WAY_OUT}")
        if not fresh:
            return []
        in_file, in_model = (size[0] - 1 for size in shapes[fresh[0]])
        if self._resuming or not self.new_classes:
            raise ValueError(
                f"{self._path} is for {in_file} classes, the model for {in_model} ({', '.join(fresh)}). Set "
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES {in_file}; fine-tuning to other classes starts from MODEL.WEIGHTS, "
                "without --resume."
            )
        logger.warning(
            "%s is for %d classes, the model for %d: re-initialised, and nothing else: %s",
            *(self._path, in_file, in_model, ", ".join(fresh)),
        )
        for key in fresh:
            del weights[key]
        return fresh

    def _report(self, file_keys: set[str], unused: list[str], model_state: Mapping[str, Tensor]) -> None:
        """Say in one line how many of the model's keys were loaded."""
        loaded = len(file_keys) - len(unused)
        backbone = [key for key in model_state if key.startswith(BACKBONE)]
        loaded_backbone = len(file_keys.intersection(backbone))
        parts = [
            f"{loaded} of {len(model_state)} keys loaded",
            f"backbone {loaded_backbone} of {len(backbone)}",
            f"the rest {loaded - loaded_backbone} of {len(model_state) - len(backbone)}",
        ]
        if loaded_backbone < len(backbone):
            parts.append(f"{len(backbone) - loaded_backbone} of the backbone need not be in a file")
        if unused:
            parts.append(f"not used: {shortened(unused, ', ', 6)}")
        logger.info("%s: %s", self._path, "; ".join(parts))


def build_checkpointer(
    cfg: CfgNode, model: nn.Module, *, new_classes: bool, **checkpointables: Any
) -> SafeCheckpointer:
    """Return a checkpointer for ``cfg.OUTPUT_DIR``: :class:`Checkpointer` for a MaskFormer, else one that loads as
    Detectron2's own does.
    """
    if is_maskformer(cfg):
        return Checkpointer(model, cfg.OUTPUT_DIR, new_classes=new_classes, **checkpointables)
    return SafeCheckpointer(model, cfg.OUTPUT_DIR, **checkpointables)


def _unless_caffe2(content: dict[str, Any]) -> dict[str, Any]:
    """Undo what Detectron2 makes of any ``.pkl`` that names no author: weights of Caffe2, whose names have no dots."""
    weights = content["model"]
    if isinstance(weights.get("model"), Mapping):
        return dict(weights)
    names_of_torch = any("." in key for key in weights)
    return {"model": weights, "matching_heuristics": True} if names_of_torch else content


def _is_whole_model(keys: Iterable[str]) -> bool:
    return any(key.startswith(HEAD) for key in keys)


def _may_be_missing(key: str, weights: Mapping[str, Tensor]) -> bool:
    """Tell whether a backbone can do with a fresh ``key`` when ``weights`` has none of that name."""
    if key.endswith(COMPUTED):
        return True
    if _is_whole_model(weights):
        return False
    if key.endswith(STATISTICS):  # Caffe2's weights have them folded into scale and offset, all of them
        return not any(name.endswith(STATISTICS) for name in weights)
    return FEATURE_NORM.fullmatch(key) is not None


def _to_warn_of(incompatible: Any, fresh: list[str], whole_model: bool) -> Any:
    """Reduce ``incompatible`` to what deserves Detectron2's warnings, which list every key."""
    if not whole_model:
        return incompatible._replace(missing_keys=[], unexpected_keys=[])
    missing = [key for key in incompatible.missing_keys if key not in fresh and not key.endswith(COMPUTED)]
    return incompatible._replace(missing_keys=missing)


def _listing(keys: Iterable[str], tensors: Mapping[str, Tensor]) -> str:
    return shortened([f"  {key} {tuple(tensors[key].shape)}" for key in keys])


def shortened(lines: list[str], separator: str = "\n", limit: int = MAX_LISTED) -> str:
    rest = [f"and {len(lines) - limit} more"] if len(lines) > limit else []
    return separator.join(lines[:limit] + rest)
