"""Our messages against the stubs that are generated from Envoy's own files, where there are any.

xds-protos spoils other packages where it is installed beside them, so give it a folder of its own::

    pip install --no-deps --target /tmp/xds xds-protos grpcio
    PYTHONPATH=/tmp/xds python -m pytest tests/agents/picker/test_wire.py
"""

import importlib

import pytest

pytest.importorskip("google.protobuf", reason="needs the extra picker")

from agents.picker.wire import (
    BODY_MODES,
    MESSAGES,
    OVERWRITE_IF_EXISTS_OR_ADD,
    STRUCT,
    message_classes,
)

EXT_PROC = "envoy.service.ext_proc.v3.external_processor_pb2"
CORE = "envoy.config.core.v3.base_pb2"
ELSEWHERE = {
    "HeaderMap": CORE,
    "HeaderValue": CORE,
    "HeaderValueOption": CORE,
    "Metadata": CORE,
    "HttpStatus": "envoy.type.v3.http_status_pb2",
}


def theirs(name):
    module = ELSEWHERE.get(name, EXT_PROC)
    return getattr(pytest.importorskip(module, reason="needs xds-protos, in a folder of its own"), name)


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_are_as_in_envoys_own_files(name):
    ours = message_classes()[name].DESCRIPTOR.fields_by_name
    fields = theirs(name).DESCRIPTOR.fields_by_name
    for field, (number, what) in MESSAGES[name].items():
        other, own = fields[field], ours[field]
        assert (other.number, other.is_repeated) == (number, own.is_repeated) == (own.number, own.is_repeated)
        *_, kind = what.split()
        if other.enum_type is not None:
            assert kind == "int32"
        elif other.message_type is None:
            assert other.type == own.type
        else:
            message = other.message_type
            if message.GetOptions().map_entry:
                message = message.fields_by_name["value"].message_type
            assert message.name == ("Struct" if kind == STRUCT else kind)
        assert (other.containing_oneof is None) == (own.containing_oneof is None)


def test_numbers_are_as_in_envoys_own_files():
    name = "envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2"
    pytest.importorskip(name, reason="needs xds-protos, in a folder of its own")
    mode = importlib.import_module(name).ProcessingMode
    assert tuple(mode.BodySendMode.keys()) == BODY_MODES
    assert theirs("HeaderValueOption").OVERWRITE_IF_EXISTS_OR_ADD == OVERWRITE_IF_EXISTS_OR_ADD


def test_messages_survive_their_way_over_the_wire():
    """Known bytes: field 4, of which field 1 is the body and field 2 is true; then an unknown field too."""
    request = message_classes()["ProcessingRequest"]
    message = request(request_body={"body": b"ab", "end_of_stream": True})
    assert message.SerializeToString() == b"\x22\x06\x0a\x02ab\x10\x01"
    assert request.FromString(b"\x22\x06\x0a\x02ab\x10\x01\x50\x01").WhichOneof("kind") == "request_body"
    assert message_classes()["ProcessingRequest"] is not request  # nothing is shared
