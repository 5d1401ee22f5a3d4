"""Report: one self-contained HTML page about a run. `stage` is the way in."""
