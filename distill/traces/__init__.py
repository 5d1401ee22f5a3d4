"""Stored traces: found, counted, checked and carried elsewhere. Nothing here writes a trace or a verdict."""
