"""Opens any checkpoint folder: the teacher's architecture goes to `teacher`, everything else to `students`."""

from pathlib import Path
from typing import Any

from distill.checkpoints import read_config
from distill.sampling.protocols import Decoder, LoadedModel


class Folders:
    """The application's `ModelLoader`."""

    def load(self, folder: Path, *, dtype: str = "float32", device: str = "cpu") -> LoadedModel:
        """Model and tokenizer of a folder; UserError naming what is wrong with it."""
        from students.loader import load_student
        from teacher.loader import is_teacher, load_teacher

        load = load_teacher if is_teacher(read_config(folder)) else load_student
        return load(folder, dtype=dtype, device=device)

    def decoder(self, model: Any) -> Decoder:
        """The latent cache for a teacher, keys and values for a student."""
        from students.decoder import KVDecoder
        from teacher.decoder import LatentDecoder
        from teacher.loader import is_teacher

        return LatentDecoder(model) if is_teacher(model.config.to_dict()) else KVDecoder(model)
