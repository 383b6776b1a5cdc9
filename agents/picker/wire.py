"""Envoy's ``ext_proc`` messages, as far as a picker reads and writes them: their fields and numbers.

They are those of ``envoy/service/ext_proc/v3/external_processor.proto`` and of what it imports. Generated
stubs are not used: the one package of them on PyPI (xds-protos 1.85) installs old copies of modules over
those of opentelemetry-proto and googleapis-common-protos, after which OpenTelemetry's exporters, which wandb
needs, no longer import. A field that is not named here is skipped when a message is read. Enums are numbers
here, as on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PACKAGE = "routegym.ext_proc"
STRUCT = "Struct"
"""Stands for ``google.protobuf.Struct``."""
BODY_MODES = ("NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED", "GRPC")
"""``ProcessingMode.BodySendMode``, by number."""
OVERWRITE_IF_EXISTS_OR_ADD = 2
"""Of ``HeaderValueOption.HeaderAppendAction``."""
MESSAGES: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "ProcessingRequest": {
        "request_headers": (2, "oneof HttpHeaders"),
        "response_headers": (3, "oneof HttpHeaders"),
        "request_body": (4, "oneof HttpBody"),
        "response_body": (5, "oneof HttpBody"),
        "request_trailers": (6, "oneof HttpTrailers"),
        "response_trailers": (7, "oneof HttpTrailers"),
        "metadata_context": (8, "Metadata"),
        "protocol_config": (11, "ProtocolConfiguration"),
    },
    "ProtocolConfiguration": {
        "request_body_mode": (1, "int32"),
        "response_body_mode": (2, "int32"),
        "send_body_without_waiting_for_header_response": (3, "bool"),
    },
    "HttpHeaders": {"headers": (1, "HeaderMap"), "end_of_stream": (3, "bool")},
    "HttpBody": {"body": (1, "bytes"), "end_of_stream": (2, "bool")},
    "HttpTrailers": {"trailers": (1, "HeaderMap")},
    "HeaderMap": {"headers": (1, "repeated HeaderValue")},
    "HeaderValue": {"key": (1, "string"), "value": (2, "string"), "raw_value": (3, "bytes")},
    "Metadata": {"filter_metadata": (1, f"map {STRUCT}")},
    "ProcessingResponse": {
        "request_headers": (1, "oneof HeadersResponse"),
        "response_headers": (2, "oneof HeadersResponse"),
        "request_body": (3, "oneof BodyResponse"),
        "response_body": (4, "oneof BodyResponse"),
        "request_trailers": (5, "oneof TrailersResponse"),
        "response_trailers": (6, "oneof TrailersResponse"),
        "immediate_response": (7, "oneof ImmediateResponse"),
        "dynamic_metadata": (8, STRUCT),
    },
    "HeadersResponse": {"response": (1, "CommonResponse")},
    "BodyResponse": {"response": (1, "CommonResponse")},
    "TrailersResponse": {"header_mutation": (1, "HeaderMutation")},
    "CommonResponse": {
        "header_mutation": (2, "HeaderMutation"),
        "body_mutation": (3, "BodyMutation"),
        "clear_route_cache": (5, "bool"),
    },
    "HeaderMutation": {"set_headers": (1, "repeated HeaderValueOption")},
    "HeaderValueOption": {"header": (1, "HeaderValue"), "append_action": (3, "int32")},
    "BodyMutation": {"streamed_response": (3, "oneof StreamedBodyResponse")},
    "StreamedBodyResponse": {"body": (1, "bytes"), "end_of_stream": (2, "bool")},
    "ImmediateResponse": {
        "status": (1, "HttpStatus"),
        "headers": (2, "HeaderMutation"),
        "body": (3, "bytes"),
        "details": (5, "string"),
    },
    "HttpStatus": {"code": (1, "int32")},
}
"""Message -> field -> its number, and its type with what it is of it."""


def message_classes() -> dict[str, Any]:
    """Protobuf's class of each of ``MESSAGES``, in a pool of their own.

    Raises ``ImportError`` where protobuf is not installed.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2

    file = descriptor_pb2.FileDescriptorProto(
        name="routegym/ext_proc.proto",
        package=PACKAGE,
        syntax="proto3",
        dependency=[struct_pb2.DESCRIPTOR.name],
    )
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, what) in fields.items():
            *form, kind = what.split()
            _add_field(message, field, number, form, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in MESSAGES
    }


def _add_field(message: Any, name: str, number: int, form: list[str], kind: str) -> None:
    field = message.field.add(name=name, number=number)
    is_many = form in (["repeated"], ["map"])
    field.label = field.LABEL_REPEATED if is_many else field.LABEL_OPTIONAL
    if form == ["map"]:  # a list of pairs, in protobuf's own way
        pair = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        pair.options.map_entry = True
        _add_field(pair, "key", 1, [], "string")
        _add_field(pair, "value", 2, [], kind)
        field.type, field.type_name = field.TYPE_MESSAGE, f".{PACKAGE}.{message.name}.{pair.name}"
    elif kind in MESSAGES or kind == STRUCT:
        place = "google.protobuf" if kind == STRUCT else PACKAGE
        field.type, field.type_name = field.TYPE_MESSAGE, f".{place}.{kind}"
    else:
        field.type = getattr(field, f"TYPE_{kind.upper()}")
    if form == ["oneof"]:
        if not message.oneof_decl:
            message.oneof_decl.add(name="kind")
        field.oneof_index = 0
