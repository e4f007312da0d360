"""Checkpoints that survive an end at any moment: written whole or not at all, checked before training resumes."""

from __future__ import annotations

import logging
import os
import re
import zipfile
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from ..files import remove_unfinished, whole_file, write_text
from .reading import read_checkpoint

logger = logging.getLogger(__name__)

LAST = "last_checkpoint"
OF_TRAINING = re.compile(r"model_(\d+|final)\.pth")


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, for local folders safe against interruptions and damaged files.

    ``save`` writes under another name first. ``resume_or_load`` resumes from the last file that can be read, and says
    which were passed over. Folders that only Detectron2's ``PathManager`` can write to (``s3://``, say) are written as
    Detectron2 does.

    Attributes:
        last_saved: what :meth:`save` was last called with; "" before the first time.
    """

    last_saved = ""

    def _load_file(self, filename: str) -> dict[str, Any]:
        return read_checkpoint(filename)

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth, and note it as the last checkpoint. ``kwargs`` are saved beside model and state."""
        if "://" in self.save_dir or not self.save_dir or not self.save_to_disk:
            super().save(name, **kwargs)
        else:
            self._save_whole(name, **kwargs)
        self.last_saved = name

    def _save_whole(self, name: str, **kwargs: Any) -> None:
        content = {"model": self.model.state_dict()}
        content |= {key: checkpointable.state_dict() for key, checkpointable in self.checkpointables.items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        with whole_file(path) as unfinished, open(unfinished, "wb") as file:
            torch.save(content | kwargs, file)
            file.flush()
            os.fsync(file.fileno())  # or the name could outlive the content when the power fails
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note the last checkpoint, by which resuming begins."""
        if "://" in self.save_dir:
            super().tag_last_checkpoint(last_filename_basename)
        else:
            write_text(os.path.join(self.save_dir, LAST), last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Tell whether there is anything to resume from, be it damaged."""
        return super().has_checkpoint() or bool(self._candidates())

    def get_checkpoint_file(self) -> str:
        """Return the path of the last checkpoint that was noted; without such a note of the newest file, or ""."""
        if super().has_checkpoint():
            return super().get_checkpoint_file()
        return next(iter(self._candidates()), "")

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """See Detectron2; resumes from the newest checkpoint that is whole. All processes that train together call it.

        Raises:
            ValueError: there are checkpoints to resume from, and all are damaged; or processes find different ones.
        """
        if not resume or "://" in self.save_dir:
            return super().resume_or_load(path, resume=resume)
        newest = self._newest_whole() if self.has_checkpoint() else ""
        found = comm.all_gather(os.path.basename(newest))
        if len(set(found)) > 1:  # they would train different models from different iterations on
            raise ValueError(
                f"the processes do not find the same checkpoint to resume from in '{self.save_dir}', but, by their "
                f"rank, {found}. OUTPUT_DIR has to be one folder for all machines, on a file system that they share, "
                "or a copy of it on each."
            )
        return self.load(newest) if newest else super().resume_or_load(path, resume=False)

    def _newest_whole(self) -> str:
        """The path of the newest checkpoint that is whole; ValueError if none is."""
        if self.save_to_disk:
            remove_unfinished(self.save_dir)
        damaged: list[str] = []
        for candidate in self._candidates():
            damage = damage_of(candidate)
            if not damage:
                if damaged:
                    logger.error("Resuming from an older checkpoint than the last: %s", candidate)
                return candidate
            logger.error("Checkpoint %s cannot be used: %s. Trying the one before it.", candidate, damage)
            damaged.append(candidate)
        raise ValueError(
            f"none of the checkpoints in '{self.save_dir}' can be read: {', '.join(damaged) or LAST}. To start anew, "
            "remove them, or leave out --resume."
        )

    def _candidates(self) -> list[str]:
        """Paths to resume from, the best first: what was noted last, then the others from the newest."""
        if not os.path.isdir(self.save_dir):
            return []
        files = [entry.path for entry in os.scandir(self.save_dir) if OF_TRAINING.fullmatch(entry.name)]
        files.sort(key=os.path.getmtime, reverse=True)  # by iteration, an earlier run's would come first
        if super().has_checkpoint():
            last = super().get_checkpoint_file()
            files = [last, *(file for file in files if file != last)]
        return files


def damage_of(path: str) -> str:
    """Read a file that ``torch.save`` wrote, and say what is wrong with it; "" if nothing is.

    All bytes are checked against the checksums in the file, which ``torch.load`` does not do.
    """
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except FileNotFoundError:
        return "there is no such file"
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        return f"it was cut short or overwritten ({error})"
    return f"its entry {broken} was changed after it was written" if broken else ""
