"""The extension for the MIM workstation, and what builds and checks it."""
