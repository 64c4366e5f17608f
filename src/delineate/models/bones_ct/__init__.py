"""The model `bones-ct`."""
