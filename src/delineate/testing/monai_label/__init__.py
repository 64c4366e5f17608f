"""A scripted MONAI Label server, for tests of clients."""

from delineate.testing.monai_label.script import LabelScript
from delineate.testing.monai_label.server import ScriptedLabelServer

__all__ = ["LabelScript", "ScriptedLabelServer"]
