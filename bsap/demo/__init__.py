"""The embedded demo: a drawn world in RefCOCO's own file format and a tiny CLIP trained on it from scratch."""
