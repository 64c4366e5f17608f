"""Builds and checks the installable zip. Nothing here is shipped, and all but `probe` is for the Python of the rest."""
