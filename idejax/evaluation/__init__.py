"""How good pictures are: metrics, reports, comparisons of methods."""
