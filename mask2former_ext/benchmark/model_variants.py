"""Which models to compare: configs and their peers, and how to build each of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from ..config import is_maskformer, load_config
from ..data import datasets  # noqa: F401  (registers data sets, whose metadata tell things from stuff)
from .model_peers import TorchvisionSubject, TransformersSubject
from .models import TASKS, MaskFormerSubject, MaskRCNNSubject, StraightforwardSubject, Subject, Work

OWN, STRAIGHTFORWARD, TRANSFORMERS, TORCHVISION = "this package", "straightforward", "transformers", "torchvision"
PEERS = (STRAIGHTFORWARD, TRANSFORMERS, TORCHVISION)


@dataclass(frozen=True)
class Variant:
    """One model to measure, in words, so that another process can build it too.

    Attributes:
        config: path of its config; empty for torchvision's.
        implementation: ``OWN``, ``STRAIGHTFORWARD``, ``TRANSFORMERS`` or ``TORCHVISION``.
    """

    config: str
    implementation: str

    @property
    def name(self) -> str:
        if not self.config:
            return self.implementation
        return self.config if self.implementation == OWN else f"{self.config}, {self.implementation}"


def load_work_config(config: str, work: Work) -> CfgNode:
    """The config with the overrides of ``work``; without weights to fetch, and with no box too unlikely to count.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_config`; ValueError also for a model that is not measured here.
    """
    cfg = load_config(config, work.opts)
    cfg.MODEL.DEVICE = str(work.device)
    cfg.MODEL.WEIGHTS = ""
    if not is_maskformer(cfg):
        if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
            raise ValueError(
                f"config '{config}' builds a {cfg.MODEL.META_ARCHITECTURE}; MaskFormer and GeneralizedRCNN (such as "
                "Mask R-CNN) are measured."
            )
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    elif work.tasks is not None:
        for task in TASKS:
            cfg.MODEL.MASK_FORMER.TEST[f"{task.upper()}_ON"] = task in work.tasks
    return cfg


def variants_of(configs: Sequence[str], peers: Collection[str], work: Work) -> list[Variant]:
    """Every config, each followed by its peers, and torchvision's model once.

    Raises:
        ValueError: a config is named twice; and as :func:`load_work_config`.
    """
    if len(set(configs)) < len(configs):
        raise ValueError(f"configs {' '.join(configs)}: name each once.")
    found = []
    for config in configs:
        found.append(Variant(config, OWN))
        if is_maskformer(load_work_config(config, work)):
            found += [Variant(config, peer) for peer in (STRAIGHTFORWARD, TRANSFORMERS) if peer in peers]
    return [*found, Variant("", TORCHVISION)] if TORCHVISION in peers else found


def build_subject(variant: Variant, work: Work) -> Subject:
    """Build the model of ``variant``, in evaluation mode, and its inputs.

    Raises:
        ImportError: it is a peer's, which is not installed.
        ValueError: there is no such peer of this config; and as :func:`load_work_config`.
    """
    subject: Subject
    if variant.implementation == TORCHVISION:
        subject = TorchvisionSubject(work)
    else:
        cfg = load_work_config(variant.config, work)
        if not is_maskformer(cfg):
            subject = MaskRCNNSubject(cfg, work)
        else:
            kinds = {
                OWN: MaskFormerSubject,
                STRAIGHTFORWARD: StraightforwardSubject,
                TRANSFORMERS: TransformersSubject,
            }
            subject = kinds[variant.implementation](cfg, work)
    subject.model.eval()
    return subject
