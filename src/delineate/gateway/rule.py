"""A rule: which images go to which model, and where the results go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from delineate.dicom.deidentify import Policy
from delineate.dicom.rtstruct import Options as ContourOptions
from delineate.dicom.seg import Options as SegmentOptions
from delineate.gateway.rules_patterns import Pattern

Output = Literal["rtstruct", "seg"]


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server with models.

    token_file : bearer token; ca_file : of its certificate's authority; deidentify : ``on`` where images are made anonymous
    before they go there, ``required`` where what cannot be made so must not go.
    """

    name: str
    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    deidentify: Policy = Policy.OFF


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule of a rules file.

    model : by name, on `server`, by name of the file's servers, empty for the node's own; conditions : all have to hold;
    parameters : for the model; outputs : what is made of its structures, by the options `rtstruct` and `seg`;
    destinations : names of those that get all of it; goes_on : whether further rules are looked at; priority : rules
    are tried by it, highest first, then in the file's order; None is 0 and tied with nobody; leaves : nothing is done with
    such images, there is no model.
    """

    name: str
    model: str = ""
    server: str = ""
    conditions: tuple[Pattern, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[Output, ...] = ("rtstruct", "seg")
    rtstruct: ContourOptions = field(default_factory=ContourOptions)
    seg: SegmentOptions = field(default_factory=SegmentOptions)
    destinations: tuple[str, ...] = ()
    goes_on: bool = False
    priority: int | None = None
    leaves: bool = False

    @property
    def work(self) -> tuple[Any, ...]:
        """What is made, by which two rules for one model and destination are the same or at odds."""
        return self.server, dict(self.parameters), frozenset(self.outputs), self.rtstruct, self.seg


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition held against an image: the attribute, what the image has, what was wanted."""

    keyword: str
    value: str
    wanted: str
    holds: bool


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A rule held against an image. `is_chosen` of a rule that matches is False where an earlier one ended the search."""

    rule: Rule
    conditions: tuple[Condition, ...]
    is_chosen: bool = False

    @property
    def matches(self) -> bool:
        """Whether all conditions hold."""
        return all(condition.holds for condition in self.conditions)
