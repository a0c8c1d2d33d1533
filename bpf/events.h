/* SPDX-License-Identifier: GPL-2.0-or-later
 * What crosses the ring buffer: the one definition. abi.py reads this file and derives Python's view of it,
 * so it is kept to what that reader knows: #define NAME NUMBER, enum, and struct with scalar or u8-array members.
 *
 * Every record begins with struct sample. Times are CLOCK_MONOTONIC nanoseconds. A position is the number of
 * bytes that the direction carried before this one since the connection (or the TLS session) was first seen:
 * it is reserved before the record is, so a record that is missing leaves a hole of exact length.
 */
#define COMM_BYTES 16
#define PREFIX_BYTES 16
#define EXEC_TEXT_BYTES 512
#define LOOKUP_NAME_BYTES 256
#define CODE_PATH_BYTES 256
#define NEW_CODE_RING_BYTES 1048576
#define LOOKUP_ADDRESS_BYTES 512
#define UNIX_PATH_BYTES 108

/* Payload room of the record classes; a record is as large as its class, whatever it holds. */
#define CLASS0_BYTES 160
#define CLASS1_BYTES 512
#define CLASS2_BYTES 1536
#define CLASS3_BYTES 4096
#define CLASS4_BYTES 8192
#define CLASS5_BYTES 16384

/* Maps of one value whose address programs have in their code (VALUE_OF), where a look-up is too long: compiled.py
 * finds the map by the name. */
enum value_of {
	VALUE_OF_decisions = 1,
	VALUE_OF_unwanted_calls = 2,
};

/* Programs that are on everybody's way are in two parts (targets.bpf.h): NAME, and where it goes on, wanted_NAME. */
enum wanted_tracepoint {
	WANTED_enter_io,
	WANTED_enter_io_flags,
	WANTED_exit_io,
};
enum wanted_raw_tracepoint {
	WANTED_on_tcp_sendmsg_locked,
	WANTED_on_sock_send_length,
	WANTED_on_sock_recv_length,
	WANTED_on_skb_copy_datagram_iovec,
	WANTED_on_tcp_rcv_space_adjust,
};

/* Where programs go on in emit_from_*, by tail call. */
enum continuation {
	COPY_JOB = 0,		/* by copying a call's bytes */
	TELL_STEP = 1,		/* with the next step of a long call */
	LOOK_FOR_KEYS = 2,	/* with what is left to do on a connection that may be one of keys */
};

/* Where programs for both ends of a call go on at its return, by tail call (call_returns). */
enum call_return {
	RETURN_OF_TLS = 0,
	RETURN_OF_NSS = 1,
	RETURN_OF_RUSTLS = 2,
};

enum sample_kind {
	SAMPLE_CONNECTION = 1,	/* struct connection_sample: a connection is worth showing; before its first data */
	SAMPLE_DATA = 2,	/* payload: cleartext of a connection, or plaintext of a TLS session */
	SAMPLE_HELLO = 3,	/* payload: TLS records as they crossed the socket, while the handshake is in the clear */
	SAMPLE_END = 4,		/* struct end_sample: the socket is gone, nothing more will come */
	SAMPLE_BOUND = 5,	/* a TLS session's socket became known (or changed): session → connection; position is
				 * 1 if that is not wanted: it was not announced, nor will be */
	SAMPLE_HANDSHAKE = 6,	/* a TLS handshake function returned success; position holds its start time */
	SAMPLE_EXEC = 7,	/* payload: file name, NUL, arguments each ended by NUL */
	SAMPLE_SESSION_END = 8,	/* the TLS session's object was freed */
	SAMPLE_NEW_CODE = 9,	/* struct new_code_sample: a process runs or maps a file that was not looked at: inode in
				 * position, device in length, in reason whether it is held */
	SAMPLE_NAME = 10,	/* struct name_sample: a host name was looked up, from the time in position on */
	SAMPLE_RETURN_PLACE = 11,	/* a call on a switched stack will return to the address in position; length is the
				 * kernel's pointer to the memory map, in reason whether the process is held, in
				 * direction whether the call moves bytes */
	SAMPLE_JOINED = 12,	/* what was told of a session belongs to the one whose id is in length: in this direction,
				 * from the position on */
	SAMPLE_INNER_HELLO = 13,	/* payload: the first record that was written inside of a connection's TLS session */
};

/* Seen from the process that was recorded. */
enum direction {
	DIRECTION_SENT = 0,
	DIRECTION_RECEIVED = 1,
};

enum protocol {
	PROTOCOL_UNDECIDED = 0,
	PROTOCOL_TLS = 1,
	PROTOCOL_HTTP = 2,
	PROTOCOL_OTHER = 3,
};

enum role {
	ROLE_UNKNOWN = 0,
	ROLE_CLIENT = 1,
	ROLE_SERVER = 2,
};

/* The shape of a call: where its arguments are, and what its return means. capture.call_shapes has the C.
 * The order matters: tls.bpf.h, golang.bpf.h and return_places.bpf.h ask whether a shape comes before another. */
enum shape {
	SHAPE_READ_INT = 1,	/* (object, buffer, n) → bytes, or ≤ 0 */
	SHAPE_WRITE_INT,
	SHAPE_READ_LONG,
	SHAPE_WRITE_LONG,
	SHAPE_WRITE_FILE,	/* (object, file, offset, n, flags) → bytes, or ≤ 0: the kernel's TLS takes them from the file */
	SHAPE_READ_PACKET,	/* (object, packet) → bytes, or ≤ 0: GnuTLS lends them in *packet */
	SHAPE_READ_OPENED,	/* (object, opened, …) → 0, and a record's plaintext in *opened; 3 for close_notify */
	SHAPE_READ_EX,		/* (object, buffer, n, done) → 1, and the bytes in *done */
	SHAPE_READ_INTERNAL,	/* the same → 1, 0 (close_notify came), or -1 */
	SHAPE_WRITE_EX,
	SHAPE_WRITE_EX2,	/* (object, buffer, n, flags, done) */
	SHAPE_WRITE_VECTORS,	/* (object, output, _, _, blocks, count, n, done) → 0, the bytes in *done, a record in output */
	SHAPE_WRITE_KEPT,	/* (object): what earlier writes were given is sent, by calls of its own that give nothing new */
	SHAPE_HANDSHAKE,	/* (object) → 1 when done */
	SHAPE_HANDSHAKE_ZERO,	/* (object) → 0 when done */
	SHAPE_FREE,		/* (object) */
	SHAPE_BIO_WRITE,	/* (bio, buffer, n): entry only */
	SHAPE_RECORD_BEFORE,	/* (object): a record begins at the first word less the second; entry only */
	SHAPE_RECORD_BEHIND,	/* … at the first word and a half one, the second … */
	SHAPE_RECORD_QUEUED,	/* … or is the first in a queue of GnuTLS's packets */
	SHAPE_COPY,		/* (to, from, n): what an older read hands over; entry only */
	SHAPE_GO_READ,		/* Go: (conn, buffer, n, capacity) → bytes, error */
	SHAPE_GO_WRITE,
	SHAPE_GO_HANDSHAKE,	/* (conn, context) → error, 0 when done */
	SHAPE_GO_CLOSE,		/* (conn): entry only */
	SHAPE_GO_READ_SPILLED,	/* Go: a read that puts its arguments where its caller left room for them */
	SHAPE_GO_READ_WRAPPED,	/* Go: the same, of an object whose first member is the conn */
	SHAPE_GO_WRITE_WRAPPED,
	SHAPE_GO_HANDSHAKE_WRAPPED,
	SHAPE_NSPR_READ,	/* NSPR: (descriptor, buffer, n) → bytes, or ≤ 0 */
	SHAPE_NSPR_WRITE,
	SHAPE_NSPR_RECV,	/* (descriptor, buffer, n, flags) */
	SHAPE_NSPR_WRITEV,	/* (descriptor, blocks, count) → bytes */
	SHAPE_NSPR_CLOSE,	/* (descriptor): entry only */
	SHAPE_NSS_IMPORT,	/* (model, descriptor) → the descriptor that has TLS */
	SHAPE_RUSTLS_READ,	/* rustls: (result, key, message, sequence number) → plaintext in *result, where the record was */
	SHAPE_RUSTLS_WRITE,	/* → a record in *result; the message is one slice … */
	SHAPE_RUSTLS_WRITE_CHUNKS,	/* … or several, since 0.23 */
	SHAPE_NAME_ADDRINFO,	/* libc: (name, service, hints, result) → 0, and a list of struct addrinfo in *result */
	SHAPE_NAME_HOST,	/* libc: (name, entry, buffer, n, result, error) → 0, and a struct hostent in *result */
	SHAPE_NAME_HOST2,	/* libc: (name, family, entry, buffer, n, result, error) */
};

/* What a call of a TLS library does. */
enum call_kind {
	CALL_OTHER = 0,	/* a handshake */
	CALL_READS = 1,
	CALL_WRITES = 2,
};

/* Why bytes are missing; REASON_NONE in a sample that lacks nothing. */
enum reason {
	REASON_NONE = 0,
	REASON_RING_FULL = 1,
	REASON_FAULT = 2,
	REASON_LIMIT = 3,
	REASON_NOT_IN_USER_SPACE = 4,
	REASON_TABLE_FULL = 5,
	REASON_UNDECIDED = 6,	/* what was sent before did not tell which protocol it is */
	REASON_UNSEEN_RETURN = 7,	/* what was moved before is not known: a call of the session was not seen to return */
};

struct sample {
	u8 kind;
	u8 direction;
	u8 reason;	/* why `length` exceeds `captured` */
	u8 protocol;
	u32 captured;	/* payload bytes in this record */
	u64 time;
	u64 connection;	/* 0: not known (yet) */
	u64 session;	/* TLS session; 0: the bytes crossed the socket as they are */
	u64 position;
	u64 length;	/* bytes of the direction that this record stands for */
	u32 tgid;
	u32 tid;
	u32 library;	/* the attachment's cookie: which library's function it was; 0: none, or unknown */
				/* SAMPLE_HELLO: the other direction's position, modulo 2^32 */
	u8 overlapped;	/* other calls on the connection were in flight: what belongs before may come later */
	u8 answers;	/* a write of the session was in flight, which these bytes may answer: it will be told of later */
	u16 by_reference;	/* as of the call: the program may change them before TCP sends them */
};

struct connection_sample {
	struct sample head;
	u64 opened;		/* connect() entered or accept() returned; 0: before we looked */
	u64 established;	/* three-way handshake done; 0: before we looked */
	u64 base_sent;		/* positions from which data will be reported */
	u64 base_received;
	u32 inode;
	u32 netns;
	u32 fd;
	u16 family;
	u16 local_port;
	u16 remote_port;
	u8 role;
	u8 path_bytes;		/* AF_UNIX: of `path` */
	u8 local[16];		/* AF_UNIX: the inode of the client's socket, which names the connection */
	u8 remote[16];		/* AF_UNIX: nothing */
	u8 comm[16];
	u8 path[UNIX_PATH_BYTES];
};

struct end_sample {
	struct sample head;
	u64 local_fin;		/* times; 0: did not happen */
	u64 peer_fin;
	u64 local_reset;
	u64 peer_reset;
	u64 sent;		/* final positions on the socket … */
	u64 received;
	u64 session_sent;	/* … and of the plaintext of its last TLS session */
	u64 session_received;
};

/* `captured` addresses of a name, IPv4 as ::ffff:a.b.c.d; `length` more, or entries, had no room. */
struct name_sample {
	struct sample head;
	u8 name[LOOKUP_NAME_BYTES];
	u8 addresses[LOOKUP_ADDRESS_BYTES];
};

/* In a ring of its own, for a process may be stopped until it is answered. */
struct new_code_sample {
	struct sample head;
	u64 changed;		/* the file's ctime, ns since 1970 */
	u64 size;
	u8 path[CODE_PATH_BYTES];	/* as exec was given it; empty for a mapping */
};

/* What processes use that is not recorded. */
enum unrecorded {
	UNRECORDED_QUIC = 1,
	UNRECORDED_UNIX = 2,	/* HTTP on sockets of AF_UNIX */
};

/* Indices of the ledger's counters; one array slot each. */
enum counter {
	COUNTER_REPORTED_SENT = 0,	/* bytes that the socket layer moved, or else that system calls returned */
	COUNTER_REPORTED_RECEIVED = 1,
	COUNTER_SUPPRESSED = 2,		/* TLS records, neither copied nor shown */
	COUNTER_FILTERED = 3,		/* connections that the user did not ask for */
	COUNTER_UNDECIDED = 4,		/* passed before the protocol was recognised */
	COUNTER_LOST_RING_FULL = 5,
	COUNTER_LOST_LIMIT = 6,
	COUNTER_LOST_NOT_IN_USER_SPACE = 7,
	COUNTER_LOST_TABLE_FULL = 8,
	COUNTER_PLAINTEXT_REPORTED = 9,		/* bytes that TLS functions returned */
	COUNTER_PLAINTEXT_RING_FULL = 10,
	COUNTER_PLAINTEXT_LIMIT = 11,
	COUNTER_PLAINTEXT_FILTERED = 12,
	COUNTER_MIRRORED = 13,			/* shown from the other end of the connection */
	COUNTER_PLAINTEXT_MIRRORED = 14,
	COUNTER_EVENTS_RING_FULL = 15,		/* records other than data that found no room */
	COUNTER_TABLE_FULL = 16,		/* entries that found no room in a map */
	COUNTER_ENDS_PENDING = 17,		/* ends that found no room and wait in the table */
	COUNTER_PLAINTEXT_TABLE_FULL = 18,
	COUNTER_HOLES_NOTED = 19,		/* entries ever made in `holes` */
	COUNTER_PROBE_HITS = 20,		/* calls of TLS libraries that were seen */
	COUNTER_BY_REFERENCE = 21,		/* captured bytes that may change after the call that sent them */
	COUNTER_TCP_CHECKED = 22,		/* connections compared with TCP's own totals (totals.bpf.h) … */
	COUNTER_TCP_UNSEEN_SENT = 23,		/* … bytes that TCP moved and no call was seen to … */
	COUNTER_TCP_UNSEEN_RECEIVED = 24,
	COUNTER_TCP_EXCESS_SENT = 25,		/* … and bytes that were seen twice */
	COUNTER_TCP_EXCESS_RECEIVED = 26,
	COUNTER_UNSEEN_RETURNS = 27,		/* calls that move bytes, on switched stacks, whose return had no probe */
	COUNTER_PLAINTEXT_UNSEEN_RETURN = 28,	/* plaintext of sessions that had one that moves bytes */
	COUNTER_UNSEEN_ENTRIES = 29,		/* calls of before the recording that moved bytes and were not understood */
	COUNTER_OTHER_PROTOCOLS = 30,		/* of connections that speak neither HTTP nor TLS */
	COUNTER_PLAINTEXT_NOT_IN_USER_SPACE = 31,
	COUNTERS = 32,
};

#define WANT_PIDS 1
#define CHECK_PIDS 2
#define WANT_COMMS 4
#define CHECK_COMMS 8
#define WANT_UIDS 16
#define CHECK_UIDS 32
#define CHECK_CGROUPS 64
#define CHECK_PROCESSES 106	/* any CHECK_* above */
#define WANT_PORTS 128
#define CHECK_PORTS 256
#define WANT_HOSTS 512
#define CHECK_HOSTS 1024
#define FOLLOW_CHILDREN 2048
#define KEEP_ALL_PROTOCOLS 8192
#define DROP_HTTP 16384
#define DROP_TLS 32768
#define MAX_CGROUPS 8

/* A flag beside a library's number in an attachment's cookie (1 << 24): its records are not seen on their way
 * out, for its BIO_write, or what hands them to the program, is not known. */
#define WITHOUT_BIO 16777216
/* The same (1 << 25): its functions were found by their code, and may be others. */
#define LOCATED 33554432
/* The same (1 << 26): the probe is on a RET, which has yet to take the return address. */
#define ON_RET 67108864
/* What is above: how many words a function has pushed before the place of its entry probe. */
#define PUSHED_SHIFT 32

/* Of SHAPE_RECORD_*, in the place of all these: where the two words are in the object, 16 bits each. */
#define MAX_OFFSET 65535
#define OFFSET_SHIFT 24
#define SECOND_OFFSET_SHIFT 40

/* In return_places, beside the process. */
#define NO_PROBE_THERE 4294967296

struct settings {
	u32 self;	/* our own tgid: never recorded */
	u32 flags;
	u32 wanted_cgroups;	/* how many there are */
	u32 excluded_cgroups;
};
