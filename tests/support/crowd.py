"""Many threads, each with its own keep-alive connection, that take turns as the scheduler has it.

Run as ``python crowd.py PORT CONNECTIONS REQUESTS [CERTIFICATE]``. Every thread connects, waits for all the
others, and then asks for ``/json?connection=C&request=R``, R counting up. It prints, as one line of JSON,
the local port of every connection.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import threading


def main() -> None:
    """Connect, wait, ask, and tell the ports."""
    port, connections, requests = map(int, sys.argv[1:4])
    context = ssl.create_default_context(cafile=sys.argv[4]) if len(sys.argv) > 4 else None
    barrier = threading.Barrier(connections)
    ports: dict[int, int] = {}

    def converse(number: int) -> None:
        if context is None:
            connection = http.client.HTTPConnection("localhost", port)
        else:
            connection = http.client.HTTPSConnection("localhost", port, context=context)
        connection.connect()
        ports[number] = connection.sock.getsockname()[1]
        barrier.wait(30)
        for request in range(requests):
            path = f"/json?connection={number}&request={request}"
            connection.request("GET", path)
            answer = json.loads(connection.getresponse().read())
            assert answer["query"] == {"connection": str(number), "request": str(request)}
        connection.close()

    threads = [threading.Thread(target=converse, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ports) == connections
    print(json.dumps(ports))


if __name__ == "__main__":
    main()
