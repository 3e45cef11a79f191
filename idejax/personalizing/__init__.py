"""Photos of people -> what a method learns of them: one person or many at once, by any method."""
