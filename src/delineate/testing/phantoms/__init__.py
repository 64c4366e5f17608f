"""Phantoms: images made by formula, with the truth beside them.

Everything is drawn in patient coordinates (LPS mm), so that any grid, spacing and orientation shows the same
body. Nothing is symmetric: the right lung is larger, the heart and the stomach's gas are on the left, sizes and
spacings differ along x, y and z.

``python -m delineate.testing.phantoms FILE`` writes the chest CT.
"""

from delineate.testing.phantoms.bodies import Phantom, abdomen_mr, chest_ct, chest_ct_on
from delineate.testing.phantoms.shapes import index_pattern, nested_shapes, ring

__all__ = ["Phantom", "abdomen_mr", "chest_ct", "chest_ct_on", "index_pattern", "nested_shapes", "ring"]
