"""A router that only says where: an endpoint picker behind Envoy, or behind a gateway that is built on it.

It speaks the Endpoint Picker protocol of the Gateway API Inference Extension: Envoy's ``ext_proc`` over gRPC.
``agents.picker.__main__`` shows how a gateway is told of it.
"""
