"""Audit of datasets: what would stop a training, or make it learn something else than was meant."""

from .audit import audit_dataset, audit_registered, find_shared_images
from .class_names import read_class_names
from .contact_sheet import draw_contact_sheet
from .findings import KINDS, Finding
from .report import AuditReport, format_report

__all__ = [
    "KINDS",
    "AuditReport",
    "Finding",
    "audit_dataset",
    "audit_registered",
    "draw_contact_sheet",
    "find_shared_images",
    "format_report",
    "read_class_names",
]
