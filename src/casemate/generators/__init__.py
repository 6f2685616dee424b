"""Generators of data: networks that make inputs, trained here and kept as safetensors."""
