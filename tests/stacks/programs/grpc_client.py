"""A gRPC client over TLS: grpc_client.py PORT CERTIFICATE. Prints each call as JSON: method, what was sent and what
came back, as lengths, and the status.
"""

import json
import sys
import threading
from pathlib import Path

import grpc

certificate = Path(sys.argv[2]).read_bytes()
channel = grpc.secure_channel(f"localhost:{sys.argv[1]}", grpc.ssl_channel_credentials(certificate))
lock = threading.Lock()


def tell(method, sent, call):
    try:
        received = [len(message) for message in call()]
        status = "OK"
    except grpc.RpcError as error:
        received, status = [], error.code().name
    with lock:
        print(
            json.dumps(
                {"method": method, "sent": [len(m) for m in sent], "received": received, "status": status}
            )
        )


def once(name):
    return channel.unary_unary(f"/stacks.Peer/{name}")


def asks(number):
    message = b"hello %d " % number * number
    tell("Echo", [message], lambda: [once("Echo")(message, metadata=(("x-number", str(number)),))])


tell("Count", [b"50"], lambda: channel.unary_stream("/stacks.Peer/Count")(b"50"))
pieces = [b"x" * size for size in (0, 1, 20_000, 100_000)]
tell("AddUp", pieces, lambda: [channel.stream_unary("/stacks.Peer/AddUp")(iter(pieces))])
tell("Talk", pieces, lambda: channel.stream_stream("/stacks.Peer/Talk")(iter(pieces)))
tell("Refuse", [b"please"], lambda: [once("Refuse")(b"please")])
threads = [threading.Thread(target=asks, args=(number,)) for number in range(100)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
channel.close()
