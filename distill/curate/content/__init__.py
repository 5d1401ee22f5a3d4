"""Content filters: what the text of one trace says against learning from it."""

from distill.curate.content.filters import ContentConfig, content_filters
from distill.curate.content.finding import Filter, Finding, Text

__all__ = ["ContentConfig", "Filter", "Finding", "Text", "content_filters"]
