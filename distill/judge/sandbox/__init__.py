"""Sandbox: where programs of models run. Standard library only, so that its server starts bare."""
