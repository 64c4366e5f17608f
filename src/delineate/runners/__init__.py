"""What runs a model: one file per kind of model package.

`create` finds the runner a model names, through the entry-point group ``delineate.runners``.
"""

from delineate.runners.base import Job, Runner, RunnerFactory
from delineate.runners.registry import create, known

__all__ = ["Job", "Runner", "RunnerFactory", "create", "known"]
