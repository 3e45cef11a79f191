"""What each command does: one linear main per file."""
