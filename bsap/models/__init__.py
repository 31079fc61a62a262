"""CLIP-like models: configuration, weights, towers and precision."""
