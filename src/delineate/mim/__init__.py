"""The extension for the MIM workstation: the modules of its own. What builds and checks the zip is in `delineate.mim.packaging`."""
