/* SPDX-License-Identifier: GPL-2.0-or-later
 * All maps: what, key, value, who deletes.
 */

/* PREFIX_BYTES, and as many that a copy may put behind them. */
#define PREFIX_ROOM (2 * PREFIX_BYTES)

/* A connection, by the kernel's socket. Of AF_UNIX, `local` and `remote` say other things: unix.bpf.h. */
struct connection {
	u64 id;			/* unique in one recording, never 0 */
	u64 opened, established;
	u64 local_fin, peer_fin, local_reset, peer_reset;
	u64 notified;		/* when TLS told that the peer sends no more (close_notify) */
	u64 position[2];	/* bytes so far, by direction */
	u64 base[2];		/* positions from which data is worth showing */
	u64 session_position[2];
	u64 session;		/* the last TLS session on it, 0: none known */
	u64 ssl;		/* its object, to forget it with the socket … */
	u32 inode, netns, tgid, fd;
	u32 ssl_tgid;		/* … in this process: a child may serve what its parent accepted */
	u16 family, local_port, remote_port;
	u16 misses;		/* calls whose first bytes said nothing */
	u8 role, protocol;
	u8 unwanted;		/* excluded by the user's choice of ports and hosts */
	u8 missed;		/* its end was not told when it was asked of */
	u8 addressed;		/* addresses and ports are final */
	u8 based;		/* `base` is set */
	u8 announced;		/* SAMPLE_CONNECTION is in the ring */
	u8 ended;		/* SAMPLE_END found no room, or must wait: user space collects the entry */
	u8 copied_known;	/* `copied` is set */
	u8 untold;		/* not plain TCP: no sequence numbers, and no word of its end (ends.bpf.h) */
	u8 nameless;		/* what its session is called is not known: older_reads.bpf.h */
	u8 shut;		/* sends no more: `local_fin` is final */
	u8 notifies;		/* its TLS library's reads tell of close_notify */
	u8 abandoned;		/* the program has closed it, and did not wait for the peer's end */
	u8 closed;		/* … or shut it down, and was not ending itself: the process of its session */
	u8 diverted;		/* a BPF program handed bytes on to another socket (sockmap): TCP never had them */
	u8 restored;		/* another kernel began it: its SYN was not counted here */
	u8 left;		/* the object of its TLS session was freed, and no other has come: cleartext.bpf.h */
	u32 urgent;		/* bytes received beside the stream */
	u32 record_left;	/* keys.bpf.h: bytes to be received before the next record begins, as far as is known */
	u32 copied;		/* TCP's copied_seq after what was seen to be received */
	/* By direction: a position whose TCP sequence number is known; calls in flight; how often two were at once. */
	u64 anchor_position[2];
	u32 anchor[2];
	u64 in_flight[2];
	u32 overlaps[2];
	u8 anchored[2];
	u32 greets_no_socks_proxy;	/* what came last of a direction whose protocol is undecided */
	u32 may_precede_tls;	/* not 0: it began like what agrees on TLS */
	u32 silent;		/* bytes that a call was found to have moved on unseen, so far */
	u32 unix_seen;		/* AF_UNIX: bytes of the packet `unix_skb` that were seen to be received */
	u64 unix_skb;
	u8 local[16], remote[16];
	/* Two rows: BCC gives Python the wrong size for an array of arrays. */
	u8 prefix[2 * PREFIX_ROOM];
	u8 prefix_length[2];
	u16 hello_left[2];	/* handshake bytes still to be shown */
	u8 comm[COMM_BYTES];
};

/* What a process calls a connection: {tgid, fd}, and which file that was. */
struct descriptor_key {
	u32 tgid, fd;
};
struct descriptor {
	u64 file, sk, id;
};

/* A system call in flight, or a transfer that no hooked call covers (below.bpf.h). */
struct syscall {
	u64 sk, id;
	u64 entered;
	u64 buffer;		/* or the array of blocks */
	u64 most;		/* bytes that there are at `buffer`, once TCP has shown them */
	u64 moved;		/* below, and of a long system call: bytes to be told of now */
	u64 told;		/* below: bytes of this call that were told of already */
	u64 ahead;		/* the same of a long system call (long_calls.bpf.h) */
	u64 reported;		/* bytes that the socket layer counted in this call */
	u64 skb;		/* below: the packet that is being copied to the program, `most` bytes of it … */
	u64 queue;		/* AF_UNIX: where the kernel says that it is still there; 0: it is */
	u32 sequence;		/* … from this sequence number on; AF_UNIX: after so many of its bytes */
	u32 blocks;		/* entries of the array of blocks; 0: `buffer` is the data */
	u32 skip;		/* bytes of the first block that are not part of it */
	u32 flags;
	u8 direction;
	u8 memory;		/* MEMORY_* */
	u8 below;		/* not a hooked call */
	u8 sequenced;		/* `sequence` is that of the first byte */
	u8 overlapped;		/* another call on the connection was in flight when this one began */
	u8 unsequenced;		/* MPTCP, AF_UNIX: there is no such number */
	u8 taken;		/* AF_UNIX: a packet was received before it could be looked at */
	u8 splits;		/* the bytes are not consecutive: `splits` has an entry */
	u8 in_long_call;	/* of a TLS library, whose record it has written */
	u8 head_bytes;		/* moved(): how many were looked at */
	s8 fate;		/* … and what becomes of them */
	u8 pad;
	u32 overlaps;		/* the connection's, when this one began */
};

/* A TLS object of a process. The pointer is reused after it is freed: the id is not. */
struct session_key {
	u64 ssl;
	u32 tgid, pad;
};
struct session {
	u64 id;
	u64 sk, connection;	/* where its records go; 0: not known yet */
	u64 position[2];
	u64 handshake_started;
	u32 library;
	u8 established;
	u8 tunnels;		/* what it carries is another session's records */
	u8 without_bio;		/* of a library whose records are not seen on their way out */
	u8 unfreed;		/* of a library whose SSL_free is not known: its object is another session's, and nobody told */
	u8 unseen;		/* a call was not seen to return: what follows has no known place */
	u8 in_memory;		/* its records were handed on in memory, and are read from there, too */
	u8 gone;		/* its socket is, and what comes is the rest of what that had received; 2: which nobody wants */
	u8 closing;		/* to be forgotten when the last of … */
	u64 writing;		/* … these calls returns (Go: another goroutine may close meanwhile) */
	u64 told, written;	/* plaintext of a long call that was told of, records since (long_calls.bpf.h) */
	u64 told_at[2];		/* keys.bpf.h: when it last told of bytes, by direction; a key, when it first did */
	u64 unsent, unsent_head;	/* GnuTLS: the data of a write that would have waited, and how it began */
};

/* A TLS function in flight. Calls nest (TLS in TLS, and functions that call each other). */
struct tls_call_key {
	u64 stack;		/* which one: stacks.bpf.h */
	u32 depth, pad;
};
struct tls_call {
	u64 ssl, buffer, count, done_pointer;
	u64 entered;
	u64 stack;		/* stack pointer at entry: matches the return to its entry */
	u64 library;
	u64 sk, connection;	/* the socket that a nested system call touched */
	u64 output;		/* where the record is put; 0: it goes to a BIO */
	u64 sent, last;		/* a write: what nested system calls have sent, and the last of them or of BIO_write's */
	u64 sent_before;	/* Go: what the connection had sent when the write began */
	u32 kind;		/* CALL_* */
	u32 blocks;		/* entries of the array of blocks at `buffer`; 0: it is the data */
	u32 tid;		/* Go: the thread that it began on */
	u8 memory;		/* MEMORY_* */
	u8 shape;		/* SHAPE_* */
	u8 datagrams;		/* a nested system call touched a socket that has no stream */
	u8 untold;		/* rustls: no application data, known by its record only */
	u8 on_stack;		/* Go: `buffer` is how far it is from the stack pointer at entry */
	u32 skip;		/* bytes of the first block that are not part of it */
	u32 older;		/* a call of before the recording: 2 above the descriptor that it waits on, or 1 */
	u32 function, returns_to;	/* on a switched stack: which function, and where it returns to; the low halves */
};

/* A copy in progress: filled by a program that knows a call's result, consumed by the emit programs. */
struct job {
	u64 connection, session, time, position;
	u64 vector, block, blocks;
	u64 base, length, offset;
	u64 left;
	u64 captured, ring_full;
	u64 total;		/* `left` at first */
	u64 split;		/* bytes left at which others' bytes come between; 0: none do */
	u64 queue, skb;		/* what is copied is there while this points to it; 0: for as long as it takes */
	u32 tgid, tid, library;
	u32 skip;		/* bytes of the first block that are not part of it */
	u8 kind, direction, protocol;
	u8 memory;		/* MEMORY_* */
	u8 split_up;		/* `splits` has an entry */
	u8 overlapped;
	u8 answers;
	u8 by_reference;
	u8 unreadable;		/* why the blocks themselves cannot be read */
};

BPF_RINGBUF_OUTPUT(ring, 1);		/* program.py makes it as large as it is to be */

BPF_ARRAY(settings, struct settings, 1);
BPF_ARRAY(counters, u64, COUNTERS);
BPF_ARRAY(ids, u64, 1);			/* last id given out */

/* key: sock pointer. Deleted when the socket is destroyed (or by user space, if `ended`). */
BPF_HASH(connections, u64, struct connection, MAX_CONNECTIONS);
/* key: tid. A connection's entry until it is filled in: too large for the stack. As many as are made at once. */
BPF_HASH(drafts, u32, struct connection, 1024);
BPF_ARRAY(no_connections, struct connection, 1);
/* key: {tgid, fd}. A cache: deleted by close, else the least recently used goes. */
BPF_TABLE("lru_hash", struct descriptor_key, struct descriptor, descriptors, MAX_CONNECTIONS);
/* key: tid. Deleted at the call's exit, or the thread's. */
BPF_HASH(syscalls, u32, struct syscall, MAX_CALLS);
/* key: tid. Deleted when the copy is done. */
BPF_HASH(jobs, u32, struct job, MAX_CALLS);
BPF_ARRAY(no_jobs, struct job, 1);
/* key: {ssl, tgid}. Deleted when the object is freed or with its socket. A process that ends may free nothing, and
 * have no socket that is known: what was not used for longest goes when room is needed. */
BPF_TABLE("lru_hash", struct session_key, struct session, sessions, MAX_SESSIONS);
/* key: {stack, depth}. Deleted at return, or when the thread exits. A coroutine may end in a call, and nobody tell. */
BPF_TABLE("lru_hash", struct tls_call_key, struct tls_call, tls_calls, MAX_CALLS);

/* A call of a TLS library that was waiting when the recording began, and whose return cannot be understood. key: tid.
 * Filled by user space, deleted when it hands over plaintext, or when the thread enters another function or exits. */
struct older_read {
	u64 buffer;		/* where the record will begin, if it is a read; or 0 */
	u32 fd, tgid;
	u32 direction, pad;
};
BPF_HASH(older_reads, u32, struct older_read, 16384);

/* Libraries that were found by their code and whose functions behave like others. key: the attachment's number of it.
 * Never deleted: its probes are as good as gone. */
BPF_HASH(distrusted, u32, u8, 4096);

/* Connections whose bytes are shown from their other end. key: connection id. Filled and emptied by user space; a
 * cache, for user space leaves out what is copied all the same. */
BPF_TABLE("lru_hash", u64, u8, mirrored, MAX_CONNECTIONS);

/* When TCP completed a connection that it was asked for: accept() has no tracepoint here in io_uring and in programs of
 * 32 bits. key: sock pointer. Deleted when the socket is destroyed; a cache, for it has everyone's. */
BPF_TABLE("lru_hash", u64, u64, passive_opens, 16384);

/* Targets, filled by user space; pids also by fork. key: the thing itself, value: wanted or excluded. */
BPF_HASH(chosen_pids, u32, u8, 65536);
struct comm_key {
	char comm[COMM_BYTES];
};
BPF_HASH(chosen_comms, struct comm_key, u8, 256);
BPF_HASH(chosen_uids, u32, u8, 256);
BPF_HASH(chosen_ports, u16, u8, 1024);
/* Networks of hosts: the longest that fits is found, so those that are excluded have a map of their own. */
struct host_key {
	u32 bits;
	u8 address[16];
};
BPF_LPM_TRIE(wanted_hosts, struct host_key, u8, 4096);
BPF_LPM_TRIE(excluded_hosts, struct host_key, u8, 4096);
BPF_CGROUP_ARRAY(wanted_cgroups, MAX_CGROUPS);
BPF_CGROUP_ARRAY(excluded_cgroups, MAX_CGROUPS);

/* Tail calls, by events.h's indices: copying programs, one for each program type, and what else is to be done. */
BPF_PROG_ARRAY(emit_from_tracepoint, 3);
BPF_PROG_ARRAY(emit_from_raw_tracepoint, 1);
BPF_PROG_ARRAY(emit_from_uprobe, 2);
BPF_PROG_ARRAY(emit_from_place, 1);
/* What goes on at the return of a call whose entry it was attached at: [0] of TLS libraries, [1] of NSS,
 * [2] of rustls. */
BPF_PROG_ARRAY(call_returns, 3);

#define BPF_PSEUDO_MAP_VALUE 2
#define VALUE_OF(map) ((void *)bpf_pseudo_fd(BPF_PSEUDO_MAP_VALUE, VALUE_OF_##map))

INLINE void count(int counter, u64 n)
{
	u64 *slot = counters.lookup(&counter);
	if (slot)
		__sync_fetch_and_add(slot, n);
}

INLINE u64 new_id(void)
{
	int zero = 0;
	u64 *last = ids.lookup(&zero);
	return last ? __sync_fetch_and_add(last, 1) + 1 : 0;
}
