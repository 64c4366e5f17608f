"""Write the chest phantom to a file: ``python -m delineate.testing.phantoms chest.nii.gz``."""

from __future__ import annotations

import argparse
from pathlib import Path

from delineate.files import write_segmentation, write_volume
from delineate.testing.phantoms import chest_ct


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(prog="python -m delineate.testing.phantoms", description="Write a chest CT phantom.")
    parser.add_argument("image", type=Path, help="the file to write: .nii.gz, .nrrd, .mha")
    parser.add_argument("--truth", type=Path, help="also write the true structures to this file")
    parser.add_argument("--size", type=int, nargs=3, default=(170, 150, 110), metavar=("X", "Y", "Z"))
    parser.add_argument("--spacing", type=float, nargs=3, default=(2.4, 2.5, 3.0), metavar=("X", "Y", "Z"), help="mm")
    parser.add_argument("--orientation", default="LPS", help="axis codes, such as LPS or RAS")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    phantom = chest_ct(tuple(given.size), tuple(given.spacing), given.orientation, given.seed)
    given.image.parent.mkdir(parents=True, exist_ok=True)
    write_volume(given.image, phantom.volume)
    if given.truth:
        write_segmentation(given.truth, phantom.segmentation)


if __name__ == "__main__":
    main()
