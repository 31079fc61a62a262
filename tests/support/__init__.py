"""What several tests share: planted worlds, tiny models, runs on real processes, and changes made inside them."""
