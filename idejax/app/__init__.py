"""The comic app: people are learned once under their names; a story becomes panels in which they act."""
