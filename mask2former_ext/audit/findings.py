"""What an audit can find: one table of kinds, and findings that name a kind and a place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Severity = Literal["fault", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("fault", "warning", "info")


class Kind(NamedTuple):
    """What findings of one kind share.

    Attributes:
        severity: a fault stops training or evaluation, or makes annotations mean something else without a word; a
            warning trains, and is likely not what was meant; an info is good to know.
        headline: the kind in a few words.
        way_out: a sentence that says what to do.
    """

    severity: Severity
    headline: str
    way_out: str


KINDS: dict[str, Kind] = {
    # files
    "image-missing": Kind(
        "fault", "image files that do not exist", "Restore the file, or take its entry out of the annotations."
    ),
    "image-unreadable": Kind(
        "fault", "image files that cannot be read to their end", "Copy the file again from where it came from."
    ),
    "image-size-differs": Kind(
        "fault",
        "images of another size than their annotations",
        "Annotate the files as they are, or bring back those that were annotated; look for resized and rotated ones.",
    ),
    "image-mode": Kind(
        "fault", "images of 32 bits a pixel, which training refuses", "Scale the values to 0…255 and save as 8 bits."
    ),
    "image-deep": Kind(
        "warning",
        "images of 16 bits a channel",
        "Models are given the higher 8 bits: if the values do not reach 65535, scale them to 0…255 and save as 8 bits.",
    ),
    "image-repeated": Kind("info", "images with the same bytes", "Remove all but one, if that was not meant."),
    "image-unused": Kind(
        "info", "images of the folder that no annotation names", "Annotate them if they are to be trained on."
    ),
    "png-missing": Kind(
        "fault", "annotation PNGs that do not exist", "Restore the PNG, or take its image out of the dataset."
    ),
    "png-unreadable": Kind(
        "fault", "annotation PNGs that cannot be read to their end", "Copy the file again from where it came from."
    ),
    "png-size-differs": Kind(
        "fault",
        "annotation PNGs of another size than their image",
        "Both must have the same size: look for resized files.",
    ),
    "png-mode": Kind(
        "fault",
        "annotation PNGs in another colour mode than ids need",
        "Write panoptic ids as RGB, R + 256·G + 65536·B, and semantic labels as one channel of contiguous ids.",
    ),
    # entries of the annotation file
    "entry-malformed": Kind(
        "fault",
        "entries of the annotation file that lack something or are no such entry",
        "Export the annotations again.",
    ),
    "image-id-repeated": Kind("fault", "image ids used more than once", "Give every image an id of its own."),
    "image-listed-twice": Kind(
        "warning",
        "files that are listed as several images",
        "Merge the entries: each is trained on without the other's.",
    ),
    "image-annotated-twice": Kind(
        "fault", "images with more than one panoptic annotation", "Keep one panoptic annotation for each image."
    ),
    "annotation-id-repeated": Kind("fault", "annotation ids used more than once", "Number the annotations anew."),
    "annotation-without-image": Kind(
        "fault",
        "annotations of images that are not listed",
        "Add the image to the file's images, or remove the annotation.",
    ),
    "annotation-repeated": Kind(
        "warning",
        "objects that are annotated twice with the same mask and category",
        "Remove the copies: two queries cannot both be right about one object.",
    ),
    "annotation-ignore-flag": Kind(
        "fault", 'annotations with "ignore" set, which Detectron2 refuses', "Remove the annotation, or make it a crowd."
    ),
    "category-id-repeated": Kind("fault", "category ids used more than once", "Give every category an id of its own."),
    "category-name-repeated": Kind("warning", "names of several categories", "Merge the categories, or rename one."),
    "category-unknown": Kind(
        "fault", "category ids that are not among the categories", "Add the category, or correct the annotation."
    ),
    "class-names-differ": Kind(
        "fault",
        "categories that are not among the given class names",
        "All files of a dataset need the same categories: correct the names or the file.",
    ),
    "image-without-annotations": Kind(
        "info",
        "images without annotations",
        "Annotate or remove them: training leaves out images without a panoptic entry and, unless"
        " DATALOADER.FILTER_EMPTY_ANNOTATIONS is False, those without instances.",
    ),
    # masks and boxes
    "segmentation-missing": Kind(
        "fault", "objects without a mask", "A box alone trains no mask: add a mask, or remove the annotation."
    ),
    "polygon-invalid": Kind(
        "fault", "invalid polygons", "Polygons are lists [x, y, x, y, …], in pixels, in one list: correct or remove it."
    ),
    "polygon-outside": Kind(
        "fault",
        "polygons that lie wholly outside of their image",
        "Look for annotations of another size or another image.",
    ),
    "polygon-beyond-border": Kind(
        "warning",
        "polygons that reach beyond the border of their image",
        "They are cut there. Look for annotations of another size or another image, or clip them.",
    ),
    "rle-invalid": Kind(
        "fault",
        "run-length codes that do not fit their image",
        "A code has the size [height, width] of its image, and counts that add up to its pixels.",
    ),
    "mask-empty": Kind("fault", "masks without a pixel", "Remove the annotation, or draw its mask."),
    "mask-tiny": Kind(
        "warning",
        "masks of fewer than 16 pixels",
        "Masks are predicted at a quarter of the image's size, so these are less than a cell. Remove stray specks.",
    ),
    "box-invalid": Kind(
        "fault", "invalid boxes", "A box is [x, y, width, height], finite, with a positive width and height."
    ),
    "box-differs": Kind(
        "warning",
        "boxes that are not those of their masks",
        "A box is [x, y, width, height] in pixels of the image, around the mask. Compute them from the masks.",
    ),
    "area-differs": Kind(
        "info",
        "areas that are not those of their masks",
        "AP by size goes by the stated area: state the number of the mask's pixels.",
    ),
    "area-wrong": Kind(
        "warning",
        "panoptic segments whose stated area is not the number of their pixels",
        "The panoptic quality is computed from the stated area: state the number of pixels.",
    ),
    "too-many-objects": Kind(
        "warning",
        "images with more objects than queries",
        "What exceeds the queries can be neither learned nor found: raise MODEL.MASK_FORMER.NUM_OBJECT_QUERIES.",
    ),
    # panoptic
    "segment-without-pixels": Kind(
        "fault",
        "ids in segments_info that their PNG lacks",
        "PNGs and JSON must be of the same version of the dataset.",
    ),
    "pixels-without-segment": Kind(
        "fault", "ids in a PNG that segments_info lacks", "PNGs and JSON must be of the same version of the dataset."
    ),
    "segment-id-repeated": Kind(
        "fault",
        "ids used more than once in one image's segments_info",
        "Give every segment of an image an id of its own.",
    ),
    "isthing-missing": Kind(
        "fault",
        'categories that do not say whether they are things ("isthing")',
        'Add "isthing": 1 for things, 0 for stuff.',
    ),
    "isthing-differs": Kind(
        "fault", "segments that contradict their category about being things", "Correct the segment or its category."
    ),
    "stuff-repeated": Kind(
        "warning",
        "stuff classes with several segments in one image",
        "Results merge a stuff class into one segment, which matches none of these. Merge them, or make it a thing.",
    ),
    # semantic
    "label-outside-range": Kind(
        "fault",
        "labels that are neither a class nor the ignore label",
        "Labels must be contiguous ids that begin at 0.",
    ),
    "all-ignored": Kind("warning", "images in which nothing has a label", "Remove them, or label them."),
    "one-class-with-ignore": Kind(
        "fault",
        "one class, and everything else is ignored",
        "Make what is not the class a class of its own (background), rather than ignored, and count it as a class.",
    ),
    "one-class-only": Kind(
        "warning", "one class in every pixel", "There is nothing to tell it from: check how the labels were written."
    ),
    "classes-inferred": Kind(
        "info", "the number of classes was not given", "Give it: labels beyond the classes are found only then."
    ),
    # the dataset as a whole
    "class-without-annotations": Kind(
        "warning", "classes without any annotation", "They cannot be learned: remove the class, or annotate it."
    ),
    "void-share-high": Kind(
        "warning", "more than half of all pixels have no label", "Check the ignore label, and what was left unlabelled."
    ),
    "crowd-share-high": Kind(
        "warning", "more than half of all pixels are crowds", "Crowds are not trained on: check the iscrowd flags."
    ),
    "image-in-both": Kind(
        "warning",
        "images of the validation data that are trained on too",
        "Remove them from one of the two, else results look better than they are.",
    ),
}
"""Every kind of finding by its name, in the order of reports."""


def printable(text: str) -> str:
    """The text with escapes for what UTF-8 has no form for: bytes of file names in another encoding, say."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that an audit found.

    Attributes:
        kind: a key of ``KINDS``.
        cause: what was found, as a sentence.
        file: where, the file that it is about.
        image_id, annotation_id: where, as the annotation file numbers it.
    """

    kind: str
    cause: str
    file: str | None = None
    image_id: int | str | None = None
    annotation_id: int | str | None = None

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    @property
    def place(self) -> str:
        """File, image and annotation, as far as they are known."""
        named = {"image_id": self.image_id, "annotation": self.annotation_id}
        ids = [f"{name} {value}" for name, value in named.items() if value is not None]
        return ", ".join(([self.file] if self.file else []) + ids)

    def __str__(self) -> str:
        """Place, cause and way out."""
        start = f"{self.place}: " if self.place else ""
        return printable(f"{start}{self.cause} {KINDS[self.kind].way_out}")

    def to_json(self) -> dict[str, Any]:
        values = {
            "kind": self.kind,
            "severity": self.severity,
            "file": self.file,
            "image_id": self.image_id,
            "annotation_id": self.annotation_id,
            "message": f"{self.cause} {KINDS[self.kind].way_out}",
        }
        return {key: printable(value) if isinstance(value, str) else value for key, value in values.items()}
