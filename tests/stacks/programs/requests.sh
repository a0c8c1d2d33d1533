#!/bin/sh
# Both requests as bytes, for programs that only carry them: requests.sh HOST:PORT UPLOAD
printf 'GET /download HTTP/1.1\r\nHost: %s\r\n\r\n' "$1"
printf 'PUT /upload/body HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n' \
    "$1" "$(stat --format=%s "$2")"
cat "$2"
