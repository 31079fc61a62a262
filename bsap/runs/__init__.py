"""One run: its folder, records, results, processes and signals."""
