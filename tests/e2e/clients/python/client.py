"""A Python client of the broker: client.py PROVIDER CONNECTION UNKNOWN_CONNECTION.

Makes its stubs from proto/, gets a token at TOKEN_BROKER_ENDPOINT, asks for one that does not exist, and prints what
it was told as JSON.
"""

import json
import os
import pathlib
import sys
import tempfile

import grpc
import grpc_tools
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).parents[4] / "proto"


def make_stubs(folder):
    files = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("tokenbroker/v1/*.proto"))
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    made = protoc.main(["", f"-I{PROTO}", f"-I{well_known}", f"--python_out={folder}", f"--grpc_python_out={folder}", *files])
    if made != 0:
        sys.exit("the stubs could not be made")
    sys.path.insert(0, folder)


def channel():
    scheme, address = os.environ["TOKEN_BROKER_ENDPOINT"].split("://", 1)
    if scheme == "unix":
        # gRPC-core would send the socket's path as :authority, which HTTP/2 servers refuse.
        return grpc.insecure_channel(f"unix://{address}", options=[("grpc.default_authority", "localhost")])
    return grpc.insecure_channel(address)


def told(error):
    info = error_details_pb2.ErrorInfo()
    for detail in rpc_status.from_call(error).details:
        if detail.Unpack(info):
            break
    return {
        "code": error.code().name,
        "reason": info.reason,
        "domain": info.domain,
        "metadata": {name: info.metadata[name] for name in ("provider", "connection") if name in info.metadata},
    }


def main(provider, connection, unknown):
    with tempfile.TemporaryDirectory() as folder:
        make_stubs(folder)
        from tokenbroker.v1 import token_broker_pb2, token_broker_pb2_grpc

    with channel() as broker:
        stub = token_broker_pb2_grpc.TokenBrokerServiceStub(broker)
        request = token_broker_pb2.GetAccessTokenRequest(provider=provider, connection=connection)
        token = stub.GetAccessToken(request, timeout=30)
        answer = {"accessToken": token.access_token, "tokenType": token.token_type}
        request = token_broker_pb2.WatchAccessTokenRequest(provider=provider, connection=connection)
        watch = stub.WatchAccessToken(request)
        answer["watched"] = next(watch).token.access_token
        watch.cancel()
        try:
            request = token_broker_pb2.GetAccessTokenRequest(provider=provider, connection=unknown)
            stub.GetAccessToken(request, timeout=30)
        except grpc.RpcError as error:
            answer["error"] = told(error)
    print(json.dumps(answer))


main(*sys.argv[1:])
