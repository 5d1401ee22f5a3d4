"""Students: dense Llama and Qwen shapes, their cache, quantized copies and import from GGUF."""
