"""From COCO-Stuff 10k as it is published (images, MATLAB annotations, lists of the splits) to its registered datasets.

Shape legend: H, W height and width in pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from .coco import STUFF_10K_SPLITS, coco_stuff_10k_paths
from .coco_format import image_entry
from .loading import require_path
from .preparation import link_or_copy, make_files, save_png
from .registration import read_categories

VOID = 255
DOWNLOAD = (
    "Download http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/cocostuff-10k-v1.1.zip and unpack it"
    " in coco/coco_stuff_10k."
)


def stuff_labels(annotation: np.ndarray, category_ids: Sequence[int], where: str) -> np.ndarray:
    """Contiguous ids of an annotation, uint8 [H, W], and 255 where it is unlabeled (0).

    Args:
        annotation: numbers [H, W]; published are category ids of COCO-Stuff (1 … 182, some of which do not occur).
        category_ids: category id of each label.
        where: names the annotation in errors.

    Raises:
        ValueError: the annotation has other values, or another shape.
    """
    unknown = sorted(set(np.unique(annotation).tolist()) - {0, *category_ids})
    if annotation.ndim != 2 or unknown:
        raise ValueError(
            f"{where}: shape {annotation.shape} and unknown values {unknown}, but an annotation of version 1.1 has two"
            f" dimensions and {len(category_ids)} category ids between 0 and {max(category_ids)}. {DOWNLOAD}"
        )
    table = np.full(max(category_ids) + 1, VOID, dtype=np.uint8)
    table[list(category_ids)] = np.arange(len(category_ids))
    return table[annotation.astype(np.intp)]


def read_annotation(path: Path) -> np.ndarray:
    """Read the label map ("S") of a MATLAB file, [H, W].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or has no label map.
    """
    require_path(str(path), "annotation of a listed image", DOWNLOAD)
    try:
        return loadmat(path, variable_names=["S"])["S"]
    # what SciPy raises of files that are cut short or damaged, or that are no MATLAB files
    except (OSError, ValueError, TypeError, LookupError, NotImplementedError, zlib.error, MatReadError) as error:
        raise ValueError(f"{path}: the label map S cannot be read ({error}). {DOWNLOAD}") from error


class Files:
    """Where the published files of COCO-Stuff 10k lie, and where what is made from them goes."""

    def __init__(self, root: str, split: str) -> None:
        assert split in STUFF_10K_SPLITS, split
        published = Path(root) / "coco" / "coco_stuff_10k"
        self.published_images = published / "images"
        self.published_annotations = published / "annotations"
        self.name_list = published / "imageLists" / f"{split}.txt"
        paths = coco_stuff_10k_paths(root, split)
        self.images, self.labels = Path(paths["image_root"]), Path(paths["sem_seg_root"])
        self.category_ids = [category["id"] for category in read_categories("coco_stuff_10k.json")]

    def names(self, limit: int | None) -> list[str]:
        """Names (without suffix) of the split's images, sorted, of which the first ``limit``.

        Raises:
            FileNotFoundError: the list, an image or an annotation is missing.
            ValueError: the list is empty.
        """
        require_path(str(self.published_images), "folder of images", DOWNLOAD)
        require_path(str(self.published_annotations), "folder of annotations", DOWNLOAD)
        require_path(str(self.name_list), "list of the split's images", DOWNLOAD)
        names = sorted(set(self.name_list.read_text(encoding="utf-8").split()))[:limit]
        if not names:
            raise ValueError(f"{self.name_list}: it lists no image. {DOWNLOAD}")
        for name in names:
            require_path(str(self.published_images / f"{name}.jpg"), "listed image", DOWNLOAD)
        return names

    def targets(self, name: str) -> list[Path]:
        """The image and the label image of a name."""
        return [self.images / f"{name}.jpg", self.labels / f"{name}.png"]


def _convert(name: str, files: Files) -> None:
    published = files.published_images / f"{name}.jpg"
    path = files.published_annotations / f"{name}.mat"
    labels = stuff_labels(read_annotation(path), files.category_ids, str(path))
    image_entry(name, published, labels.shape, DOWNLOAD)  # for its checks
    image, label_image = files.targets(name)
    link_or_copy(published, image)
    save_png(label_image, labels)


def prepare_coco_stuff_10k(root: str, split: str, *, workers: int, limit: int | None = None) -> int:
    """Write the images and label images of coco_2017_*_stuff_10k_sem_seg; files that are there stay.

    Args:
        root: folder of all datasets.
        split: "train" or "test".
        workers: number of processes.
        limit: only so many images.

    Returns:
        The number of images.

    Raises:
        OSError: something that was published is not there, or the disk is full.
        ValueError: an annotation is not as it was published.
    """
    files = Files(root, split)
    names = files.names(limit)
    files.images.mkdir(parents=True, exist_ok=True)
    files.labels.mkdir(parents=True, exist_ok=True)
    make_files(
        partial(_convert, files=files),
        {name: name for name in names},
        files.targets,
        workers=workers,
        description=f"COCO-Stuff 10k, {split}",
    )
    return len(names)
