"""Auxiliary prompts: banks, templates and noun phrases."""
