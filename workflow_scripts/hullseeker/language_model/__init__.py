"""Crystals as text, generation, training, and models from the hub and from GGUF files."""
