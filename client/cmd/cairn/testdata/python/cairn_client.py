"""A connection to Cairn from Python, and what the programs beside it share.

It needs gRPC (Debian: python3-grpcio python3-grpc-tools; pip: grpcio grpcio-tools)
and the stubs, which are made once, in the top directory of the repository:

    mkdir gen
    python3 -m grpc_tools.protoc -I proto -I client/cmd/cairn/testdata \\
        --python_out=gen --grpc_python_out=gen proto/cairn/v1/*.proto errors.proto
    export PYTHONPATH=gen
"""

import importlib
import pkgutil

import cairn.v1
import errors_pb2
import grpc


class v1:
    """All messages and enums of the API in one place: v1.Vault, v1.BackUpRequest, …"""


stubs = {}
for _module in pkgutil.iter_modules(cairn.v1.__path__, "cairn.v1."):
    for _name, _value in vars(importlib.import_module(_module.name)).items():
        if _module.name.endswith("_pb2_grpc"):
            stubs[_name] = _value
        elif not _name.startswith("_"):
            setattr(v1, _name, _value)


class Cairn:
    """One stub per service, over one connection."""

    def __init__(self, address):
        """address is HOST:PORT or unix:/path/of/cairnd.sock."""
        channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", 8 << 20)])
        self.vaults = stubs["VaultServiceStub"](channel)
        self.policies = stubs["PolicyServiceStub"](channel)
        self.hosts = stubs["HostServiceStub"](channel)
        self.items = stubs["ProtectedItemServiceStub"](channel)
        self.points = stubs["RecoveryPointServiceStub"](channel)
        self.jobs = stubs["JobServiceStub"](channel)
        self.blocks = stubs["BlockServiceStub"](channel)
        self.audit = stubs["AuditServiceStub"](channel)


def details(error):
    """What an RpcError says for programs: its ErrorInfo, and the wrong fields as a dict."""
    info, fields = errors_pb2.ErrorInfo(), {}
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in errors_pb2.Status.FromString(value).details:
                detail.Unpack(info)
                wrong = errors_pb2.BadRequest()
                if detail.Unpack(wrong):
                    fields = {v.field: v.description for v in wrong.field_violations}
    return info, fields


def reason(error):
    """Why a call failed, from the published enum ErrorReason: "VAULT_NOT_FOUND"."""
    return details(error)[0].reason.removeprefix("ERROR_REASON_")
