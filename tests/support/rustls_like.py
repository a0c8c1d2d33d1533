"""A C program whose keys seal and open records as rustls's do: by the same names, and with what Rust compilers of
several years have made of arguments and results. No compiler of Rust is needed.

``program PORT [wrong|wait]`` talks on two connections at once to a peer that sends back what it gets
(``echoing_peer``). All that a key has to do with a connection is that its records go over it. ``wrong``: at last,
results have no record in them. ``wait``: with answers under way it says "ready", and waits for the end of its stdin.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from compiled import compile_library

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# rustls 0.20 by a compiler of 2022, 0.23 by one of 2026.
OLD, NEW = "old", "new"
NAMES = {
    OLD: {
        "SEAL": "_ZN93_$LT$rustls..tls13..Tls13MessageEncrypter$u20$as$u20$rustls..cipher..MessageEncrypter$GT$"
        "7encrypt17h0123456789abcdefE",
        "OPEN": "_ZN93_$LT$rustls..tls13..Tls13MessageDecrypter$u20$as$u20$rustls..cipher..MessageDecrypter$GT$"
        "7decrypt17hfedcba9876543210E.llvm.123",
        "SIZE": "_ZN7nothing7encrypt17h0123456789abcdefE",
    },
    NEW: {
        "SEAL": "_RNvXs2_NtNtNtCsoQnBik7RE6_6rustls6crypto4ring5tls13NtB5_21Tls13MessageEncrypter"
        "NtNtB9_6cipher16MessageEncrypter7encrypt",
        "OPEN": "_RNvXs3_NtNtNtCsoQnBik7RE6_6rustls6crypto4ring5tls13NtB5_21Tls13MessageDecrypter"
        "NtNtB9_6cipher16MessageDecrypter7decrypt",
        "SIZE": "_RNvXs2_NtNtNtCsoQnBik7RE6_6rustls6crypto4ring5tls13NtB5_21Tls13MessageEncrypter"
        "NtNtB9_6cipher16MessageEncrypter21encrypted_payload_len",
    },
}
SOURCE = r"""
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ALERT = 1, HANDSHAKE, DATA, TAG = 16, ROOM = 4096 };
struct slice { const uint8_t *data; uint64_t length; };
struct key { uint8_t salt; };
/* Type and version: which comes first is the compiler's choice. */
#define VERSION_FIRST(version, type) ((uint64_t)(type) << 32 | 0xdeadULL << 16 | (version))
#define TYPE_FIRST(version, type) ((uint64_t)(version) << 16 | 0xad00 | (type))

void seal(uint64_t *result, struct key *, uint64_t *message, uint64_t sequence) __asm__("SEAL");
void open_record(uint64_t *result, struct key *, uint64_t *message, uint64_t sequence) __asm__("OPEN");
__attribute__((used)) uint64_t size(void *key, uint64_t n) __asm__("SIZE");
uint64_t size(void *key, uint64_t n) { return n + 1 + TAG; }
static int wrong;

static uint8_t stream(struct key *key, uint64_t sequence, uint64_t i)
{
    return (key->salt * 31 + sequence * 7 + i) * 2654435761u >> 13;
}

/* RFC 8446 §5.2: content, its type, a tag. */
__attribute__((noinline)) void seal(uint64_t *r, struct key *key, uint64_t *m, uint64_t sequence)
{
    struct slice one = {(uint8_t *)m[NEW_LAYOUT ? 1 : 0], m[NEW_LAYOUT ? 2 : 1]}, *all = &one;
    uint64_t n = 0, begin = 0, end = one.length, at = 0, i, header = NEW_LAYOUT ? 5 : 0;
    uint8_t *out = calloc(1, ROOM), *to = out + header;
    static const uint8_t types[] = {20, 21, 22, 23};
    uint8_t type = types[NEW_LAYOUT ? m[4] & 3 : m[2] >> 32 & 3];

    if (NEW_LAYOUT && m[0])
        all = (struct slice *)m[0], begin = m[2], end = m[3];
    for (; at < end; all++)
        for (i = 0; i < all->length && at < end; i++, at++)
            if (at >= begin)
                to[n++] = all->data[i];
    to[n] = type;
    for (i = 0; i < n + 1 + TAG; i++)
        to[i] ^= stream(key, sequence, i);
    r[0] = 0xff;
    r[1] = NEW_LAYOUT ? ROOM : (uint64_t)out;
    r[2] = NEW_LAYOUT ? (uint64_t)out : ROOM;
    r[3] = header + n + 1 + TAG + wrong;
    r[4] = VERSION_FIRST(4, DATA);
}

/* Where the record was, as all of rustls's do. */
__attribute__((noinline)) void open_record(uint64_t *r, struct key *key, uint64_t *m, uint64_t sequence)
{
    uint8_t *record = (uint8_t *)m[NEW_LAYOUT ? 0 : 1];
    uint64_t length = m[NEW_LAYOUT ? 1 : 2], n = length - 1 - TAG, i;

    for (i = 0; i < length; i++)
        record[i] ^= stream(key, sequence, i);
    for (i = 0; i < TAG; i++)
        if (record[length - 1 - i]) {
            /* Refused: the rest of the result is what was there before. */
            memset(record, 0, length);
            r[0] = 6;
            return;
        }
    r[0] = 0xff;
    r[1] = NEW_LAYOUT ? (uint64_t)record : length;
    r[2] = NEW_LAYOUT ? n : (uint64_t)record;
    r[3] = NEW_LAYOUT ? TYPE_FIRST(5, record[n] - 20) : n;
    r[4] = VERSION_FIRST(5, record[n] - 20);
}

static void (*volatile seal_it)(uint64_t *, struct key *, uint64_t *, uint64_t) = seal;
static void (*volatile open_it)(uint64_t *, struct key *, uint64_t *, uint64_t) = open_record;

/* A record on its way: with its header. */
struct sealed { uint8_t bytes[ROOM]; uint64_t length; };

static void finish(struct sealed *out, uint64_t *r)
{
    const uint8_t *from = (uint8_t *)r[NEW_LAYOUT ? 2 : 1] + (NEW_LAYOUT ? 5 : 0);
    uint64_t n = r[3] - (NEW_LAYOUT ? 5 : 0) - wrong;
    uint8_t header[] = {23, 3, 3, n >> 8, n};

    memcpy(out->bytes, header, 5);
    memcpy(out->bytes + 5, from, n);
    out->length = n + 5;
}

static void seal_text(struct sealed *out, struct key *key, uint64_t sequence, int type, const char *text)
{
    uint64_t n = strlen(text), at = (uint64_t)text, r[8] = {};
    uint64_t old[] = {at, n, VERSION_FIRST(4, type)}, new[] = {0, at, n, 77, TYPE_FIRST(4, type)};

    seal_it(r, key, NEW_LAYOUT ? new : old, sequence);
    finish(out, r);
}

/* The last part of an array of slices; where there is none such, of one. */
static void seal_parts(struct sealed *out, struct key *key, uint64_t sequence, const char *text)
{
    uint64_t n = strlen(text), r[8] = {};
    struct slice parts[] = {
        {"before", 6}, {"", 0}, {"xy;", 3}, {text + 1, 2}, {"", 0}, {text + 3, n - 3}, {"after", 5},
    };
    uint64_t message[] = {(uint64_t)parts, 7, 8, 8 + n, TYPE_FIRST(4, DATA)};

    if (!NEW_LAYOUT) {
        seal_text(out, key, sequence, DATA, text);
        return;
    }
    seal_it(r, key, message, sequence);
    finish(out, r);
}

static void send_all(int fd, struct sealed *one, struct sealed *two)
{
    uint8_t change[] = {20, 3, 3, 0, 1, 1};
    struct iovec parts[] = {{change, 6}, {one->bytes, one->length}, {two ? two->bytes : NULL, two ? two->length : 0}};

    writev(fd, two ? parts : parts + 1, two ? 3 : 1);
}

/* What comes back: records behind each other, opened in place or in a copy. */
static void receive_and_open(int fd, struct key *key, uint64_t sequence, uint64_t expected, uint64_t *r)
{
    static uint8_t buffer[ROOM], copy[ROOM];
    uint64_t at = 0;

    usleep(50000);
    if (recv(fd, buffer, ROOM, 0) != expected)
        exit(3);
    while (at < expected) {
        uint64_t n = buffer[at + 3] << 8 | buffer[at + 4];
        uint8_t *record = NEW_LAYOUT ? buffer + at + 5 : memcpy(copy, buffer + at + 5, n);
        uint64_t from = (uint64_t)record, old[] = {n, from, n, VERSION_FIRST(4, DATA)};
        uint64_t new[] = {from, n, TYPE_FIRST(4, DATA)};

        if (buffer[at] == 23)
            open_it(r, key, NEW_LAYOUT ? new : old, sequence++);
        at += n + 5;
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    uint8_t hello[50] = {22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3, [44] = 2, 0x13, 1, 1}, answer[64];
    const char *mode = argc > 2 ? argv[2] : "";
    struct key sealing[2], opening[2];
    struct sealed one[2], two[2];
    uint64_t results[2][8] = {};
    char text[64];
    int fd[2], i;

    inet_aton("127.0.0.1", &peer.sin_addr);
    for (i = 0; i < 2; i++) {
        fd[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd[i], (struct sockaddr *)&peer, sizeof(peer)))
            return 1;
        send(fd[i], hello, sizeof(hello), 0);
        recv(fd[i], answer, sizeof(answer), 0);
        sealing[i].salt = opening[i].salt = 10 + i;
    }
    /* Both have something to say before either has sent anything. */
    for (i = 0; i < 2; i++) {
        sprintf(text, "connection %d: first", i);
        seal_text(&one[i], &sealing[i], 0, HANDSHAKE, "Finished");
        seal_text(&two[i], &sealing[i], 1, DATA, text);
    }
    for (i = 1; i >= 0; i--)
        send_all(fd[i], &one[i], &two[i]);
    for (i = 0; i < 2; i++)
        receive_and_open(fd[i], &opening[i], 0, 6 + one[i].length + two[i].length, results[i]);
    /* New keys, where those of the other connection were. */
    for (i = 0; i < 2; i++) {
        sealing[1 - i].salt = opening[1 - i].salt = 20 + i;
        sprintf(text, "; connection %d: second", i);
        seal_text(&one[i], &sealing[1 - i], 0, DATA, text);
    }
    for (i = 0; i < 2; i++) {
        send_all(fd[i], &one[i], NULL);
        receive_and_open(fd[i], &opening[1 - i], 0, one[i].length, results[1 - i]);
    }
    for (i = 0; i < 2; i++) {
        sprintf(text, "; connection %d: third", i);
        seal_parts(&one[i], &sealing[1 - i], 1, text);
        send_all(fd[i], &one[i], NULL);
    }
    if (!strcmp(mode, "wait")) {
        puts("ready");
        fflush(stdout);
        getchar();
    }
    for (i = 0; i < 2; i++)
        receive_and_open(fd[i], &opening[1 - i], 1, one[i].length, results[1 - i]);
    /* An alert, refused for its key is another: of the same length, it leaves the last result as it was. */
    wrong = !strcmp(mode, "wrong");
    for (i = 0; i < 2; i++) {
        struct key other = {99};
        memset(text, '!', strlen(text));
        seal_text(&one[i], &sealing[1 - i], 2, ALERT, text);
        send_all(fd[i], &one[i], NULL);
        receive_and_open(fd[i], &other, 2, one[i].length, results[1 - i]);
    }
    seal_text(&one[0], &sealing[1], 3, DATA, "; and more");
    send_all(fd[0], &one[0], NULL);
    receive_and_open(fd[0], &opening[1], 3, one[0].length, results[1]);
    return 0;
}
"""


def compile_program(folder: Path, layout: str) -> Path:
    """The program, as one of OLD and NEW."""
    source = SOURCE
    for placeholder, name in NAMES[layout].items():
        source = source.replace(f'"{placeholder}"', f'"{name}"')
    return compile_library(folder, source, f"-DNEW_LAYOUT={int(layout == NEW)}", name="program", linkage=())


@contextlib.contextmanager
def echoing_peer() -> Iterator[int]:
    """A server's port: it answers a ClientHello with a record of its own, and sends back whatever comes then."""

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"\x16\x03\x03\x00\x04\x0e\x00\x00\x00")
            while said := connection.recv(1 << 16):
                connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
