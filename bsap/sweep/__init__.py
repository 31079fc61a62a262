"""Many settings evaluated over stored features."""
