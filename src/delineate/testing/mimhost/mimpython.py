"""The modules that an extension imports from the workstation: ``MIMPython`` and what is in it."""

# ruff: noqa: N803  - the host's spelling

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

JAVA_NAMES: Final = {
    "Integer": "int",
    "String": "java.lang.String",
    "XMimContour": "com.mimvista.external.contouring.XMimContour",
    "XMimImage": "com.mimvista.external.series.XMimImage",
    "XMimSession": "com.mimvista.external.control.XMimSession",
}
TYPES: Final = {
    name: type(name, (), {"java_name": java_name, "__module__": "MIMPython.SupportedIOTypes"}) for name, java_name in JAVA_NAMES.items()
}
"""What parameters and outputs are declared as. `Double`, `Boolean` and lists were never seen, so they are not there."""


def mim_extension_entrypoint(
    *,
    name: str,
    author: str,
    description: str,
    category: str,
    institution: str,
    version: str | float,
    outputNames: Sequence[str] = (),
) -> Callable[[Function], Function]:
    """Make a function an entry point: it stays as it is, and gets `info`, its lines of ``info.properties`` without their number.

    Raises
    ------
    TypeError
        A keyword that is not known, a parameter or output that is not of the workstation's types.
    ValueError
        The first parameter is not the session, or outputs and their names differ in number.
    """
    texts = {
        "NAME": name, "AUTHOR": author, "DESC": description, "CATEGORY": category, "COMPANY": institution, "VERSION": version,
    }  # fmt: skip

    def decorate(function: Function) -> Function:
        parameters, outputs = _declared(function, tuple(outputNames))
        info = {key: str(value) for key, value in texts.items()}
        info["METHOD"] = function.__name__
        for kind, pairs in (("PARAM", parameters), ("OUTPUT", outputs)):
            info[f"{kind}_COUNT"] = str(len(pairs))
            for j, (label, java_name) in enumerate(pairs):
                info[f"{kind}_NAME_{j}"], info[f"{kind}_TYPE_{j}"] = label, java_name
        function.info = info  # type: ignore[attr-defined]
        return function

    return decorate


def _declared(function: Callable[..., Any], names: tuple[str, ...]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Names and Java types of parameters and outputs."""
    signature = inspect.signature(function)
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is not parameter.empty:
            raise TypeError(f"{function.__name__}: {parameter.name} is no plain parameter without a default")
        parameters.append((parameter.name, _java_name(function, parameter.name, parameter.annotation)))
    if not parameters or parameters[0][1] != JAVA_NAMES["XMimSession"]:
        raise ValueError(f"{function.__name__}: the first parameter is not the session")
    result = signature.return_annotation
    outputs = [] if result is signature.empty else [_java_name(function, "what is returned", result)]
    if len(names) != len(outputs):
        raise ValueError(f"{function.__name__}: {len(names)} outputNames for {len(outputs)} outputs")
    return parameters, list(zip(names, outputs, strict=True))


def _java_name(function: Callable[..., Any], what: str, annotation: object) -> str:
    if annotation not in TYPES.values():
        hint = ", because of `from __future__ import annotations`" if isinstance(annotation, str) else ""
        raise TypeError(f"{function.__name__}: {what} is declared as {annotation!r}, which is not the workstation's type{hint}")
    return str(annotation.java_name)  # type: ignore[attr-defined]


@contextmanager
def installed() -> Iterator[None]:
    """``MIMPython`` can be imported; afterwards ``sys.modules`` is as it was."""
    package, entry_point, io_types = (types.ModuleType("MIMPython" + part) for part in ("", ".EntryPoint", ".SupportedIOTypes"))
    package.__path__ = []
    vars(entry_point)["mim_extension_entrypoint"] = mim_extension_entrypoint
    vars(io_types).update(TYPES)
    vars(package).update(EntryPoint=entry_point, SupportedIOTypes=io_types)
    before = {module.__name__: sys.modules.get(module.__name__) for module in (package, entry_point, io_types)}
    sys.modules.update({module.__name__: module for module in (package, entry_point, io_types)})
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
