"""Problems: procedural families with exact judges, and real benchmarks read from files."""
