"""The drawn world: people, scenes, captions, and the renderer of both."""
