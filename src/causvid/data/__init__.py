"""Where clips come from: datasets of latents with captions, and the shards they are stored in."""
