"""Training that learns on a laptop: a forest over features of each voxel, taught by labels as they arrive."""
