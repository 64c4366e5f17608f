"""The model `scribbles`."""
