r"""``python -m agents.picker``: tell a gateway where requests go, by an exported policy.

    python -m agents.picker policy=runs/demo/maskable_ppo-0/bundle endpoints=runs/live/endpoints.json
    python -m agents.picker heuristic=llmd_affinity 'endpoints={a: {url: "http://10.0.0.1:8000"}}'

It listens for gRPC (``ext_proc`` and health) at ``picker.port``, and for operators (``/healthz``,
``/readyz``, ``/metrics``) at ``picker.admin_port``. SIGTERM or Ctrl-C: its health says so, and it finishes
what it has. Needs ``pip install 'routegym[picker]'``.

In Kubernetes, a gateway that conforms to the Gateway API Inference Extension is told of it by::

    apiVersion: inference.networking.k8s.io/v1
    kind: InferencePool
    metadata: {name: vllm}
    spec:
      selector: {matchLabels: {app: vllm}}
      targetPorts: [{number: 8000}]
      endpointPickerRef:
        name: routegym-picker  # a Service with port 9002, whose pods run it with picker.host=0.0.0.0
        port: {number: 9002}
        failureMode: FailClose

The endpoints are the picker's own configuration: it does not watch the pods that the selector selects. Where
a gateway speaks TLS to pickers, give ``picker.certificate`` and ``picker.private_key``. An endpoint's
``api_key_env`` is for its metrics; requests carry what the gateway passes on.

Envoy alone is told by this (``test_envoy`` runs it). It connects where the picker says, and says itself
what a subset hint is::

    static_resources:
      listeners:
      - name: http
        address: {socket_address: {address: 127.0.0.1, port_value: 8080}}
        filter_chains:
        - filters:
          - name: envoy.filters.network.http_connection_manager
            typed_config:
              "@type": "type.googleapis.com/envoy.extensions.filters.network.\
                http_connection_manager.v3.HttpConnectionManager"
              stat_prefix: http
              route_config:
                virtual_hosts:
                - name: all
                  domains: ["*"]
                  routes: [{match: {prefix: "/"}, route: {cluster: vllm, timeout: 0s}}]
              http_filters:
              - name: envoy.filters.http.ext_proc
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
                  grpc_service: {envoy_grpc: {cluster_name: picker}}
                  message_timeout: 5s
                  processing_mode:
                    request_body_mode: FULL_DUPLEX_STREAMED
                    request_trailer_mode: SEND
                    response_body_mode: FULL_DUPLEX_STREAMED
                    response_trailer_mode: SEND
                  metadata_options:
                    forwarding_namespaces: {untyped: [envoy.lb.subset_hint, envoy.lb]}
                    receiving_namespaces: {untyped: [envoy.lb]}
              - name: envoy.filters.http.router
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
      clusters:
      - name: picker
        type: STATIC
        typed_extension_protocol_options:
          envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
            "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
            explicit_http_config: {http2_protocol_options: {}}
        load_assignment:
          cluster_name: picker
          endpoints:
          - lb_endpoints:
            - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9002}}}
      - name: vllm
        type: ORIGINAL_DST
        lb_policy: CLUSTER_PROVIDED
        original_dst_lb_config:
          metadata_key: {key: envoy.lb, path: [{key: x-gateway-destination-endpoint}]}

By metadata and not by header: a client may send the header, and would reach any address while the picker is
away and ``failure_mode_allow`` is set. Where the picker is away Envoy answers 500: also
with ``failure_mode_allow: true``, for which it holds no body in this mode. With that and ``BUFFERED`` bodies
such a cluster answers 503, and one with the load balancing policy ``override_host`` takes whichever endpoint
its fallback chooses. That one also walks down the picker's list when it retries
(``picker.calls.num_fallbacks``), and says which endpoint served (``selected_host_key``); ``ORIGINAL_DST``
does neither, and takes a list for no address: leave ``num_fallbacks`` at 0 with it.
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from agents.config import register
from agents.picker.picker import Picker, PickerSettings
from agents.program import program
from agents.router.program import parts_of, run
from agents.router.warm import warm
from conf.build import build

register()


def make_picker(config: DictConfig) -> Picker:
    """The picker that the config describes. Raises ``ValueError`` naming what cannot be."""
    parts = parts_of(config)
    settings: PickerSettings = build(config.picker, "picker")
    return Picker(settings, parts.endpoints, parts.policy, parts.heuristic)


@hydra.main(version_base="1.3", config_path="../../conf", config_name="picker")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("agents.picker"):
        picker = make_picker(config)
        picker.log.take_over()
        warm()
        run(picker, "agents.picker")


if __name__ == "__main__":
    main()
