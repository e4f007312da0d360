"""Reading the files of a dataset dict and checking what they hold.

Every error names the cause, the file or image, and the way out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data.detection_utils import SizeMismatchError, convert_PIL_to_numpy, read_image
from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image, ImageOps

DatasetDict = dict[str, Any]


@dataclass(frozen=True)
class LabelSpace:
    """The labels a model is trained on: 0 … num_classes - 1, and in label images `ignore_label`."""

    num_classes: int
    ignore_label: int | None = None


def describe(dataset_dict: DatasetDict) -> str:
    """How errors name an image: its file and, where there is one, its id."""
    name = f"image {dataset_dict.get('file_name', 'without file_name')}"
    return f"{name} (image_id {dataset_dict['image_id']})" if "image_id" in dataset_dict else name


def read_image_file(path: str, image_format: str | None, what: str) -> np.ndarray:
    """Read an image file by Detectron2's `read_image`, turned as its EXIF orientation says.

    Of 16 bits the higher 8 are kept where `image_format` asks for 8; Pillow would make everything above 255 white.

    Args:
        path: the file.
        image_format: what `read_image` converts to, None for the file's own channels and dtype.
        what: the role of the file, for errors ("image", "panoptic image of …").

    Returns:
        H×W×C or H×W array.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be decoded.
    """
    try:
        if image_format is not None:
            with PathManager.open(path, "rb") as file, Image.open(file) as image:
                if is_deep(image):
                    return convert_PIL_to_numpy(upright(image), image_format)
        return read_image(path, format=image_format)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: this file does not exist (the {what}). Compare the dataset's folders with datasets/README.md."
        ) from error
    except Exception as error:  # of damaged files, Pillow's decoders raise whatever comes of their bytes
        raise ValueError(
            f"{path}: cannot be read (the {what}): {error}. Restore the file, or take the image out of the annotations."
        ) from error


def is_deep(image: Image.Image) -> bool:
    """Tell whether a picture has one channel of 16 bits; ValueError if it has one of which 8 cannot be made."""
    # "I" is how earlier versions of Pillow open PNGs of 16 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return True
    if image.mode in ("I", "F"):
        raise ValueError(f"32 bits per pixel (Pillow's mode {image.mode}), whose range is unknown, are no picture")
    return False


def upright(image: Image.Image) -> Image.Image:
    """A picture turned as its EXIF orientation says; of 16 bits (:func:`is_deep`) the higher 8, else as it is."""
    deep = is_deep(image)
    turned = ImageOps.exif_transpose(image)
    return Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8)) if deep else turned


def check_image_size(dataset_dict: DatasetDict, image: np.ndarray) -> None:
    """Set `height` and `width` of a dataset dict; SizeMismatchError, a ValueError, if it states others."""
    size = image.shape[:2]
    stated = tuple(dataset_dict.get(key, side) for key, side in zip(("height", "width"), size, strict=True))
    if stated != size:
        raise SizeMismatchError(
            f"{describe(dataset_dict)}: {size[0]}×{size[1]} pixels (height × width){_turned(dataset_dict['file_name'])}"
            f", but its annotations say {stated[0]}×{stated[1]}. Correct height and width there, if the masks fit the "
            "image as it is read."
        )
    dataset_dict["height"], dataset_dict["width"] = size


def _turned(path: str) -> str:
    """What an error about sizes says of an image that its EXIF orientation turns."""
    with PathManager.open(path, "rb") as file:
        orientation = Image.open(file).getexif().get(ExifTags.Base.Orientation, 1)
    return f" when turned as its EXIF orientation {orientation} says" if orientation in range(2, 9) else ""


def require_keys(dataset_dict: DatasetDict, keys: Iterable[str]) -> None:
    """Raise ValueError when the dataset dict lacks one of `keys`."""
    missing = [key for key in keys if key not in dataset_dict]
    if missing:
        raise ValueError(
            f"{describe(dataset_dict)}: its dataset dict lacks {', '.join(missing)}; it has {', '.join(dataset_dict)}."
            " INPUT.DATASET_MAPPER_NAME must fit what DATASETS.TRAIN is annotated with."
        )


def check_labels(classes: Iterable[int], labels: LabelSpace, where: str) -> None:
    """Raise ValueError when one of `classes` is no label of the model.

    On a GPU such a label would end as a device-side assertion somewhere in the loss, without a trace of its image.
    """
    whole = (int, np.integer)
    bad = {str(label) for label in classes if not isinstance(label, whole) or not 0 <= label < labels.num_classes}
    if not bad:
        return
    ignored = (
        ""
        if labels.ignore_label is None
        else f", pixels to ignore must hold the dataset's ignore_label {labels.ignore_label}"
    )
    raise ValueError(
        f"{where}: label {', '.join(sorted(bad))} does not fit MODEL.SEM_SEG_HEAD.NUM_CLASSES = {labels.num_classes}."
        f" Labels must be contiguous ids 0…{labels.num_classes - 1}{ignored}. Map the dataset's ids to contiguous ones"
        " when registering it, or set NUM_CLASSES to the number of its classes."
    )


def check_size(path: str, size: tuple[int, ...], image_size: tuple[int, int], dataset_dict: DatasetDict) -> None:
    """Raise ValueError when an annotation raster of `size` (H, W) is not as large as its image."""
    if tuple(size) != tuple(image_size):
        raise ValueError(
            f"{path}: {size[0]}×{size[1]} pixels (height × width), but {describe(dataset_dict)} has"
            f" {image_size[0]}×{image_size[1]}. Both must have the same size: look for resized or rotated files."
        )


def check_segment_ids(
    png_ids: np.ndarray, segments: list[dict[str, Any]], path: str, dataset_dict: DatasetDict
) -> None:
    """Raise ValueError unless PNG and `segments_info` list the same segments, each once; 0 is void and needs no entry.

    Args:
        png_ids: ids that occur in the panoptic PNG at `path`.
    """
    json_ids = Counter(segment.get("id") for segment in segments)
    in_png, in_json = set(png_ids.tolist()), set(json_ids)
    findings = {
        "are in segments_info but not in the PNG": sorted(in_json - in_png, key=str),
        "are in the PNG but not in segments_info": sorted(in_png - in_json - {0}),
        "are listed more than once in segments_info": [id_ for id_, times in json_ids.items() if times > 1],
    }
    problems = [f"ids {_shorten(ids)} {problem}" for problem, ids in findings.items() if ids]
    if problems:
        raise ValueError(
            f"{path}: {'; '.join(problems)} ({describe(dataset_dict)}). The PNG and the panoptic JSON must come from"
            " the same version of the dataset; the id of a pixel is R + 256·G + 65536·B."
        )


def rgb_to_id(rgb: np.ndarray) -> np.ndarray:
    """Ids of a COCO panoptic PNG: uint8 H×W×3 → int32 H×W, R + 256·G + 65536·B."""
    channels = rgb.astype(np.int32)
    return channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]


def id_to_rgb(ids: np.ndarray) -> np.ndarray:
    """The colours of a COCO panoptic PNG, the inverse of `rgb_to_id`: integers H×W in [0, 256³) → uint8 H×W×3."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def _shorten(ids: list[Any], limit: int = 10) -> str:
    shown = ", ".join(map(str, ids[:limit]))
    return shown if len(ids) <= limit else f"{shown} and {len(ids) - limit} more"
