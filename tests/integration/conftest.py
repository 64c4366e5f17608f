"""Tests marked ``container`` run where a container engine works, and are left out, loudly, where none does."""

from __future__ import annotations

import pytest

from delineate.testing.containers import UsableEngine, usable_engine

ENGINE = pytest.StashKey[UsableEngine]()


@pytest.hookimpl(trylast=True)  # after -m and -k have taken their share, so that nobody waits for an engine in vain
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanting = [item for item in items if item.get_closest_marker("container")]
    if not wanting:
        return
    engine, why = usable_engine()
    if engine is not None:
        config.stash[ENGINE] = engine
        return
    items[:] = [item for item in items if item not in wanting]
    config.hook.pytest_deselected(items=wanting)
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"NOT RUN: {len(wanting)} container tests, because no container engine works here: {why}", yellow=True)


@pytest.fixture
def container_engine(request: pytest.FixtureRequest) -> UsableEngine:
    """The engine that works here."""
    return request.config.stash[ENGINE]
