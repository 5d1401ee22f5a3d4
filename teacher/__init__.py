"""The teacher: DeepSeek-V3's architecture, its checkpoints, its cache and its kernels."""
