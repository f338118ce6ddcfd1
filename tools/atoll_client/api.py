"""Calls to Atoll's services. Debian's grpcio has no code generator to rely on: calls are made from method names."""

import grpc

from atoll_client import paths  # noqa: F401  (sets sys.path for the generated messages)
from atollpb.v1 import attention_pb2, cluster_pb2, expert_pb2, inference_pb2, router_pb2

_MESSAGES = {
    "InferenceService": inference_pb2,
    "ModelService": inference_pb2,
    "AttentionService": attention_pb2,
    "ExpertService": expert_pb2,
    "RouterService": router_pb2,
    "ClusterService": cluster_pb2,
}
DEFAULT_TIMEOUT_S = 60


class Client:
    """Channel to one server. Use as a context manager."""

    def __init__(self, address, options=()):
        self.address = address
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1), *options])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._channel.close()

    def _types(self, method):
        service, name = method.split("/")
        messages = _MESSAGES[service]
        response = name + "Response"
        return (f"/atollpb.v1.{service}/{name}", getattr(messages, _request_name(name)).SerializeToString,
                getattr(messages, response).FromString)

    def call(self, method, request, timeout=DEFAULT_TIMEOUT_S):
        """Unary: call("ModelService/GetModel", request)."""
        path, serialize, parse = self._types(method)
        return self._channel.unary_unary(path, request_serializer=serialize, response_deserializer=parse)(
            request, timeout=timeout)

    def stream(self, method, request, timeout=DEFAULT_TIMEOUT_S):
        """Server streaming: the call, to be iterated or cancelled."""
        path, serialize, parse = self._types(method)
        return self._channel.unary_stream(path, request_serializer=serialize, response_deserializer=parse)(
            request, timeout=timeout)

    def raw(self, path, request, timeout=DEFAULT_TIMEOUT_S):
        """Unary with bytes in and out."""
        return self._channel.unary_unary(path)(request, timeout=timeout)

    def raw_bidi(self, path, requests, timeout=DEFAULT_TIMEOUT_S):
        return self._channel.stream_stream(path)(iter(requests), timeout=timeout)

    # The calls that most tests make.

    def generate(self, request, timeout=DEFAULT_TIMEOUT_S):
        return self.call("InferenceService/Generate", request, timeout)

    def generate_stream(self, request, timeout=DEFAULT_TIMEOUT_S):
        return self.stream("InferenceService/GenerateStream", request, timeout)

    def attention_stats(self):
        return self.call("AttentionService/GetAttentionStats", attention_pb2.GetAttentionStatsRequest())

    def dispatch_stats(self):
        return self.call("RouterService/GetDispatchStats", router_pb2.GetDispatchStatsRequest())

    def placement(self):
        return self.call("RouterService/GetPlacement", router_pb2.GetPlacementRequest())

    def describe_expert(self):
        return self.call("ExpertService/Describe", expert_pb2.DescribeRequest())

    def snapshot(self):
        return self.call("ClusterService/GetSnapshot", cluster_pb2.GetSnapshotRequest())

    def health(self, service=""):
        """grpc.health.v1: 1 is SERVING, 2 NOT_SERVING."""
        name = service.encode()
        request = b"\x0a" + bytes([len(name)]) + name if name else b""
        response = self.raw("/grpc.health.v1.Health/Check", request)
        return response[1] if response else 0

    def services(self):
        """Names of the services, by reflection."""
        call = self.raw_bidi("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", [b"\x3a\x01*"])
        response = next(call)
        call.cancel()
        names = []
        for field, value in _fields(response):
            if field == 6:  # list_services_response
                names += [dict(_fields(service))[1].decode() for number, service in _fields(value) if number == 1]
        return names


def _request_name(method):
    return "GenerateRequest" if method == "GenerateStream" else method + "Request"


def _fields(message):
    """(number, bytes or int) of a protobuf message, without its description."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        elif key & 7 == 2:
            size = varint()
            yield key >> 3, message[at:at + size]
            at += size
        else:
            raise ValueError(f"wire type {key & 7} is not used here")


def retry_delay_s(error):
    """What an error's google.rpc.RetryInfo says; None without one."""
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in (dict(_fields(any_message)) for number, any_message in _fields(value) if number == 3):
            if detail.get(1, b"").endswith(b"/google.rpc.RetryInfo"):
                delay = dict(_fields(dict(_fields(detail.get(2, b""))).get(1, b"")))  # google.protobuf.Duration
                return delay.get(1, 0) + delay.get(2, 0) / 1e9
    return None


def text_request(text, **fields):
    return inference_pb2.GenerateRequest(text=text, **_split(fields))


def ids_request(ids, **fields):
    return inference_pb2.GenerateRequest(token_ids=inference_pb2.TokenIds(ids=ids), **_split(fields))


def chat_request(messages, **fields):
    """messages: a question, or [(role, content), ...]."""
    turns = [("user", messages)] if isinstance(messages, str) else messages
    return inference_pb2.GenerateRequest(
        messages=inference_pb2.Messages(messages=[inference_pb2.Message(role=r, content=c) for r, c in turns]),
        **_split(fields))


_SAMPLING = {field.name for field in inference_pb2.SamplingParams.DESCRIPTOR.fields}


def _split(fields):
    sampling = {name: value for name, value in fields.items() if name in _SAMPLING}
    rest = {name: value for name, value in fields.items() if name not in _SAMPLING}
    return {"sampling": inference_pb2.SamplingParams(**sampling), **rest}
