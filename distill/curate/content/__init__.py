"""Content filters: what the text of one trace says against learning from it."""
