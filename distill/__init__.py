"""Distil: problems to verified traces, traces to examples, examples to small dense students.

The process. It knows no concrete model; `teacher`, `students` and `evals` meet here
through the nouns of `records` and the protocols of `sampling`.
"""

__version__ = "0.1.0"
