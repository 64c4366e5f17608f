"""Tokens of the settings, passwords, users and their tokens, the pause after wrong passwords, the gate's table."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from delineate.errors import AuthorizationError, InputError, SettingsError, UnavailableError
from delineate.protocols.monai_label import ROLES
from delineate.server.accounts.gate import Gate
from delineate.server.accounts.identity import (
    ExpiredTokenError,
    Identity,
    InvalidTokenError,
    Role,
    RoleMissingError,
    TooManyTriesError,
    WrongPasswordError,
    role_of,
)
from delineate.server.accounts.local import MOST_WAITING, LocalAccounts
from delineate.server.accounts.passwords import Passwords, checked_password
from delineate.server.accounts.rights import RIGHTS, rule_of
from delineate.server.accounts.static import StaticTokens
from delineate.server.accounts.throttle import FORGET, FREE_BY_ACCOUNT, FREE_BY_ADDRESS, LONGEST_PAUSE, Throttle
from delineate.server.main import warn_if_open
from delineate.server.security import Guard
from delineate.server.settings import Settings
from delineate.store.database import Database
from delineate.store.users import KEEP_EXPIRED, MOST_TOKENS, UnknownUserError, UserStore

QUICK = Passwords(passes=1, memory_kib=64)
GOOD = "correct horse battery"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(f"sqlite:///{tmp_path / 'accounts.db'}", sync=False)
    found.migrate()
    yield found
    found.close()


@pytest.fixture
def accounts(database: Database, clock: Clock) -> Iterator[LocalAccounts]:
    with ThreadPoolExecutor(2) as threads:
        made = LocalAccounts(database, threads, 100.0, passwords=QUICK, clock=clock)
        made.users.add("alice", QUICK.hash(GOOD), "annotator", "Alice A", "alice@clinic.example")
        yield made
        asyncio.run(made.close())


# ---------------------------------------------------------------- passwords


def test_a_password_is_kept_as_argon2id_with_its_own_salt() -> None:
    one, two = QUICK.hash(GOOD), QUICK.hash(GOOD)
    assert one.startswith("$argon2id$v=19$")
    assert one != two
    assert QUICK.is_right(GOOD, one)
    assert QUICK.is_right(GOOD, two)
    assert not QUICK.is_right(GOOD + "!", one)
    assert not QUICK.is_right(GOOD, None)
    assert not QUICK.is_right(GOOD, "no hash at all")
    assert (QUICK.is_outdated(one), Passwords().is_outdated(one)) == (False, True)


def test_passwords_are_hashed_at_full_cost() -> None:
    assert "m=19456,t=4,p=1" in Passwords().hash(GOOD)


@pytest.mark.parametrize("text", ["", "short", "a" * 2000, "line\nline line line", "\ud800" * 12])
def test_a_password_that_nobody_should_take(text: str) -> None:
    with pytest.raises(InputError):
        checked_password(text)


def test_nobodys_password_takes_as_long_as_somebodys() -> None:
    passwords = Passwords(passes=2, memory_kib=8192)
    kept = passwords.hash(GOOD)
    passwords.is_right("x", None)  # the first makes the hash to compare with

    def seconds(hash: str | None) -> float:
        begin = time.perf_counter()
        passwords.is_right("x", hash)
        return time.perf_counter() - begin

    known, unknown = (min(seconds(hash) for _ in range(7)) for hash in (kept, None))
    assert unknown > known / 3  # without the comparison it would be a thousandth


# ---------------------------------------------------------------- users


@pytest.mark.parametrize("name", ["", ".", "-x", "a b", "a/b", "a" * 65, "ä", "a\n"])
def test_a_name_that_cannot_be_one(database: Database, name: str) -> None:
    with pytest.raises(InputError, match="no name of a user"):
        UserStore(database).add(name, "h", "user")


def test_names_differ_by_more_than_case(database: Database) -> None:
    users = UserStore(database)
    users.add("alice", "h", "user")
    with pytest.raises(InputError, match="'alice' already"):
        users.add("Alice", "h", "admin")
    with pytest.raises(InputError, match="already"):
        users.require_free("ALICE")
    assert users.find("Alice") is None


def test_a_user_is_listed_changed_and_removed(database: Database, clock: Clock) -> None:
    users = UserStore(database, clock)
    users.add("bob", "h1", "user", "Bob B", "b@clinic.example")
    users.add("alice", "h2", "admin")
    assert [user.name for user in users.users()] == ["alice", "bob"]
    clock.now += 5
    users.set_role("bob", "reviewer")
    bob = users.require("bob")
    assert (bob.role, bob.full_name, bob.email, bob.created, bob.changed) == ("reviewer", "Bob B", "b@clinic.example", 1000.0, 1005.0)
    assert "h1" not in repr(bob)
    users.remove("bob")
    for call in (lambda: users.require("bob"), lambda: users.remove("bob"), lambda: users.set_role("bob", "user")):
        with pytest.raises(UnknownUserError):
            call()


def test_a_token_is_not_in_the_database(database: Database, tmp_path: Path) -> None:
    users = UserStore(database)
    token = users.give_token(users.add("alice", "h", "user"), 60)
    database.close()
    assert all(token.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_token_is_given_for_the_password_of_now_alone(database: Database, clock: Clock) -> None:
    users = UserStore(database, clock)
    before = users.add("alice", "h", "user")
    clock.now += 1
    users.set_password("alice", "other")
    with pytest.raises(UnknownUserError):
        users.give_token(before, 60)


def test_tokens_of_a_user_are_bounded_and_old_ones_forgotten(database: Database, clock: Clock) -> None:
    users = UserStore(database, clock)
    user = users.add("alice", "h", "user")
    tokens = []
    for _ in range(MOST_TOKENS + 2):
        clock.now += 1
        tokens.append(users.give_token(user, 60))
    assert [users.token(token) is not None for token in (*tokens[:3], tokens[-1])] == [False, False, True, True]
    clock.now += KEEP_EXPIRED + 61
    users.give_token(user, 60)
    assert users.token(tokens[-1]) is None


def test_a_hash_is_renewed_unless_the_password_changed(database: Database) -> None:
    users = UserStore(database)
    user = users.add("alice", "old", "user")
    users.renew_hash(user, "new")
    assert users.require("alice").password == "new"
    users.renew_hash(user, "newer")
    assert users.require("alice").password == "new"


# ---------------------------------------------------------------- local accounts


def test_logging_in_and_who_it_is(accounts: LocalAccounts) -> None:
    token = asyncio.run(accounts.log_in("alice", GOOD))
    assert asyncio.run(accounts.identify(token)) == Identity("alice", Role.ANNOTATOR, "Alice A", "alice@clinic.example")
    assert asyncio.run(accounts.log_in("alice", GOOD)) != token
    for forged in ("", token[:-1], token + "A", token.swapcase(), "x" * 10_000):
        assert asyncio.run(accounts.identify(forged)) is None


@pytest.mark.parametrize(
    ("name", "password"), [("alice", "wrong"), ("Alice", GOOD), ("nobody", GOOD), ("alice", GOOD * 200), ("alice", "")]
)
def test_a_wrong_password_and_a_wrong_name_are_one_answer(accounts: LocalAccounts, name: str, password: str) -> None:
    with pytest.raises(WrongPasswordError) as caught:
        asyncio.run(accounts.log_in(name, password))
    assert (caught.value.status, caught.value.message) == (401, "the name or the password is wrong")


def test_a_token_expires_and_says_so(accounts: LocalAccounts, clock: Clock) -> None:
    token = asyncio.run(accounts.log_in("alice", GOOD))
    clock.now += 99.0
    assert asyncio.run(accounts.identify(token)) is not None
    clock.now += 1.0
    with pytest.raises(ExpiredTokenError, match="expired"):
        asyncio.run(accounts.identify(token))


@pytest.mark.parametrize("change", ["remove", "password"])
def test_a_token_ends_at_once_with_its_user_or_password(accounts: LocalAccounts, database: Database, change: str) -> None:
    async def run() -> None:
        token = await accounts.log_in("alice", GOOD)
        assert await accounts.identify(token) is not None
        other = Database(f"sqlite:///{database.path}", sync=False)  # the command line is another process
        users = UserStore(other)
        if change == "remove":
            users.remove("alice")
        else:
            users.set_password("alice", QUICK.hash(GOOD))
        assert await accounts.identify(token) is None
        other.close()

    asyncio.run(run())


def test_a_role_changes_for_tokens_that_were_given(accounts: LocalAccounts, database: Database) -> None:
    async def run() -> None:
        token = await accounts.log_in("alice", GOOD)
        for role in ("admin", "user", "king"):
            accounts.users.set_role("alice", role)
            found = await accounts.identify(token)
            assert found is not None
            assert found.role.word == (role if role != "king" else "none")

    asyncio.run(run())


def test_an_old_hash_is_made_anew_at_the_next_login(accounts: LocalAccounts) -> None:
    old = Passwords(passes=2, memory_kib=64).hash(GOOD)
    accounts.users.set_password("alice", old)
    token = asyncio.run(accounts.log_in("alice", GOOD))
    assert accounts.users.require("alice").password != old
    assert asyncio.run(accounts.identify(token)) is not None
    assert asyncio.run(accounts.log_in("alice", GOOD))


def test_hashing_does_not_hold_the_event_loop(database: Database) -> None:
    begun, may_end = threading.Event(), threading.Event()

    class Slow(Passwords):
        def is_right(self, password: str, kept: str | None) -> bool:
            begun.set()
            assert may_end.wait(20), "the loop stood still until now"
            return super().is_right(password, kept)

    async def run() -> None:
        with ThreadPoolExecutor(1) as threads:
            accounts = LocalAccounts(database, threads, 60, passwords=Slow(passes=1, memory_kib=64))
            done = asyncio.ensure_future(accounts.log_in("nobody", GOOD))
            while not begun.is_set():
                await asyncio.sleep(0.001)
            for _ in range(100):  # turns that the loop takes while it hashes
                await asyncio.sleep(0)
            assert not done.done()
            may_end.set()
            with pytest.raises(WrongPasswordError):
                await done
            await accounts.close()

    asyncio.run(run())


# ---------------------------------------------------------------- pauses


def wrong(throttle: Throttle, name: str, address: str = "10.0.0.1", times: int = 1) -> None:
    for _ in range(times):
        throttle.begin(name, address)


def test_an_account_gets_slower_and_never_locked(clock: Clock) -> None:
    throttle = Throttle(clock)
    wrong(throttle, "alice", times=FREE_BY_ACCOUNT - 1)
    throttle.check("alice", "10.0.0.1")
    pauses = []
    for _ in range(9):
        wrong(throttle, "alice")
        with pytest.raises(TooManyTriesError) as caught:
            throttle.check("alice", "10.9.9.9")
        assert caught.value.status == 429
        pauses.append(caught.value.seconds)
        throttle.check("bob", "10.9.9.9")
        clock.now += LONGEST_PAUSE
        throttle.check("alice", "10.0.0.1")
    assert pauses == sorted(pauses)
    assert (pauses[0] <= 2, pauses[-1]) == (True, LONGEST_PAUSE)
    clock.now += FORGET
    wrong(throttle, "alice")
    throttle.check("alice", "10.0.0.1")


def test_an_address_that_tries_many_names_gets_slower(clock: Clock) -> None:
    throttle = Throttle(clock)
    for number in range(FREE_BY_ADDRESS):
        throttle.check(f"u{number}", "10.0.0.1")
        wrong(throttle, f"u{number}")
    with pytest.raises(TooManyTriesError):
        throttle.check("another", "10.0.0.1")
    throttle.check("another", "10.0.0.2")


def test_addresses_of_one_ipv6_network_are_one(clock: Clock) -> None:
    throttle = Throttle(clock)
    for number in range(FREE_BY_ADDRESS):
        wrong(throttle, f"u{number}", f"2001:db8:0:1::{number:x}")
    with pytest.raises(TooManyTriesError):
        throttle.check("another", "2001:db8:0:1:ffff::1")
    throttle.check("another", "2001:db8:0:2::1")


def test_the_right_password_clears_its_account_and_not_its_address(clock: Clock) -> None:
    throttle = Throttle(clock)
    wrong(throttle, "victim", times=FREE_BY_ADDRESS - 1)
    throttle.begin("mine", "10.0.0.1")
    throttle.right("mine", "10.0.0.1")
    throttle.check("mine", "10.0.0.1")
    wrong(throttle, "victim")
    with pytest.raises(TooManyTriesError):
        throttle.check("mine", "10.0.0.1")


def test_a_password_that_nobody_looked_at_changes_nothing(clock: Clock) -> None:
    throttle = Throttle(clock)
    wrong(throttle, "victim", times=FREE_BY_ACCOUNT - 1)
    for _ in range(3):
        throttle.begin("victim", "10.0.0.2")
        throttle.not_tried("victim", "10.0.0.2")
    throttle.check("victim", "10.0.0.2")
    wrong(throttle, "victim", "10.0.0.3")
    with pytest.raises(TooManyTriesError):
        throttle.check("victim", "10.0.0.4")
    throttle.begin("nobody", "10.0.0.5")
    throttle.not_tried("nobody", "10.0.0.5")
    assert len(throttle) == 3  # the victim, and the two addresses that tried


def test_what_is_remembered_is_bounded(clock: Clock) -> None:
    throttle = Throttle(clock, most=50)
    for number in range(500):
        wrong(throttle, "x" * 100_000 + str(number), f"10.0.{number // 250}.{number % 250}")
    assert len(throttle) == 50


# ---------------------------------------------------------------- tokens of the settings, the gate


def test_tokens_have_names_and_roles() -> None:
    tokens = StaticTokens(Settings(token="t0", tokens={"ward": "a1", "lab": "b2"}, token_roles={"lab": "user"}))
    found = [tokens.identify(text) for text in ("t0", "a1", "b2", "b3", "", "\xfc", "b2 ")]
    assert found == [Identity("token", Role.ADMIN), Identity("ward", Role.ADMIN), Identity("lab", Role.USER), None, None, None, None]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"token_roles": {"lab": "user"}}, "names a token"),
        ({"token": "x", "token_roles": {"token": "king"}}, "roles out of"),
        ({"accounts": "ldap"}, "off, local or oidc"),
        ({"accounts": "oidc", "oidc_issuer": "https://x.example"}, "oidc_client_id"),
        ({"accounts": "oidc", "oidc_client_id": "d"}, "oidc_issuer"),
        ({"accounts": "oidc", "oidc_client_id": "d", "oidc_issuer": "http://login.example/realms/x"}, "https"),
        ({"oidc_roles": {"boss": "root"}}, "roles out of"),
        ({"login_expiry": 0}, "above zero"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        Settings(**given)


def test_a_secret_is_not_shown_when_it_is_of_another_kind() -> None:
    shown = repr(Settings(oidc_client_secret="hush", token="hush"))
    assert "hush" not in shown


def test_roles_hold_those_before_them() -> None:
    assert Role.REVIEWER.words == ["user", "annotator", "reviewer"]
    assert Role.ADMIN.words == list(ROLES), "as clients know them"
    assert role_of("Admin") is Role.ADMIN
    with pytest.raises(SettingsError):
        role_of("none")
    assert (RoleMissingError(Role.ADMIN, Role.NONE).status, "admin" in str(RoleMissingError(Role.ADMIN, Role.USER))) == (403, True)


def test_a_head_is_a_get_without_a_body() -> None:
    assert rule_of("HEAD", "/healthz") is RIGHTS["GET", "/healthz"]
    assert rule_of("PUT", "/healthz") is None


class Route:
    def __init__(self, path: str) -> None:
        self.path = path


def asked(method: str, path: str, **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in {"host": "127.0.0.1", **headers}.items()]
    scope = {"type": "http", "method": method, "headers": raw, "client": ("127.0.0.1", 5), "path": path, "query_string": b""}
    return Request({**scope, "route": Route(path)})


def refusal(settings: Settings, request: Request) -> AuthorizationError | None:
    with ThreadPoolExecutor(1) as threads:
        gate = Gate(Guard(settings), StaticTokens(settings), None, lambda uid: "", threads)
        try:
            asyncio.run(gate(request))
        except AuthorizationError as error:
            return error
        return None


def test_a_route_that_nobody_thought_of_answers_nobody(caplog: pytest.LogCaptureFixture) -> None:
    for settings, headers in ((Settings(), {}), (Settings(token="s"), {"x_token": "s"})):
        error = refusal(settings, asked("GET", "/new/{thing}", **headers))
        assert error is not None
        assert error.status == 403
    assert "GET /new/{thing}" in caplog.text


@pytest.mark.parametrize("headers", [{"authorization": "Bearer s3cret"}, {"authorization": "bearer  s3cret"}, {"x_token": "s3cret"}])
def test_the_token_opens_from_anywhere(headers: dict[str, str]) -> None:
    settings = Settings(host="0.0.0.0", token="s3cret")
    request = asked("GET", "/api/tasks/", **{"host": "segment.example", **headers})
    assert refusal(settings, request) is None
    assert Guard(settings).owner(request) == "token"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x_token": ""},
        {"x_token": "s3cre"},
        {"x_token": "s3cret " * 2},
        {"authorization": "Basic s3cret"},
        {"authorization": "Bearer"},
        {"x_token": "\xfc"},
        {"x_token": "x" * 20_000},
    ],
)
def test_anything_else_does_not(headers: dict[str, str]) -> None:
    for method, path in (("GET", "/api/tasks/"), ("POST", "/api/tasks/"), ("GET", "/info/")):
        error = refusal(Settings(token="s3cret"), asked(method, path, **headers))
        assert error is not None
        is_given = bool(headers.get("x_token")) or headers.get("authorization", "").startswith("Bearer ")
        assert (error.status, isinstance(error, InvalidTokenError)) == (401, is_given)
        assert error.advice


def test_without_accounts_and_tokens_what_is_others_is_for_this_machine() -> None:
    far = {"x_forwarded_for": "1.2.3.4"}
    assert refusal(Settings(), asked("POST", "/api/tasks/", **far)) is None
    assert refusal(Settings(), asked("GET", "/info/")) is None
    for path in ("/info/", "/api/tasks/", "/logs/"):
        error = refusal(Settings(), asked("GET", path, **far))
        assert error is not None
        assert error.status == 403


def test_a_token_with_a_lesser_role() -> None:
    settings = Settings(tokens={"lab": "b2"}, token_roles={"lab": "annotator"})
    assert refusal(settings, asked("PUT", "/datastore/label", x_token="b2")) is None
    error = refusal(settings, asked("POST", "/train/{model}", x_token="b2"))
    assert isinstance(error, RoleMissingError)
    assert error.message == "this needs the role admin, you are annotator"


def test_who_waits_to_log_in_is_bounded(accounts: LocalAccounts) -> None:
    async def run() -> list[BaseException | str]:
        return await asyncio.gather(*(accounts.log_in("alice", GOOD) for _ in range(MOST_WAITING + 3)), return_exceptions=True)

    found = asyncio.run(run())
    refused = [error for error in found if isinstance(error, UnavailableError)]
    assert (len(refused), {error.status for error in refused}) == (3, {503})
    assert asyncio.run(accounts.log_in("alice", GOOD))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"host": "192.0.2.1"}, "can post tasks"),
        ({"host": "192.0.2.1", "token": "secret"}, ""),
        ({"host": "192.0.2.1", "accounts": "local"}, "without TLS"),
        ({"accounts": "local"}, ""),
    ],
)
def test_a_server_on_the_network_says_what_is_open(given: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_if_open(Settings(**given))
    assert (said in caplog.text) is True
    assert bool(caplog.text) is bool(said)


def test_a_user_s_token_may_come_as_the_workstation_sends_it(accounts: LocalAccounts) -> None:
    token = asyncio.run(accounts.log_in("alice", GOOD))
    settings = Settings(accounts="local")
    with ThreadPoolExecutor(1) as threads:
        gate = Gate(Guard(settings), StaticTokens(settings), accounts, lambda uid: "", threads)
        request = asked("POST", "/api/tasks/", x_token=token)
        asyncio.run(gate(request))
    assert Guard(settings).owner(request) == "alice"


def test_a_token_of_the_settings_says_in_whose_name_a_task_is_removed() -> None:
    settings = Settings(tokens={"ward": "a1"})
    for headers, owner in (({}, "127.0.0.1"), ({"x_token": "a1"}, "ward"), ({"x_token": "other"}, "127.0.0.1")):
        request = asked("DELETE", "/api/tasks/{uid}", **headers)
        assert refusal(settings, request) is None  # its uid is enough
        assert Guard(settings).owner(request) == owner


def test_what_accounts_need_is_loaded_with_accounts_alone(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from delineate.server.app import create_app\nfrom delineate.server.settings import Settings\n"
        "given = dict(accounts=sys.argv[2], oidc_issuer='https://login.example', oidc_client_id='d')\n"
        "create_app(Settings(data=Path(sys.argv[1]), workers=0, **given)).state.service.close()\n"
        "print(sorted({'argon2', 'jwt', 'cryptography'} & set(sys.modules)))"
    )
    for mode in ("off", "local", "oidc"):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / mode), mode], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]", mode
