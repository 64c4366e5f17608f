"""Units and commands: what callers of other makes send is understood, and what is damaged is refused by one error."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delineate.gateway import upper_layer as layer
from delineate.gateway.dimse import STORE, Command, answer, read_command
from delineate.gateway.upper_layer import Answered, Proposed, ProtocolError, Request

pynetdicom = pytest.importorskip("pynetdicom", reason="pynetdicom is not installed: it is the other side")

CT = "1.2.840.10008.5.1.4.1.1.2"
COMMITMENT = "1.2.840.10008.1.20.1"
SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")


def request_of_a_peer() -> bytes:
    """What follows the header of a request that pynetdicom makes."""
    from pynetdicom.pdu import A_ASSOCIATE_RQ
    from pynetdicom.pdu_primitives import (
        A_ASSOCIATE,
        ImplementationClassUIDNotification,
        MaximumLengthNotification,
        SCP_SCU_RoleSelectionNegotiation,
    )

    asked = A_ASSOCIATE()
    asked.application_context_name = layer.APPLICATION
    asked.calling_ae_title, asked.called_ae_title = "CT 1", "DELINEATE"
    contexts = [pynetdicom.build_context(CT, list(SYNTAXES)), pynetdicom.build_context(COMMITMENT, [SYNTAXES[1]])]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    asked.presentation_context_definition_list = contexts
    length, implementation, role = MaximumLengthNotification(), ImplementationClassUIDNotification(), SCP_SCU_RoleSelectionNegotiation()
    length.maximum_length_received = 16382
    implementation.implementation_class_uid = "1.2.3"
    role.sop_class_uid, role.scu_role, role.scp_role = COMMITMENT, False, True
    asked.user_information = [length, implementation, role]
    whole = A_ASSOCIATE_RQ()
    whole.from_primitive(asked)
    return bytes(whole.encode()[layer.HEADER.size :])


def test_a_peers_request_is_understood() -> None:
    assert layer.read_request(request_of_a_peer()) == Request(
        called="DELINEATE",
        calling="CT 1",
        application=layer.APPLICATION,
        contexts=(Proposed(1, CT, SYNTAXES), Proposed(3, COMMITMENT, (SYNTAXES[1],))),
        longest=16382,
        roles={COMMITMENT: (False, True)},
    )


def test_a_peer_understands_the_answer() -> None:
    from pynetdicom.pdu import A_ASSOCIATE_AC

    request = layer.read_request(request_of_a_peer())
    answers = [Answered(1, CT, SYNTAXES[0]), Answered(3, COMMITMENT, SYNTAXES[1], 4)]
    unit = A_ASSOCIATE_AC()
    unit.decode(layer.accept(request, answers, 131072, {COMMITMENT: (False, True)}))
    accepted = unit.to_primitive()
    assert accepted.maximum_length_received == 131072
    assert [(item.context_id, item.result) for item in accepted.presentation_context_definition_results_list] == [(1, 0), (3, 4)]
    assert accepted.calling_ae_title == "CT 1"
    (role,) = unit.user_information.role_selection.values()
    assert (role.scu_role, role.scp_role) == (0, 1)


def test_commands_are_parted_as_the_caller_wants_them() -> None:
    command = bytes(range(256)) * 4
    units = layer.command_units(5, command, 200)
    at, parts, controls = 0, b"", []
    while at < len(units):
        kind, length = layer.HEADER.unpack_from(units, at)
        at += layer.HEADER.size
        assert kind == layer.DATA
        assert length <= 200
        for number, control, data in layer.fragments(memoryview(units)[at : at + length]):
            assert number == 5
            parts += bytes(data)
            controls.append(control)
        at += length
    assert parts == command
    assert controls == [layer.COMMAND] * (len(controls) - 1) + [layer.COMMAND | layer.LAST]


def test_an_answer_says_what_was_asked() -> None:
    asked = Command({0x0002: CT.encode(), 0x0100: struct.pack("<H", STORE), 0x0110: b"\x07\0", 0x0800: b"\0\0", 0x1000: b"1.2.3\0"})
    said = read_command(answer(asked, 0xA700, "full" * 40))
    assert said.field == 0x8001
    assert said.elements[0x0120] == b"\x07\0"
    assert said.elements[0x0900] == b"\0\xa7"
    assert (said.sop_class, said.instance, len(said.elements[0x0902])) == (CT, "1.2.3", 64)
    assert not said.has_data


@pytest.mark.parametrize(
    ("kind", "length"), [(0, 4), (8, 4), (layer.DATA, 1001), (layer.REQUEST, 1 << 21), (layer.RELEASE, 1 << 20), (layer.ABORT, 0xFFFFFFFF)]
)
def test_units_of_no_kind_or_too_long_are_refused(kind: int, length: int) -> None:
    with pytest.raises(ProtocolError):
        layer.require_length(kind, length, 1000)


def test_a_context_without_its_class_is_refused() -> None:
    damaged = request_of_a_peer().replace(b"\x30\x00", b"\x31\x00")
    with pytest.raises(ProtocolError):
        layer.read_request(damaged)


@given(st.binary(max_size=400))
def test_bytes_by_chance_are_one_error_at_most(data: bytes) -> None:
    for parse in (layer.read_request, read_command, lambda found: list(layer.fragments(memoryview(found)))):
        try:
            parse(data)
        except ProtocolError:
            continue


@given(st.data())
def test_damaged_requests_are_one_error_at_most(data: st.DataObject) -> None:
    whole = bytearray(request_of_a_peer())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        request = layer.read_request(cut)
    except ProtocolError:
        return
    layer.accept(request, [Answered(item.number, item.abstract, SYNTAXES[0], 3) for item in request.contexts], 0, request.roles)


def test_contexts_that_cannot_be_told_apart_are_refused() -> None:
    peer = request_of_a_peer()
    one = b"\x20\x00\x00\x11\x05\x00\x00\x00\x30\x00\x00\x031.2\x40\x00\x00\x021."
    assert len(layer.read_request(peer + one).contexts) == 3
    with pytest.raises(ProtocolError):
        layer.read_request(peer + one + one)
    with pytest.raises(ProtocolError):
        layer.read_request(peer + b"".join(one[:4] + bytes((number,)) + one[5:] for number in range(7, 134)))
