"""Export of a model to a file that runs without this package, checked before it gets its name."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..modeling import MaskFormer
from .description import describe
from .module import ExportableModel, plain_operator
from .onnx_format import import_package, load_onnx, save_onnx
from .runner import ExportedModel
from .torch_formats import load_torch_export, load_torchscript, save_torch_export, save_torchscript
from .verify import Difference, verification_images, verification_sizes, verify

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3
# Height and width that a model for any size is captured at.
EXAMPLE_SIZE = (256, 320)
DATA_SUFFIX = ".data"
OPERATORS = "mask2former_ext"


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffixes: endings of its names.
        load: reads it.
        keeps_operators: whether it can hold this package's compiled operators.
    """

    suffixes: tuple[str, ...]
    load: Callable[[Path], ExportedModel]
    keeps_operators: bool = False


FORMATS = {
    "onnx": Format((".onnx",), load_onnx),
    "torch_export": Format((".pt2",), load_torch_export, keeps_operators=True),
    "torchscript": Format((".pt", ".ts"), load_torchscript),
}


@dataclass(frozen=True)
class ExportReport:
    """What came of an export.

    Attributes:
        differences: of every output, at every size that was run.
        seconds: that capture and conversion took.
        files: that were written, and their sizes in bytes.
    """

    differences: list[Difference]
    seconds: float
    files: dict[Path, int]

    @property
    def largest(self) -> Difference:
        """The largest of the differences."""
        return max(self.differences, key=lambda difference: difference.value)


def export_model(
    model: MaskFormer,
    output: str | Path,
    *,
    format: str,
    tasks: Sequence[str] = ("raw",),
    size: tuple[int, int] | None = None,
    static: bool = False,
    opset: int | None = None,
    reference_op: bool = False,
    tolerance: float = TOLERANCE,
    input_format: str = "BGR",
) -> ExportReport:
    """Export ``model``, run the file at several sizes, and give it its name if it does what the model does.

    Args:
        model: in evaluation mode.
        output: the file; its ending must be one of the format's.
        format: one of :data:`FORMATS`.
        tasks: some of :data:`TASKS`.
        size: (height, width) of the example that it is captured by, in pixels; by default :data:`EXAMPLE_SIZE`.
        static: hold the file to one image of that size; otherwise it takes any number of images of any size larger
            than the size divisibility.
        opset: of ONNX.
        reference_op: for torch_export: plain PyTorch in place of the compiled operator, so that nothing of this package
            is needed to load the file. The other formats always do so.
        tolerance: the largest difference to let pass, see :class:`Difference`.
        input_format: INPUT.FORMAT, for the metadata.

    Raises:
        ImportError: the format needs a package that is not installed.
        ValueError: the model cannot be exported so, or the file does not do what the model does. There is no file then.
    """
    output = Path(output)
    module = ExportableModel(model, tasks)
    _check_arguments(output, format, static, size, opset, module.size_divisibility)
    plain = reference_op or not FORMATS[format].keeps_operators
    # a batch of one image would be a case of its own
    example_size = (1 if static else 2, *(size or EXAMPLE_SIZE))
    example = verification_images(example_size, len(model.pixel_mean)).to(model.device)
    needs = "" if plain else OPERATORS
    description = describe(model, module, example, static=static, input_format=input_format, needs=needs)
    with _publish(output) as unfinished:
        logger.info("exporting to %s: %s", format, ", ".join(module.tasks))
        start = time.perf_counter()
        with plain_operator(module) if plain else contextlib.nullcontext():
            if format == "onnx":
                save_onnx(module, example, unfinished, description, static=static, opset=opset)
            elif format == "torch_export":
                save_torch_export(module, example, unfinished, description, static=static)
            else:
                save_torchscript(module, example, unfinished, description)
        seconds = time.perf_counter() - start
        sizes = verification_sizes(example_size, module.size_divisibility, static=static)
        logger.info("running the file at %s", ", ".join("×".join(map(str, each)) for each in sizes))
        differences = verify(FORMATS[format].load(unfinished).run, module, sizes, example)
        files = {output.with_name(file.name): file.stat().st_size for file in sorted(unfinished.parent.iterdir())}
        report = ExportReport(differences, seconds, files)
        _refuse_if_different(report, tolerance)
    return report


def _check_arguments(
    output: Path, format: str, static: bool, size: tuple[int, int] | None, opset: int | None, divisibility: int
) -> None:
    if format not in FORMATS:
        raise ValueError(f"format '{format}' is unknown; there are {list(FORMATS)}.")
    if output.suffix not in FORMATS[format].suffixes:
        raise ValueError(f"the file '{output}' must end in {' or '.join(FORMATS[format].suffixes)} for {format}.")
    if output.is_dir():
        raise ValueError(f"'{output}' is a folder: name the file to write.")
    if static and size is None:
        raise ValueError("--static needs the size of the images: --size H W.")
    height, width = size or EXAMPLE_SIZE
    if not static and min(height, width) <= divisibility:
        raise ValueError(
            f"--size {height} {width}: a file for any size is made by a larger example, of which both sides are above "
            f"{divisibility} pixels, the size divisibility; --static makes one for that size alone."
        )
    if opset is not None and format != "onnx":
        raise ValueError(f"--opset is ONNX's; {format} has none.")
    if format == "onnx":
        import_package("onnxruntime")  # before minutes of export


def _refuse_if_different(report: ExportReport, tolerance: float) -> None:
    largest = report.largest
    if largest.value <= tolerance:
        return
    raise ValueError(
        f"the exported model differs too much: {largest.output} at {'×'.join(map(str, largest.size))} (batch, height, "
        f"width) by {largest.value:.2g}, above the tolerance {tolerance:.2g}. Nothing was kept. If it takes other "
        "sizes wrongly, --static exports it for one size; --tolerance allows for more."
    )


@contextlib.contextmanager
def _publish(output: Path) -> Iterator[Path]:
    """A path in a temporary folder; what lies in there takes its place beside ``output`` if the block does not fail."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        unfinished = Path(folder) / output.name
        yield unfinished
        data, old_data = (path.with_name(path.name + DATA_SUFFIX) for path in (unfinished, output))
        if data.exists():
            data.replace(old_data)
        unfinished.replace(output)
