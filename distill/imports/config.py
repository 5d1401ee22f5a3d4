"""The table of an import step."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from distill.curate.terms import Terms
from distill.errors import shown
from distill.imports.layouts import LayoutName, Meaning
from distill.recipe import StageConfig
from distill.records import Params


class ImportConfig(StageConfig):
    """Which foreign traces are taken, how their columns are read, and what may be done with them."""

    inputs: ClassVar[tuple[str, ...]] = ("problems",)
    files: str | tuple[str, ...] = ()
    """JSONL (also .gz), JSON arrays, parquet, or folders: paths with a slash, or names in the data directory."""
    dataset: str | None = None
    """Instead of files: a folder that `datasets` reads, or a hub id."""
    dataset_config: str | None = None
    """Configuration of the dataset, `metadata` say."""
    dataset_split: str = "train"
    """Split of the dataset that is read; says nothing about the split of the problems."""
    dataset_revision: str | None = None
    """Commit of a hub id, which cannot do without: what stands under a name changes."""
    source: str = Field(min_length=1)
    """Name of the set, in problem ids, card and gate."""
    licence: str = "unknown"
    """Licence of the set as its publisher gives it."""
    url: str | None = None
    """Where the set is published."""
    teacher: str | None = None
    """Who wrote the traces, where no column says so."""
    teacher_revision: str | None = None
    """Version of that model; None takes the content of the files."""
    terms: Terms | None = None
    """Whether a student may learn from them; None takes the suggestion for the teacher (docs/import.md)."""
    layout: Literal["auto", LayoutName] = "auto"
    """How the columns are laid out; auto finds out and shows the evidence."""
    map: dict[Meaning, str] = Field(default_factory=dict)
    """Columns by what they hold, as {prompt = "question", text = "response"}; dots reach inside, "" leaves one out."""
    problems: str | None = None
    """Step or file with the problems, found by the column problem_id, else by the prompt."""
    split: Literal["train", "test"] = "train"
    """Split of problems that come with the traces."""
    think_open: bool = False
    """The texts begin inside a think block that the prompt had opened."""
    turns: Literal["one", "first"] = "one"
    """Of a conversation: one takes single exchanges only, first takes the first exchange of any."""
    params: Params | None = None
    """How they were sampled, where the publisher says so and no column does."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """refuse stops before anything is judged, skip takes the others; both list every bad row in bad_rows.jsonl."""
    limit: int | None = Field(default=None, gt=0)
    """First rows read; None reads all."""

    @model_validator(mode="after")
    def _fields_fit_together(self) -> "ImportConfig":
        if bool(self.files) == bool(self.dataset):
            raise ValueError("files and dataset: give one of the two")
        if self.dataset is None:
            for key in ("dataset_config", "dataset_split", "dataset_revision"):
                if key in self.model_fields_set:
                    raise ValueError(f"{key}: only a dataset has one, files do not")
        for key, name in (("source", self.source), ("teacher", self.teacher), ("licence", self.licence)):
            if name is not None and not name.isprintable():
                raise ValueError(f"{key}: expected a name on one line, got {shown(name)}")
        return self

    @property
    def places(self) -> tuple[str, ...]:
        """`files` as a tuple."""
        return (self.files,) if isinstance(self.files, str) else self.files
