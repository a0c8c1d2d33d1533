#!/bin/sh
# The demo's traffic: what a browser, an API client and an upload look like, over HTTPS and HTTP.
# Usage: client.sh HTTPS_PORT HTTP_PORT CERTIFICATE
set -eu

https="https://localhost:$1"
http="http://localhost:$2"
certificate=$3

# One curl per line below is one process; several URLs in a line share a keep-alive connection.
fetch() {
    curl --silent --show-error --fail --http1.1 --max-time 30 --cacert "$certificate" "$@" >/dev/null
}

fetch "$https/" "$https/pixel.png" "$https/text"
fetch --compressed "$https/encoded/gzip"
fetch "$https/json?q=gr%C3%BC%C3%9Fe&page=2" --header "Accept: application/json"
fetch --data "name=Ada&language=en" "$https/form"
fetch --location --cookie "theme=light" "$https/redirect" "$https/cookies"
fetch "$https/bytes/100000" "$https/chunked/20000"
fetch "$https/events?count=3"
fetch "$http/" "$http/text" "$http/slow?ms=100"
fetch --data-binary "@$0" --header "Content-Type: text/plain" "$http/echo"
