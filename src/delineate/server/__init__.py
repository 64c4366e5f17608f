"""The HTTP server: protocols over one store."""
