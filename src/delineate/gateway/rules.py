"""Which rules an image goes by."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from delineate.errors import InputError
from delineate.gateway import rules_file
from delineate.gateway.destination_settings import DestinationSettings
from delineate.gateway.rule import Condition, Explanation, Rule, Server
from delineate.gateway.rules_patterns import is_telling
from delineate.gateway.rules_table import Table

__all__ = ["NoRuleError", "Rule", "Rules", "RulesAtOddsError", "Server"]


class NoRuleError(InputError):
    """No rule matches an image."""


class RulesAtOddsError(InputError):
    """Two rules match an image and contradict each other."""

    default_advice = "Make their conditions exclude each other, or correct one of them."


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules of a file, in the order in which they are tried, with its servers and destinations by name."""

    rules: tuple[Rule, ...]
    servers: Mapping[str, Server] = field(default_factory=dict)
    destinations: Mapping[str, DestinationSettings] = field(default_factory=dict)

    @classmethod
    def of(cls, tables: Table) -> Rules:
        """From a rules file that was opened.

        Raises
        ------
        SettingsError
            It makes no sense; names file and key.
        """
        rules, servers, destinations = rules_file.read(tables)
        ordered = sorted(rules, key=lambda rule: -(rule.priority or 0))
        return cls(rules=tuple(ordered), servers=servers, destinations=destinations)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Rules:
        """Read ``rules.toml``; errors as in `of`, and where it cannot be read."""
        return cls.of(rules_file.opened(path))

    @property
    def keywords(self) -> frozenset[str]:
        """The attributes that rules ask for."""
        return frozenset(item.keyword for rule in self.rules for item in rule.conditions)

    def explain(self, attributes: Mapping[str, str]) -> list[Explanation]:
        """Every rule held against an image's attributes: text by keyword, several values parted by backslashes."""
        found, is_open = [], True
        for rule in self.rules:
            item = Explanation(rule=rule, conditions=tuple(_held(rule, attributes)))
            found.append(replace(item, is_chosen=item.matches and is_open))
            is_open = is_open and (not item.matches or rule.goes_on)
        return found

    def choose(self, attributes: Mapping[str, str]) -> list[Rule]:
        """The rules that an image goes by: the first that matches, and further ones after those that go on.

        One that brings what an earlier one brings, to no other destination, is left out. One that leaves images alone ends the
        search as any other does.

        Raises
        ------
        NoRuleError
            None matches; says which conditions of the nearest one fail.
        RulesAtOddsError
            Two that match have the same priority, or bring results of one model to one destination by different options.
        """
        explanations = self.explain(attributes)
        matching = [item.rule for item in explanations if item.matches]
        if not matching:
            raise _none(explanations)
        _require_order(matching)
        return _without_doubles([item.rule for item in explanations if item.is_chosen])


def _held(rule: Rule, attributes: Mapping[str, str]) -> list[Condition]:
    texts = [attributes.get(item.keyword, "") for item in rule.conditions]
    return [
        Condition(keyword=item.keyword, value=text, wanted=item.wanted, holds=item.holds(text))
        for item, text in zip(rule.conditions, texts, strict=True)
    ]


def _none(explanations: list[Explanation]) -> NoRuleError:
    if not explanations:
        return NoRuleError("there are no rules", "Write [[rules]] into the rules file.")

    def failing(item: Explanation) -> list[Condition]:
        return [condition for condition in item.conditions if not condition.holds]

    nearest = min(explanations, key=lambda item: len(failing(item)))
    named = " and ".join(_failure(item) for item in failing(nearest))
    return NoRuleError(
        f"no rule matches; the nearest one, {nearest.rule.name!r}, fails at {named}",
        "Write a rule for such images, or see `delineate gateway explain` for what each rule wants.",
    )


def _failure(item: Condition) -> str:
    """In words for logs: no value that could name a patient."""
    has = "another value" if is_telling(item.keyword) else repr(item.value)
    return f"{item.keyword}, {has if item.value else 'absent'} instead of {item.wanted}"


def _require_order(matching: list[Rule]) -> None:
    """Rules that state the same priority and match the same image have no order, unless the first goes on to the second."""
    for first, second in pairwise(matching):
        if first.priority is not None and first.priority == second.priority and not first.goes_on:
            raise RulesAtOddsError(
                f"the rules {first.name!r} and {second.name!r} match the same image with the same priority, {first.priority}",
                "Give one of them another priority, or make their conditions exclude each other.",
            )
        if not first.goes_on:
            return


def _without_doubles(chosen: list[Rule]) -> list[Rule]:
    kept: list[Rule] = []
    for rule in chosen:
        same = [other for other in kept if other.model == rule.model and set(other.destinations) & set(rule.destinations)]
        for other in same:
            _require_same(other, rule)
        if not same:
            kept.append(rule)
    return kept


def _require_same(first: Rule, second: Rule) -> None:
    """A rule that brings nothing new is left out; one that brings something else to the same place must not come."""
    shared = next(name for name in second.destinations if name in first.destinations)
    both = f"the rules {first.name!r} and {second.name!r} match the same image, and both bring {second.model} to {shared}"
    if first.work != second.work:
        raise RulesAtOddsError(f"{both}, by different options")
    if not set(second.destinations) <= set(first.destinations):
        raise RulesAtOddsError(f"{both}; they differ in their other destinations", "Name all destinations in one of them.")
