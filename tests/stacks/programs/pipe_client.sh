#!/bin/sh
# The requests into the standard input of a program: pipe_client.sh HOST:PORT UPLOAD PROGRAM...
requests=$(dirname "$0")/requests.sh
address=$1
upload=$2
shift 2
{
    "$requests" "$address" "$upload"
    sleep 1
} | "$@" >/dev/null
