"""Raw predictions: what the panoptic rule works on, before any threshold; in memory and in a folder.

Shapes: n queries, K classes, h, w of the mask predictions.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor, nn

from ..files import whole_file, write_json
from ..modeling.inference_rules import Size

MANIFEST = "predictions.json"
PRECISIONS = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class RawPrediction:
    """Of one image, the queries that the panoptic rule may use with some threshold: no no-object is their best class.

    Attributes:
        class_logits: float32 n×(K+1); the last class is no-object.
        mask_logits: n×h×w, over the padded image.
        padded_size: (height, width) of the padded image, in pixels.
        image_size: what of it is the image, from its top left corner.
        output_size: (height, width) of the results.
    """

    class_logits: Tensor
    mask_logits: Tensor
    padded_size: Size
    image_size: Size
    output_size: Size

    @classmethod
    def of(
        cls, class_logits: Tensor, mask_logits: Tensor, padded_size: Size, image_size: Size, output_size: Size
    ) -> RawPrediction:
        """Choose among all queries; arguments as of :meth:`MaskFormer.infer_image`."""
        class_logits = class_logits.float()
        usable = class_logits.softmax(-1).argmax(-1) != class_logits.shape[-1] - 1
        padded, image, output = ((int(size[0]), int(size[1])) for size in (padded_size, image_size, output_size))
        return cls(class_logits[usable], mask_logits[usable].float(), padded, image, output)


@torch.no_grad()
def predict(model: nn.Module, batched_inputs: list[dict[str, Any]]) -> list[RawPrediction]:
    """Run the network alone.

    Args:
        model: a MaskFormer in evaluation mode.
        batched_inputs: as :meth:`MaskFormer.forward` takes them.
    """
    raw = copy.copy(model)  # with the same parameters and buffers
    raw.infer_image = RawPrediction.of  # type: ignore[assignment]
    return raw(batched_inputs)


class PredictionFolder:
    """A folder with a file for each image. Files are written whole, so that a run that was interrupted can go on."""

    def __init__(self, folder: str | Path, identity: Mapping[str, str], precision: str = "float16") -> None:
        """Make the folder, or take one up that was begun before.

        Args:
            folder: path of the folder.
            identity: by name, what the predictions depend on; with another identity they are others.
            precision: of the mask logits in files, one of :data:`PRECISIONS`.

        Raises:
            ValueError: the folder holds predictions of another identity or precision, or other files.
        """
        self._folder = Path(folder)
        self._dtype = PRECISIONS[precision]
        described = {**identity, "precision": precision}
        manifest = self._folder / MANIFEST
        if not manifest.is_file():
            if self._folder.exists() and (not self._folder.is_dir() or any(self._folder.iterdir())):
                raise ValueError(f"{folder} is no folder of predictions, and not empty either: name another one.")
            write_json(manifest, described, indent=2)
            return
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{manifest} is damaged: {error}. Delete the folder, or name another one.") from error
        different = sorted(key for key in described.keys() | found.keys() if described.get(key) != found.get(key))
        if different:
            raise ValueError(
                f"{folder} holds predictions made with other settings ({', '.join(different)}). Name another folder, "
                "or delete this one."
            )

    def has(self, image_id: int | str) -> bool:
        """Tell whether there is a prediction of this image."""
        return self._path(image_id).is_file()

    def load(self, image_id: int | str, device: str = "cpu") -> RawPrediction:
        """Return an image's prediction, with float32 masks.

        Args:
            image_id: of the image.
            device: where its tensors go.

        Raises:
            FileNotFoundError: there is none.
            ValueError: the file is damaged.
        """
        path = self._path(image_id)
        try:
            prediction = RawPrediction(**torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path} is damaged ({error}). Delete it; it will be made again.") from error
        logits = {name: getattr(prediction, name).to(device).float() for name in ("class_logits", "mask_logits")}
        return replace(prediction, **logits)

    def save(self, image_id: int | str, prediction: RawPrediction) -> RawPrediction:
        """Write an image's prediction, and return what :meth:`load` will return, on the prediction's device."""
        rounded = replace(prediction, mask_logits=prediction.mask_logits.to(self._dtype))
        content = {key: value.cpu() if isinstance(value, Tensor) else value for key, value in vars(rounded).items()}
        with whole_file(self._path(image_id)) as unfinished:
            torch.save(content, unfinished)
        return replace(prediction, mask_logits=rounded.mask_logits.float())

    def _path(self, image_id: int | str) -> Path:
        return self._folder / f"{quote(str(image_id), safe='')}.pt"
