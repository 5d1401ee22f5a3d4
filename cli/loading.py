"""Opens any checkpoint folder: the teacher's architecture goes to `teacher`, everything else to `students`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from distill.checkpoints import read_config
from distill.errors import UserError
from distill.progress import Progress
from distill.sampling.protocols import Decoder, LoadedModel
from distill.train.estimate import TrainShape


class Folders:
    """The application's `ModelLoader`. A teacher's weights are counted on `progress` while they are read."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress

    def load(
        self,
        folder: Path,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        backends: Mapping[str, str] | None = None,
        expert_parallel: int = 1,
    ) -> LoadedModel:
        """Model and tokenizer of a folder; UserError naming what is wrong with it, or with the choice of backends.

        With `expert_parallel` above 1, on each of so many processes: this one's share, for training.
        """
        from students.loader import load_student
        from teacher.loader import is_teacher, load_teacher

        config = read_config(folder)
        if is_teacher(config):
            if expert_parallel > 1:
                from teacher.parallel.training import load_sharing

                return load_sharing(
                    folder, expert_parallel, dtype=dtype, device=device, progress=self.progress, backends=backends or {}
                )
            return load_teacher(folder, dtype=dtype, device=device, progress=self.progress, **(backends or {}))
        if expert_parallel > 1:
            raise UserError(
                f"{folder}: expert_parallel = {expert_parallel} is for teachers; model_type {config['model_type']} has "
                "no routed experts: set it to 1 and start without torchrun"
            )
        for key, name in (backends or {}).items():
            raise UserError(
                f"{folder}: {key} = {name!r} is a teacher's choice; model_type {config['model_type']} has none"
            )
        with (self.progress or Progress("quiet")).task(f"read {folder.name}", unit="checkpoints") as task:
            loaded = load_student(folder, dtype=dtype, device=device)
            task.advance()
        return loaded

    def train_shape(self, folder: Path) -> TrainShape | None:
        """The shape of a teacher or of a student the engine knows; None for others."""
        from students.decoder import ARCHITECTURES
        from students.shapes import student_config
        from students.shapes import train_shape as student_shape
        from teacher.loader import is_teacher, read_teacher_config
        from teacher.parallel.shapes import train_shape as teacher_shape

        config = read_config(folder)
        if is_teacher(config):
            return teacher_shape(read_teacher_config(folder), folder.name)
        if config["model_type"] not in ARCHITECTURES:
            return None
        return student_shape(student_config(folder), folder.name)

    def engine(
        self,
        folder: Path,
        *,
        device: str,
        weights: Literal["exact", "int8"] = "exact",
        dtype: str = "float32",
        tensor_parallel: int = 1,
        expert_parallel: int = 1,
        backends: Mapping[str, str] | None = None,
    ) -> tuple[LoadedModel, Decoder]:
        """A folder ready to speak; over several processes, or with FP8 weights kept, where that is asked for."""
        from teacher.loader import is_teacher

        if max(tensor_parallel, expert_parallel) == 1 and dtype != "fp8":
            loaded = self.load(folder, dtype=dtype, device=device, backends=backends)
            return loaded, self.decoder(loaded.model, weights)
        if not is_teacher(read_config(folder)):
            raise UserError(f"{folder}: no teacher; tensor_parallel, expert_parallel and dtype fp8 are for teachers")
        from teacher.parallel.lead import open_teacher

        return open_teacher(
            folder,
            tensor_parallel,
            expert_parallel,
            dtype=dtype,
            device=device,
            backends=backends or {},
            progress=self.progress,
        )

    def decoder(self, model: Any, weights: Literal["exact", "int8"] = "exact") -> Decoder:
        """The latent cache for a teacher, keys and values for a student."""
        from students.decoder import KVDecoder
        from teacher.decoder import LatentDecoder
        from teacher.loader import is_teacher

        kind = LatentDecoder if is_teacher(model.config.to_dict()) else KVDecoder
        return kind(model, weights)
