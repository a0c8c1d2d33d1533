"""A gRPC server over TLS, without generated code: messages are bytes. Prints its port; ends with its input."""

import sys
from concurrent import futures
from pathlib import Path

import grpc


def echo(request, context):
    context.set_trailing_metadata((("x-length", str(len(request))),))
    return request


def count(request, context):
    for number in range(int(request)):
        yield b"message %d " % number * number


def add_up(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def talk(requests, context):
    for request in requests:
        yield request[::-1]


def refuse(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nö, not now")


METHODS = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "AddUp": grpc.stream_unary_rpc_method_handler(add_up),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
    "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
}

server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("stacks.Peer", METHODS),))
key, certificate = (Path(path).read_bytes() for path in sys.argv[1:3])
port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials(((key, certificate),)))
server.start()
print(port, flush=True)
sys.stdin.read()
server.stop(None)
