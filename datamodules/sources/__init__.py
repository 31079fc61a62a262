"""Fetching datasets: the catalogue, downloads, archives, and conversion to the forms that the readers read."""
