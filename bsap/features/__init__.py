"""Region and text features: encoding, caching, storing, comparing."""
