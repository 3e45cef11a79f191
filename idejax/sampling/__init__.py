"""From prompts, with people in them, to pictures."""
