"""Algebra: what it takes to call two closed forms equal; exact here, with sympy in a child process behind it."""
