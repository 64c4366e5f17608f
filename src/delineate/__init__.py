"""Delineate: images leave the workstation, a model delineates, structures come back."""

__version__ = "0.1.0"
