#!/usr/bin/env python
"""Show what a trained model finds: on images, on a video, or in front of a camera."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from mask2former_ext import Predictor
from mask2former_ext.config import load_config
from mask2former_ext.demo import (
    TASKS,
    Demo,
    Frames,
    ResultFiles,
    Window,
    choose_task,
    configure,
    find_images,
    picture_paths,
    run_images,
    run_video,
    video_file,
    video_path,
)

EPILOG = """
--confidence-threshold, from 0, which shows everything, to 1, which shows nothing:
  instance   the score of an instance (default: 0.5)
  panoptic   the class probability of a segment's query, MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD
             (default: the config's); segments that are hidden for the most part are left out as ever
  semantic   the score of a pixel's best class, at most 1; pixels below it stay as they are (default: 0)

--json writes what is shown: instances as COCO's results with run-length codes; panoptic segments as COCO's panoptic
JSON and PNGs; semantic maps as PNGs of class numbers. One JSON a run; frames of a video are called NAME_000000.

Frames of a camera are recorded at the rate that the camera states. Ctrl-C ends it, q or Esc in a window.

examples:
  python tools/demo.py --config-file configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml \\
      --weights model_final.pth --input photo.jpg 'holiday/**/*.jpg' --output pictures
  python tools/demo.py --config-file CONFIG --weights FILE --video street.mp4 --output found.mp4 --task instance \\
      --confidence-threshold 0.7 --json found.json MODEL.DEVICE cpu
  python tools/demo.py --config-file CONFIG --weights FILE --webcam
"""


def fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return value


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the YAML config of the model")
    parser.add_argument("--weights", metavar="FILE", help="its checkpoint (default: MODEL.WEIGHTS of the config)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", metavar="IMAGE", help="image files, folders of images, or patterns")
    source.add_argument("--video", type=Path, metavar="FILE", help="a video file")
    source.add_argument("--webcam", type=int, nargs="?", const=0, metavar="NUMBER", help="a camera (default: 0)")
    parser.add_argument("--task", choices=list(TASKS), help="(default: the first of these that the config has on)")
    parser.add_argument("--confidence-threshold", type=fraction, metavar="SHARE", help="see below")
    parser.add_argument(
        "--output", type=Path, metavar="PATH", help="a folder or file for pictures (default without --json: a window)"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="a folder or .json file for results")
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="overrides of the config; after a -- where they follow --input"
    )
    return parser.parse_args(arguments)


def build_demo(options: argparse.Namespace) -> Demo:
    cfg = load_config(options.config_file, options.opts)
    task = choose_task(cfg, options.task)
    device = cfg.MODEL.DEVICE if "MODEL.DEVICE" in options.opts else None
    predictor = Predictor(configure(cfg, task, options.confidence_threshold), options.weights, device=device)
    results = ResultFiles(task, options.json, predictor.metadata) if options.json else None
    return Demo(predictor, task, threshold=options.confidence_threshold, results=results)


def show_images(options: argparse.Namespace) -> int:
    images = find_images(options.input)
    pictures = picture_paths(images, options.output) if options.output else None
    with contextlib.ExitStack() as stack:
        window = stack.enter_context(Window()) if not (options.output or options.json) else None
        failures = run_images(build_demo(options), images, pictures=pictures, window=window)
    if len(failures) < len(images):
        print("\n".join(str(path) for path in (options.output, options.json) if path))
    if failures:
        print(f"demo.py: {len(failures)} of {len(images)} images could not be read, see above", file=sys.stderr)
    return int(bool(failures))


def show_video(options: argparse.Namespace) -> int:
    with contextlib.ExitStack() as stack:
        frames = stack.enter_context(Frames(options.video or options.webcam))
        screen = None
        if options.output:
            path = video_path(frames.name, options.video, options.output)
            screen = stack.enter_context(video_file(path, frames.rate, frames.size))
        elif not options.json:
            screen = stack.enter_context(Window())
        count = run_video(build_demo(options), frames, screen)
    print(f"{count} frames{f', written to {path}' if options.output else ''}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with logging_redirect_tqdm():
            return show_images(options) if options.input else show_video(options)
    except (OSError, ValueError) as error:
        print(f"demo.py: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("demo.py: interrupted", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
