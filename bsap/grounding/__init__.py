"""Python's way in: embeddings, pictures and sentences go in, plain values come out."""
