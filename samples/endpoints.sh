#!/bin/sh
# An exchange for each thing that HTTP/1.1 does, asked for by curl.
# Usage: endpoints.sh URL [CURL_OPTION...], in a folder with pixel.png.
set -eu

base=$1
shift
options="--silent --show-error --http1.1 --max-time 30 --output /dev/null $*"

# Each call is a process. The options are words; --next forgets them, so each request of a connection has its own.
fetch() {
    # shellcheck disable=SC2086
    curl $options "$@"
}

# One connection.
# shellcheck disable=SC2086
fetch "$base/" \
    --next $options "$base/text" \
    --next $options "$base/pixel.png" \
    --next $options --head "$base/bytes/12345" \
    --next $options "$base/status/204" \
    --next $options --header 'If-None-Match: "plaintap"' "$base/status/304" \
    --next $options "$base/no/such/page"

# Framings and codings.
fetch "$base/bytes/20000"
fetch "$base/chunked/5000?size=1500"
fetch "$base/close/3000"
fetch --http1.0 "$base/bytes/1000"
fetch --compressed "$base/encoded/gzip"
fetch --compressed "$base/encoded/deflate"
fetch --compressed "$base/encoded/br"
fetch --header "Accept-Encoding: zstd" "$base/encoded/zstd"
fetch "$base/events?count=3"

# Uploads.
fetch --data "name=Ada+Lovelace&language=fran%C3%A7ais" "$base/form"
fetch --form "name=Ada" --form "picture=@pixel.png" "$base/echo"
fetch --header "Content-Type: application/json" --data '{"name": "Ada", "tags": [1, 2, 3]}' "$base/echo"
fetch --upload-file - "$base/echo" <pixel.png
fetch --header "Expect: 100-continue" --data-binary @pixel.png "$base/echo"
fetch --request DELETE "$base/json?id=1"

# State and place.
fetch --location --cookie "theme=light; visits=3" "$base/redirect"
fetch --cookie "theme=light" "$base/cookies"
fetch "$base/json?q=gr%C3%BC%C3%9Fe&q=again&empty="
fetch "$base/slow?ms=50"
