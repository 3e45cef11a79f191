"""The comic story app: people with names are learned once and kept; a story becomes panels in which they act."""
