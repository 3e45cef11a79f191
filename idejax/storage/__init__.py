"""Files: written completely or not at all, read without running anything in them."""
