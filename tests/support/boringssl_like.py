"""What BoringSSL's ssl_lib.cc and bio.cc come to, as far as their shapes tell the functions apart.

Macros: OLD (BAD_LENGTH is checked elsewhere), PEEK_CALLED (SSL_read calls SSL_peek instead of having it inlined),
TWO_WRITES (a second function like SSL_write), PEEK_CONSUMES, NO_BIO, VECTORED (a fork's own write), OPENS (what opens a
record is there), FORWARDING (of before 2017: SSL_read and SSL_peek hand over to ssl_read_impl whether to peek, and
BIO_read and BIO_write to bio_io which function to call), DROPPED (what takes errors is not given what it does not use).
"""

SOURCE = r"""
#include <stddef.h>
#include <string.h>
#define API __attribute__((noipa, used, visibility("hidden")))
#define INNER __attribute__((noipa, used)) static
static const char SSL_FILE[] = "../../third_party/boringssl/src/ssl/ssl_lib.cc";
static const char BIO_FILE[] = "../../third_party/boringssl/src/crypto/bio/bio.cc";
static const char RECORD_FILE[] = "../../third_party/boringssl/src/ssl/s3_pkt.cc";

#ifdef DROPPED
#define put_error(library, unused, reason, file, line) put_error_of_4(library, reason, file, line)
INNER void put_error_of_4(int library, int reason, const char *file, unsigned line)
{
    int unused = 0;
#else
INNER void put_error(int library, int unused, int reason, const char *file, unsigned line)
{
#endif
    volatile int kept = library + unused + reason + (int)line + (file != NULL);
    (void)kept;
}
#define ERROR(reason, line) put_error(16, 0, reason, SSL_FILE, line)

struct ssl;
struct method { int (*write)(struct ssl *, const void *, int); int (*read)(struct ssl *); };
struct state { long padding[16]; const char *pending; size_t pending_length; int flags; };
struct ssl {
    const struct method *method; long padding[4];
    int (*do_handshake)(struct ssl *); struct state *s3; long more[12]; void *quic;
};

API int SSL_do_handshake(struct ssl *ssl)
{
    ssl->s3->flags = 0;
    if (!ssl->do_handshake) { ERROR(134, 700); return -1; }
    return ssl->do_handshake(ssl);
}
#ifdef FORWARDING
#define PEEK , void *buffer, int length, int peek
#define NO_PEEK , NULL, 0, 1
#else
#define PEEK
#define NO_PEEK
#endif
INNER int ssl_read_impl(struct ssl *ssl PEEK)
{
    ssl->s3->flags = 0;
    if (!ssl->do_handshake) { ERROR(226, 800); return -1; }
    while (ssl->s3->pending_length == 0) {
        int ret = SSL_do_handshake(ssl);
        if (ret < 0) return ret;
        if (ret == 0) { ERROR(215, 815); return -1; }
        ret = ssl->method->read(ssl);
        if (ret <= 0) return ret;
    }
#ifdef FORWARDING
    memcpy(buffer, ssl->s3->pending, length);
    if (!peek) ssl->s3->pending_length -= length;
#endif
    return 1;
}
#ifdef FORWARDING
API int SSL_read(struct ssl *ssl, void *buffer, int length) { return ssl_read_impl(ssl, buffer, length, 0); }
API int SSL_peek(struct ssl *ssl, void *buffer, int length) { return ssl_read_impl(ssl, buffer, length, 1); }
#else
#ifndef PEEK_CALLED
__attribute__((always_inline)) static inline
#else
API
#endif
int peek(struct ssl *ssl, void *buffer, int length)
{
    if (ssl->quic) { ERROR(66, 850); return -1; }
    int ret = ssl_read_impl(ssl);
    if (ret <= 0) return ret;
    if (length <= 0) return length;
    size_t todo = ssl->s3->pending_length < (size_t)length ? ssl->s3->pending_length : (size_t)length;
    memcpy(buffer, ssl->s3->pending, todo);
    return todo;
}
#ifndef PEEK_CALLED
API int SSL_peek(struct ssl *ssl, void *buffer, int length)
{
#ifdef PEEK_CONSUMES
    int ret = peek(ssl, buffer, length);
    if (ret > 0) { ssl->s3->pending += ret; ssl->s3->pending_length -= ret; }
    return ret;
#else
    return peek(ssl, buffer, length);
#endif
}
#endif
API int SSL_read(struct ssl *ssl, void *buffer, int length)
{
    int ret = peek(ssl, buffer, length);
    if (ret <= 0) return ret;
    ssl->s3->pending += ret;
    ssl->s3->pending_length -= ret;
    return ret;
}
#endif
#define WRITE(name, line) \
    API int name(struct ssl *ssl, const void *buffer, int length) \
    { \
        ssl->s3->flags = 0; \
        if (ssl->quic) { ERROR(66, line); return -1; } \
        if (!ssl->do_handshake) { ERROR(226, line + 5); return -1; } \
        int ret = SSL_do_handshake(ssl); \
        if (ret < 0) return ret; \
        if (ret == 0) { ERROR(215, line + 10); return -1; } \
        BAD_LENGTH(line + 15) \
        return ssl->method->write(ssl, buffer, length); \
    }
#ifdef OLD
#define BAD_LENGTH(line)
#else
#define BAD_LENGTH(line) if (length < 0) { ERROR(111, line); return -1; }
#endif
WRITE(SSL_write, 900)
#ifdef TWO_WRITES
WRITE(SSL_write_again, 950)
#endif
API int SSL_shutdown(struct ssl *ssl)
{
    if (!ssl->do_handshake) { ERROR(226, 1000); return -1; }
    if (ssl->s3->flags) { ERROR(291, 1010); return -1; }
    return ssl_read_impl(ssl NO_PEEK);
}

#ifdef OPENS
struct span { unsigned char *data; size_t length; };
API int tls_open_app_data(
    struct ssl *ssl, struct span *out, size_t *consumed, unsigned char *alert, unsigned char *in, size_t length)
{
    *consumed = length;
    if (in[0] != 23) { put_error(16, 0, 225, RECORD_FILE, 269); return 4; }
    if (ssl->s3->flags > 16384) { put_error(16, 0, 300, RECORD_FILE, 276); *alert = 10; return 4; }
    out->data = in + 5;
    out->length = length - 5;
    return 0;
}
#endif
#ifdef VECTORED
INNER int seal(struct ssl *ssl, void *out, size_t length)
{
    if (out == ssl) { put_error(16, 0, 189, RECORD_FILE, 162); return 0; }
    ssl->s3->flags = (int)length;
    return 1;
}
API int write_vectors(struct ssl *ssl, void *out, size_t length)
{
    ssl->s3->flags = 0;
    return seal(ssl, out, length) + 1;
}
#endif

#ifndef NO_BIO
struct bio;
struct bio_method {
    int type; const char *name;
    int (*write)(struct bio *, const void *, int); int (*read)(struct bio *, void *, int);
    int (*puts)(struct bio *, const char *); int (*gets)(struct bio *, char *, int);
};
struct bio { int references; const struct bio_method *method; int init; long read, written; };
#define BIO(name, member, argument, counter, line) \
    API int name(struct bio *bio, argument buffer, int length) \
    { \
        if (!bio || !bio->method->member) { put_error(17, 0, 115, BIO_FILE, line); return -2; } \
        if (!bio->init) { put_error(17, 0, 114, BIO_FILE, line + 4); return -2; } \
        if (length <= 0) return 0; \
        int ret = bio->method->member(bio, buffer, length); \
        if (ret > 0) bio->counter += ret; \
        return ret; \
    }
#ifdef FORWARDING
INNER int bio_io(struct bio *bio, void *buffer, int length, size_t offset, int flags, long *counter)
{
    int (*function)(struct bio *, void *, int) = NULL;
    if (bio && bio->method) memcpy(&function, (const char *)bio->method + offset, sizeof(function));
    if (!function) { put_error(17, 0, 115, BIO_FILE, 156); return -2; }
    if (!bio->init) { put_error(17, 0, 114, BIO_FILE, 168); return -2; }
    int ret = buffer && length > 0 ? function(bio, buffer, length) : 0;
    if (ret > 0) *counter += ret | flags;
    return ret;
}
#define MOVES(name, member, flags, counter) \
    API int name(struct bio *bio, void *buffer, int length) \
    { \
        return bio_io(bio, buffer, length, offsetof(struct bio_method, member), flags, &bio->counter); \
    }
MOVES(BIO_read, read, 2, read)
MOVES(BIO_write, write, 3, written)
#else
BIO(BIO_read, read, void *, read, 84)
BIO(BIO_gets, gets, char *, read, 107)
BIO(BIO_write, write, const void *, written, 131)
#endif
#endif
int main(void) { return 0; }
/* As much code as the smallest program with a TLS library has. */
__asm__(".text\n.p2align 4\nfiller:\n.fill 300000, 1, 0xcc\n");
"""
