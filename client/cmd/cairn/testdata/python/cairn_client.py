"""A connection to Cairn from Python.

Needs grpcio and grpcio-tools (Debian: python3-grpcio python3-grpc-tools). The
stubs are made from the .proto files when this is imported; a program of yours
would make them once:

    python3 -m grpc_tools.protoc -I proto --python_out=gen --grpc_python_out=gen proto/cairn/v1/*.proto
"""

import atexit
import importlib
import pathlib
import shutil
import sys
import tempfile

import grpc
from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parent
PROTO = next(p / "proto" for p in HERE.parents if (p / "proto/cairn/v1").is_dir())


def _generate():
    gen = tempfile.mkdtemp(prefix="cairn-python-")
    atexit.register(shutil.rmtree, gen)
    included = pathlib.Path(protoc.__file__).parent / "_proto"
    files = [str(f) for f in sorted(PROTO.glob("cairn/v1/*.proto"))]
    if protoc.main(["protoc", f"-I{PROTO}", f"-I{HERE}", f"-I{included}", f"--python_out={gen}",
                    f"--grpc_python_out={gen}", *files, str(HERE / "errors.proto")]) != 0:
        raise RuntimeError("the stubs could not be made")
    sys.path.insert(0, gen)


_generate()

errors_pb2 = importlib.import_module("errors_pb2")

# All messages in one place: v1.Vault, v1.BackUpRequest, …
v1 = type("v1", (), {})
_services = {}
for _f in sorted(PROTO.glob("cairn/v1/*.proto")):
    _m = importlib.import_module(f"cairn.v1.{_f.stem}_pb2")
    for _name, _value in vars(_m).items():
        if not _name.startswith("_"):
            setattr(v1, _name, _value)
    _g = importlib.import_module(f"cairn.v1.{_f.stem}_pb2_grpc")
    _services.update({n: s for n, s in vars(_g).items() if n.endswith("Stub")})


class Cairn:
    """One stub per service: c.vaults, c.policies, c.hosts, c.items, c.points, c.jobs, c.blocks."""

    def __init__(self, address):
        options = [("grpc.max_receive_message_length", 16 << 20)]
        channel = grpc.insecure_channel(address, options)
        self.vaults = _services["VaultServiceStub"](channel)
        self.policies = _services["PolicyServiceStub"](channel)
        self.hosts = _services["HostServiceStub"](channel)
        self.items = _services["ProtectedItemServiceStub"](channel)
        self.points = _services["RecoveryPointServiceStub"](channel)
        self.jobs = _services["JobServiceStub"](channel)
        self.blocks = _services["BlockServiceStub"](channel)


def reason(error):
    """What went wrong, from the published enum ErrorReason: "VAULT_NOT_FOUND"."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in errors_pb2.Status.FromString(value).details:
                info = errors_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info.reason.removeprefix("ERROR_REASON_")
    return ""
