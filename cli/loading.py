"""Opens any checkpoint folder: the teacher's architecture goes to `teacher`, everything else to `students`."""

from pathlib import Path
from typing import Any

from distill.checkpoints import read_config
from distill.progress import Progress
from distill.sampling.protocols import Decoder, LoadedModel


class Folders:
    """The application's `ModelLoader`. A teacher's weights are counted on `progress` while they are read."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress

    def load(self, folder: Path, *, dtype: str = "float32", device: str = "cpu") -> LoadedModel:
        """Model and tokenizer of a folder; UserError naming what is wrong with it."""
        from students.loader import load_student
        from teacher.loader import is_teacher, load_teacher

        if is_teacher(read_config(folder)):
            return load_teacher(folder, dtype=dtype, device=device, progress=self.progress)
        return load_student(folder, dtype=dtype, device=device)

    def decoder(self, model: Any) -> Decoder:
        """The latent cache for a teacher, keys and values for a student."""
        from students.decoder import KVDecoder
        from teacher.decoder import LatentDecoder
        from teacher.loader import is_teacher

        return LatentDecoder(model) if is_teacher(model.config.to_dict()) else KVDecoder(model)
