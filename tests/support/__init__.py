"""What several tests share: the planted world, runs on real processes, and changes made inside those processes."""
