"""Export to ONNX, torch.export and TorchScript, with the files checked against the model."""

from .exporter import FORMATS, TOLERANCE, ExportReport, export_model
from .module import OUTPUTS, TASKS, ExportableModel
from .onnx_format import load_onnx
from .torch_formats import load_torch_export, load_torchscript

__all__ = [
    "FORMATS",
    "OUTPUTS",
    "TASKS",
    "TOLERANCE",
    "ExportReport",
    "ExportableModel",
    "export_model",
    "load_onnx",
    "load_torch_export",
    "load_torchscript",
]
