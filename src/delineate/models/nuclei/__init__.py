"""Nuclei on stained slides."""
