"""Sampling: everything that speaks, behind one protocol."""
