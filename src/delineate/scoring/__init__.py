"""How much two segmentations of one image agree: overlap, and distances between surfaces in millimetres."""
