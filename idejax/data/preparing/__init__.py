"""Photos to training shards, once: where they come from, what is computed of each, which are kept, how they are stored."""
