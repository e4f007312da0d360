"""From ADE20K's published annotations (scene parsing and instances) to what its registered datasets are made of.

Shape legend: H, W height and width in pixels.

Scene parsing comes as PNGs of one channel, 0 unlabeled and 1 … 150 the categories. Instances come as PNGs of three: red
is one of 100 categories (0 none), green the number of the instance in the image (0 none).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..reading import id_to_rgb, read_image_file
from .ade20k import SPLITS, ade20k_paths, instance_categories
from .coco_format import image_entry, instance_annotation, instance_file
from .loading import require_path
from .preparation import make_annotations, make_files, save_png
from .registration import read_categories

NUM_CLASSES = 150
VOID = 255
SCENE_PARSING = "Download http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip and unpack it there."
INSTANCES = (
    "Download http://sceneparsing.csail.mit.edu/data/ChallengeData2017/annotations_instance.tar and unpack it in"
    " ADEChallengeData2016."
)


def semantic_labels(annotation: np.ndarray, where: str) -> np.ndarray:
    """Labels of a scene parsing annotation, both uint8 [H, W]: category - 1, and 255 where it is unlabeled.

    Raises:
        ValueError: the annotation has other values, or more channels than one.
    """
    if annotation.ndim != 2 or annotation.max() > NUM_CLASSES:
        raise ValueError(
            f"{where}: shape {annotation.shape} and values up to {annotation.max()}, but an annotation of scene parsing"
            f" has one channel and values 0…{NUM_CLASSES}. Unpack the original archive again."
        )
    return annotation.astype(np.uint8) - np.uint8(1)  # 0 becomes 255


def instance_map(annotation: np.ndarray, thing_ids: list[int], where: str) -> tuple[np.ndarray, dict[int, int]]:
    """Read an instance annotation.

    Args:
        annotation: uint8 [H, W, 3].
        thing_ids: label of each of the categories 1, 2, ….
        where: names the annotation in errors.

    Returns:
        number of the instance at each pixel (uint8 [H, W], 0 none); number of an instance → label.

    Raises:
        ValueError: an instance has no category, an unknown one, or more than one.
    """
    category_map, number_map = annotation[..., 0], annotation[..., 1]
    labels: dict[int, int] = {}
    for pair in np.unique(256 * number_map.astype(np.int32) + category_map).tolist():
        number, category = divmod(pair, 256)
        if number == 0:
            continue
        if number in labels or not 1 <= category <= len(thing_ids):
            categories = np.unique(category_map[number_map == number]).tolist()
            raise ValueError(
                f"{where}: instance {number} has categories {categories}; it should have one, of 1…{len(thing_ids)}."
                " Unpack the original archive again."
            )
        labels[number] = thing_ids[category - 1]
    return number_map, labels


def panoptic_segments(
    labels: np.ndarray, number_map: np.ndarray, label_of_number: dict[int, int], thing_ids: set[int]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Merge the labels of stuff with the instances of things.

    Instances lie over stuff. Where a thing is labeled and no instance lies, there is void.

    Args:
        labels: see ``semantic_labels``.
        number_map, label_of_number: see ``instance_map``.
        thing_ids: the labels that are things.

    Returns:
        id of the segment at each pixel (int32 [H, W], 0 void); the segments_info of COCO's panoptic format.
    """
    stuff = [label for label in np.unique(labels).tolist() if label != VOID and label not in thing_ids]
    masks = [(label, (labels == label) & (number_map == 0)) for label in stuff]
    masks += [(label, number_map == number) for number, label in sorted(label_of_number.items())]
    ids = np.zeros(labels.shape, dtype=np.int32)
    segments: list[dict[str, Any]] = []
    for label, mask in masks:
        if not mask.any():
            continue
        segment_id = len(segments) + 1
        ids[mask] = segment_id
        segments.append(
            {"id": segment_id, "category_id": label, "area": int(mask.sum()), "bbox": _box(mask), "iscrowd": 0}
        )
    return ids, segments


def instance_annotations(number_map: np.ndarray, label_of_number: dict[int, int]) -> list[dict[str, Any]]:
    """Instances in COCO's format, still without ids (see ``instance_map``)."""
    return [instance_annotation(number_map == number, label) for number, label in sorted(label_of_number.items())]


def _box(mask: np.ndarray) -> list[int]:
    """COCO's box [left, top, width, height] of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


class Files:
    """Where the published files of a split lie, and their contents, checked."""

    def __init__(self, root: str, split: str) -> None:
        ade20k, folder = Path(root) / "ADEChallengeData2016", SPLITS[split]
        self.images = ade20k / "images" / folder
        self.scene_parsing = ade20k / "annotations" / folder
        self.instances = ade20k / "annotations_instance" / folder
        self.thing_ids = [category["id"] for category in read_categories("ade20k_150.json") if category["isthing"]]

    def names(self, annotations: Path, limit: int | None, how_to_get: str) -> list[str]:
        """Names (without suffix) of the split's images, sorted, of which the first ``limit``.

        Raises:
            FileNotFoundError: images or annotations are missing.
        """
        require_path(str(self.images), "folder of images", SCENE_PARSING)
        require_path(str(annotations), "folder of annotations", how_to_get)
        names = sorted(path.stem for path in annotations.glob("*.png"))[:limit]
        if not names:
            raise FileNotFoundError(f"{annotations}: there are no annotations (*.png). {how_to_get}")
        for name in names:
            require_path(str(self.images / f"{name}.jpg"), "image of an annotation", SCENE_PARSING)
        return names

    def image(self, name: str, size: tuple[int, ...]) -> dict[str, Any]:
        """The entry of an image in COCO's JSON; checks that its annotation, of ``size`` (H, W), is as large."""
        return image_entry(name, self.images / f"{name}.jpg", size, "Unpack the original archives again.")

    def read_labels(self, name: str) -> np.ndarray:
        path = str(self.scene_parsing / f"{name}.png")
        return semantic_labels(read_image_file(path, None, "annotation of scene parsing"), path)

    def read_instances(self, name: str) -> tuple[np.ndarray, dict[int, int]]:
        path = str(self.instances / f"{name}.png")
        return instance_map(read_image_file(path, "RGB", "annotation of instances"), self.thing_ids, path)


def _convert_semantic(name: str, files: Files, folder: Path) -> None:
    labels = files.read_labels(name)
    files.image(name, labels.shape)
    save_png(folder / f"{name}.png", labels)


def _convert_instance(name: str, files: Files) -> dict[str, Any]:
    number_map, label_of_number = files.read_instances(name)
    image = files.image(name, number_map.shape)
    return {"image": image, "annotations": instance_annotations(number_map, label_of_number)}


def _convert_panoptic(name: str, files: Files, folder: Path) -> dict[str, Any]:
    labels = files.read_labels(name)
    number_map, label_of_number = files.read_instances(name)
    image = files.image(name, labels.shape)
    files.image(name, number_map.shape)
    ids, segments = panoptic_segments(labels, number_map, label_of_number, set(files.thing_ids))
    save_png(folder / f"{name}.png", id_to_rgb(ids))
    return {
        "image": image,
        "annotation": {"image_id": name, "file_name": f"{name}.png", "segments_info": segments},
    }


def prepare_semantic(root: str, split: str, *, workers: int, limit: int | None = None) -> int:
    """Write the label images of ade20k_sem_seg_*; files that are there stay.

    Args:
        root: folder of all datasets.
        split: "train" or "val".
        workers: number of processes.
        limit: only so many images.

    Returns:
        The number of images.

    Raises:
        FileNotFoundError: something that was published is not there.
        ValueError: an annotation is not as it was published.
    """
    files, folder = Files(root, split), Path(ade20k_paths(root, split)["sem_seg_root"])
    names = files.names(files.scene_parsing, limit, SCENE_PARSING)
    folder.mkdir(parents=True, exist_ok=True)
    make_files(
        partial(_convert_semantic, files=files, folder=folder),
        {name: name for name in names},
        lambda name: [folder / f"{name}.png"],
        workers=workers,
        description=f"ADE20K semantic, {split}",
    )
    return len(names)


def prepare_instance(root: str, split: str, *, workers: int, limit: int | None = None) -> int:
    """Write the annotations of ade20k_instance_*; see ``prepare_semantic``."""
    files, target = Files(root, split), Path(ade20k_paths(root, split)["json_file"])
    names = files.names(files.instances, limit, INSTANCES)
    make_annotations(
        partial(_convert_instance, files=files),
        {name: name for name in names},
        target,
        partial(instance_file, categories=instance_categories(read_categories("ade20k_150.json"))),
        workers=workers,
        description=f"ADE20K instances, {split}",
    )
    return len(names)


def prepare_panoptic(root: str, split: str, *, workers: int, limit: int | None = None) -> int:
    """Write the PNGs and annotations of ade20k_panoptic_*; see ``prepare_semantic``."""
    files, paths = Files(root, split), ade20k_paths(root, split)
    folder = Path(paths["panoptic_root"])
    names = files.names(files.scene_parsing, limit, SCENE_PARSING)
    require_path(str(files.instances), "folder of annotations", INSTANCES)
    folder.mkdir(parents=True, exist_ok=True)
    make_annotations(
        partial(_convert_panoptic, files=files, folder=folder),
        {name: name for name in names},
        Path(paths["panoptic_json"]),
        _panoptic_file,
        is_there=lambda name: (folder / f"{name}.png").exists(),
        workers=workers,
        description=f"ADE20K panoptic, {split}",
    )
    return len(names)


def _panoptic_file(records: list[dict[str, Any]]) -> dict[str, Any]:
    categories = read_categories("ade20k_150.json")
    return {
        "images": [record["image"] for record in records],
        "annotations": [record["annotation"] for record in records],
        "categories": [{key: category[key] for key in ("id", "name", "isthing", "color")} for category in categories],
    }
