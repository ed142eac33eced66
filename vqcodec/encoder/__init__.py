"""Picture -> index grids -> payload: the search for indices, and rate control."""
