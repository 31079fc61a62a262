"""What several tests share: the planted world, runs on real processes, changes made inside those processes, and tiny models."""
