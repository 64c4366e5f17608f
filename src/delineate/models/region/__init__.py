"""The model `region`."""
