"""Proposals from object detectors."""
