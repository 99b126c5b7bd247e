# SPDX-License-Identifier: Apache-2.0
"""A CRI client made at run time from proto/cri/v1/api.proto, so that a test speaks the wire and not our C++."""
import os
import subprocess
import sys
import tempfile

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MAX_MESSAGE = 64 << 20


def _descriptors(proto):
    with tempfile.NamedTemporaryFile(suffix=".pb") as out:
        subprocess.run(["protoc", f"-I{ROOT}/proto", f"--descriptor_set_out={out.name}", "--include_imports", proto],
                       check=True, cwd=f"{ROOT}/proto")
        files = descriptor_pb2.FileDescriptorSet()
        files.ParseFromString(out.read())
        return files


class Api:
    """Message classes as attributes: api.RunPodSandboxRequest(...)."""

    def __init__(self, proto="cri/v1/api.proto", package="runtime.v1"):
        self._pool = descriptor_pool.DescriptorPool()
        self._package = package
        self._factory = message_factory.MessageFactory(self._pool)
        self.services = {}
        for file in _descriptors(proto).file:
            self._pool.Add(file)
            if file.package == package:
                for service in file.service:
                    self.services[service.name] = list(service.method)

    def __getattr__(self, name):
        return self._factory.GetPrototype(self._pool.FindMessageTypeByName(f"{self._package}.{name}"))

    def enum(self, name):
        """{value name: number} of an enum."""
        values = self._pool.FindEnumTypeByName(f"{self._package}.{name}").values
        return {v.name: v.number for v in values}

    def message(self, full_name):
        return self._factory.GetPrototype(self._pool.FindMessageTypeByName(full_name))


_api = None


def api():
    global _api
    if _api is None:
        _api = Api()
    return _api


class Client:
    """client.RunPodSandbox(config=...) -> response; errors are grpc.RpcError. deadline= of the call in seconds."""

    def __init__(self, socket, schema=None, deadline=60):
        self.api = schema or api()
        self.deadline = deadline
        options = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]
        self.channel = grpc.insecure_channel(f"unix://{socket}", options=options)
        self._calls = {}
        for service, methods in self.api.services.items():
            for method in methods:
                request = self.api.message(method.input_type.lstrip("."))
                response = self.api.message(method.output_type.lstrip("."))
                make = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
                call = make(f"/{self.api._package}.{service}/{method.name}",
                            request_serializer=request.SerializeToString, response_deserializer=response.FromString)
                self._calls[method.name] = (request, call)

    def __getattr__(self, name):
        request, call = self._calls[name]

        def invoke(*args, deadline=None, **fields):
            message = args[0] if args else request(**fields)
            return call(message, timeout=deadline or self.deadline)

        return invoke

    def close(self):
        self.channel.close()
