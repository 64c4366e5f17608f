"""The tables of what the node holds."""

from __future__ import annotations

from typing import Final

VERSION: Final = 1

TABLES: Final = """
CREATE TABLE node (name TEXT NOT NULL);
CREATE TABLE series (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL,
    sender TEXT NOT NULL,
    modality TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 0,
    fresh INTEGER NOT NULL DEFAULT 0,
    is_open INTEGER NOT NULL DEFAULT 0,
    is_released INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    last REAL NOT NULL,
    UNIQUE (uid, sender)
);
CREATE INDEX series_waiting ON series (id) WHERE fresh > 0 OR is_open;
CREATE TABLE instances (
    series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
    uid TEXT NOT NULL,
    file TEXT NOT NULL,
    size INTEGER NOT NULL,
    version INTEGER,
    PRIMARY KEY (series, uid)
) WITHOUT ROWID;
CREATE TABLE versions (
    series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    instances INTEGER NOT NULL,
    at REAL NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    advice TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (series, number)
) WITHOUT ROWID;
CREATE INDEX versions_state ON versions (state);
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    rule TEXT NOT NULL,
    state TEXT NOT NULL,
    task TEXT NOT NULL DEFAULT '',
    round INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    advice TEXT NOT NULL DEFAULT '',
    changed REAL NOT NULL,
    UNIQUE (series, version, rule)
);
CREATE INDEX jobs_due ON jobs (state, due);
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    destination TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    advice TEXT NOT NULL DEFAULT '',
    changed REAL NOT NULL,
    UNIQUE (job, destination)
);
CREATE INDEX deliveries_due ON deliveries (state, due);
CREATE TABLE aside (
    series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
    uid TEXT NOT NULL,
    file TEXT NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    series INTEGER,
    job INTEGER,
    words TEXT NOT NULL
);
CREATE INDEX events_series ON events (series);
"""
