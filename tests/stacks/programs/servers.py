"""Python's servers: servers.py KIND PORT CERTIFICATE KEY DOWNLOAD."""

import asyncio
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

kind, port, certificate, key, download = sys.argv[1:]
body = Path(download).read_bytes()


def context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate, key)
    made.set_alpn_protocols(["http/1.1"])
    return made


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(body)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"stored\n")

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def threads() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    server.socket = context().wrap_socket(server.socket, server_side=True)
    server.serve_forever()


def with_aiohttp() -> None:
    from aiohttp import web

    async def get(_request: web.Request) -> web.Response:
        return web.Response(body=body)

    async def put(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b"stored\n")

    application = web.Application()
    application.add_routes([web.get("/download", get), web.put("/upload/body", put)])
    web.run_app(application, host="127.0.0.1", port=int(port), ssl_context=context(), print=None)


def with_tornado() -> None:
    from tornado.web import Application, RequestHandler

    class Both(RequestHandler):
        def get(self) -> None:
            self.finish(body)

        def put(self) -> None:
            self.finish(b"stored\n")

    async def main() -> None:
        Application([(r"/download|/upload/body", Both)]).listen(int(port), "127.0.0.1", ssl_options=context())
        await asyncio.Event().wait()

    asyncio.run(main())


def with_gevent() -> None:
    from gevent import monkey

    monkey.patch_all()
    from gevent.pywsgi import WSGIServer

    def application(environ, start_response):
        environ["wsgi.input"].read()
        content = body if environ["PATH_INFO"] == "/download" else b"stored\n"
        start_response("200 OK", [("Content-Length", str(len(content)))])
        return [content]

    WSGIServer(("127.0.0.1", int(port)), application, ssl_context=context(), log=None).serve_forever()


{"threads": threads, "aiohttp": with_aiohttp, "tornado": with_tornado, "gevent": with_gevent}[kind]()
