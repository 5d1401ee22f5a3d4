"""Evals: benches, intervals and the report."""
