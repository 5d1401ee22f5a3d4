"""The command line: wires rooms together, holds no logic. Imports typer only, until a command runs."""
