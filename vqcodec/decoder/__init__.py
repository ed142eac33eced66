"""Payload -> index grids -> picture."""
