"""Names and colours of classes by label, the index that models and annotations give to a class.

The metadata of a data set may have two lists of either. ``stuff_classes`` and ``stuff_colors`` are of all classes, by
label. ``thing_classes`` and ``thing_colors`` go by label too where they have all classes as well, where things come
first, or where there are instances alone; but those of ADE20K's panoptic sets, and of Cityscapes but its panoptic sets,
have the things alone and number them anew, 0, 1, … .
"""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import Metadata

STUFF, THING = "stuff", "thing"


def thing_labels(metadata: Metadata) -> set[int]:
    """Labels of the classes that are things; all others are stuff."""
    return set((metadata.get("thing_dataset_id_to_contiguous_id") or {}).values())


def class_names(metadata: Metadata, num_classes: int, *, of_things: bool = False) -> list[str]:
    """A name for each of ``num_classes`` labels, "class 7" where the metadata have none; see :func:`listed_names`."""
    names = listed_names(metadata, num_classes, of_things=of_things)
    return [class_name(names, label) for label in range(num_classes)]


def class_name(names: Sequence[str], label: int) -> str:
    """The name of a label, or "class 7" where there is none."""
    return names[label] if 0 <= label < len(names) else f"class {label}"


def listed_names(metadata: Metadata, num_classes: int | None = None, *, of_things: bool = False) -> list[str]:
    """Names by label, as many as the metadata have.

    Args:
        metadata: of a data set.
        num_classes: K, of a model or of annotations: the list that has a name for each class and no more is the one
            that goes by their labels. There are K names at most. None where the number is not known.
        of_things: for labels of things or instances. It counts where things and stuff have labels of their own, and
            where the lists spell names differently.
    """
    kind = _kind_by_label(metadata, num_classes, of_things)
    return list(metadata.get(f"{kind}_classes") or ())[:num_classes]


def listed_colours(metadata: Metadata, num_classes: int, *, of_things: bool = False) -> list[Sequence[int]]:
    """K colours by label (0…255, RGB), of the list that :func:`listed_names` takes; empty where there are fewer."""
    kind = _kind_by_label(metadata, num_classes, of_things)
    colours = list(metadata.get(f"{kind}_colors") or ())[:num_classes]
    return colours if len(colours) == num_classes else []


def _kind_by_label(metadata: Metadata, num_classes: int | None, of_things: bool) -> str:
    """Which of the two lists goes by the labels of ``num_classes`` classes: :data:`STUFF` or :data:`THING`."""
    kinds = (THING, STUFF) if of_things else (STUFF, THING)
    lengths = {kind: len(metadata.get(f"{kind}_classes") or ()) for kind in kinds}
    for kind in kinds:
        if lengths[kind] == num_classes:
            return kind
    if max(thing_labels(metadata), default=-1) >= lengths[THING]:
        return STUFF  # the things are numbered anew
    enough = 1 if num_classes is None else num_classes
    return next((kind for kind in kinds if lengths[kind] >= enough), max(kinds, key=lambda kind: lengths[kind]))
