"""Paired statistics and measures of bias."""
