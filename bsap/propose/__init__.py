"""Proposals for pictures, found by object detectors."""
