"""The miniature: a world of drawn people small enough to train a whole pipeline on."""
