/* SPDX-License-Identifier: GPL-2.0-or-later
 * Tracepoints of system calls. Entry resolves the descriptor, so that a close() by another thread cannot
 * confuse the exit; exit knows how many bytes moved and finds their pages resident.
 */
/* The number is an int: what follows it is whatever the stack held. */
struct enter_arguments {
	u64 common;
	u32 number;
	u32 pad;
	u64 args[6];
};
struct exit_arguments {
	u64 common;
	u32 number;
	u32 pad;
	long result;
};

#define MSG_OOB 0x1
#define MSG_PEEK 0x2
#define MSG_TRUNC 0x20	/* the program's flags that matter are PROGRAM_FLAGS, ours above */
#define MSG_ZEROCOPY 0x4000000
#define PROGRAM_FLAGS (0xffff | MSG_ZEROCOPY)
#define MSG_ERRQUEUE 0x2000	/* copies of what was sent, with its time stamps */
/* Ours: a splice; `buffer` is the descriptor of the pipe that it fills. */
#define INTO_PIPE 0x20000000

#ifndef COUNTS_BELOW
#define COUNTS_BELOW 0
#endif

/* What is received with MSG_OOB is not part of the stream; what is sent with it is. */
INLINE int is_urgent(struct syscall *call)
{
	return (call->flags & MSG_OOB) && call->direction == DIRECTION_RECEIVED;
}

INLINE void io_enter(u32 fd, u64 buffer, u32 blocks, u8 direction, u32 flags)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id, tgid = id >> 32;
	struct sock_reference s = {};
	struct connection *c;
	u64 file = file_of(fd);

	c = held_connection(tgid, fd, file, &s.sk);
	if (!c) {
		if (!socket_of(file, &s))
			return;
		c = connection_of(&s, tgid, fd);
		if (!c)
			return;
		hold(tgid, fd, file, s.sk, c->id);
	}
	struct syscall call = {
		.sk = s.sk, .id = c->id, .entered = bpf_ktime_get_ns(), .buffer = buffer, .blocks = blocks,
		.direction = direction, .flags = is_unix(c->family) ? flags & ~MSG_TRUNC : flags, .unsequenced = c->untold,
	};
	begins(&call, c);
	if (flags & INTO_PIPE)
		into_pipe(&call, file_of(buffer));
	if (syscalls.update(&tid, &call)) {
		count(COUNTER_TABLE_FULL, 1);
		comes_to_nothing(&call, tid);
	}
}

/* The first bytes that a call moved, up to HEAD_BYTES, from its first blocks: writev() may send a request's
 * method, target and version as a block each, and empty ones between. */
#define HEAD_BYTES 24
#define HEAD_BLOCKS 4
#define HEAD_ROOM 64	/* so that the verifier, which cannot relate an offset to a length, sees it suffice */

INLINE u32 first_bytes(struct syscall *call, u64 moved, u8 *to)
{
	volatile struct syscall *v = call;
	u64 want = moved < HEAD_BYTES ? moved : HEAD_BYTES, have = 0, n, i;
	u64 block[2] = {v->buffer, moved};

	if (call->flags & (NOT_IN_USER_SPACE | MSG_TRUNC))
		return 0;
	#pragma clang loop unroll(disable)
	for (i = 0; i < HEAD_BLOCKS && have < want; i++) {
		if (v->blocks) {
			if (i >= v->blocks || read_block(v->memory, v->buffer, i, block))
				break;
			if (!i) {
				block[0] += v->skip;
				block[1] -= v->skip;
			}
		}
		n = block[1] < want - have ? block[1] : want - have;
		asm volatile("" : "+r"(n), "+r"(have));
		n &= HEAD_ROOM / 2 - 1;
		have &= HEAD_ROOM / 2 - 1;
		if (read_bytes(v->memory, to + have, n, block[0]))
			break;
		have += n;
	}
	return have;
}

/* What becomes of a call's bytes: copied, copied as handshake, or only counted, under the counter it names. */
#define FATE_HELLO -2
#define FATE_COPY -1

INLINE int fate_of(struct connection *c, u32 d, u32 flags)
{
	u64 id = c->id;

	if (c->unwanted)
		return COUNTER_FILTERED;
	if (c->protocol == PROTOCOL_TLS)
		return c->hello_left[d] && !(flags & NOT_IN_USER_SPACE) && !has_setting(DROP_TLS) ? FATE_HELLO :
			COUNTER_SUPPRESSED;
	if (mirrored.lookup(&id))
		return COUNTER_MIRRORED;
	if (c->protocol == PROTOCOL_HTTP && has_setting(DROP_HTTP))
		return COUNTER_FILTERED;
	if (!has_setting(KEEP_ALL_PROTOCOLS)) {
		if (c->protocol == PROTOCOL_OTHER)
			return COUNTER_FILTERED;
		if (c->protocol == PROTOCOL_UNDECIDED && !c->prefix_length[d])
			return COUNTER_UNDECIDED;
	}
	/* With MSG_TRUNC, TCP discards what it would have copied. */
	if (flags & (NOT_IN_USER_SPACE | MSG_TRUNC))
		return COUNTER_LOST_NOT_IN_USER_SPACE;
	return FATE_COPY;
}

/* n bytes moved; 1: the job is set up and waits for the copying program. The call's entry is not deleted. */
INLINE int moved(struct syscall *call, struct connection *c, u64 n, u64 id)
{
	u8 head[HEAD_ROOM] = {};
	u32 d = call->direction & 1, tid = id, have = 0;
	u64 sk = call->sk;

	know_ends(c, sk);
	if (c->protocol != PROTOCOL_TLS || !c->session)
		have = first_bytes(call, n, head);
	if (c->protocol != PROTOCOL_TLS)
		infer(c, d, head, have);
	note_nested(tid, call, c, head, have);

	struct job job = {
		.connection = c->id, .tgid = id >> 32, .tid = tid,
		.kind = SAMPLE_DATA, .direction = d, .protocol = c->protocol,
		.time = d == DIRECTION_SENT ? call->entered : bpf_ktime_get_ns(),
		.memory = call->memory, .split = ~0ULL, .overlapped = call->sequenced && overlaps(call, c),
		.queue = call->queue, .skb = call->skb,
		.by_reference = d == DIRECTION_SENT && (call->memory == MEMORY_PAGES || (call->flags & MSG_ZEROCOPY)),
	};
	int fate = fate_of(c, d, call->flags);
	int announced = fate <= FATE_COPY && announce(c, job.tgid, tid);
	job.position = place(call, c, n);
	if (c->protocol == PROTOCOL_TLS && !c->session && have >= RECORD_KEY_END) {
		if (d == DIRECTION_SENT)
			match_record(head, c, sk, id);
		else
			note_arrival(head, c, sk, tid);
	}
	if (fate != FATE_COPY) {
		count(fate == FATE_HELLO ? COUNTER_SUPPRESSED : fate, n);
		if (fate == COUNTER_UNDECIDED && c->announced)
			note_hole(&job, job.position, n, REASON_UNDECIDED);
		if (fate == COUNTER_LOST_NOT_IN_USER_SPACE && announce(c, job.tgid, tid))
			put_gap(&job, n, REASON_NOT_IN_USER_SPACE);
		if (fate != FATE_HELLO || !announced)
			return 0;
		if (n > c->hello_left[d])
			n = c->hello_left[d];
		c->hello_left[d] -= n;
		job.kind = SAMPLE_HELLO;
	} else if (!announced) {
		count(COUNTER_LOST_RING_FULL, n);
		return 0;
	}
	job.left = job.total = n;
	if (call->splits && overlaps(call, c)) {
		job.split_up = 1;
		next_split(&job, tid);
	}
	if (call->blocks) {
		job.vector = call->buffer;
		job.blocks = call->blocks;
		job.skip = call->skip;
	} else {
		job.base = call->buffer;
		job.length = n;
	}
	if (!jobs.update(&tid, &job))
		return 1;
	count(COUNTER_TABLE_FULL, 1);
	if (job.kind == SAMPLE_DATA) {
		count(COUNTER_LOST_TABLE_FULL, n);
		note_hole(&job, job.position, n, REASON_TABLE_FULL);
	}
	return 0;
}

INLINE int io_exit(long result)
{
	u64 id = bpf_get_current_pid_tgid(), sk;
	u32 tid = id;
	struct syscall *call;
	struct connection *c;
	int ready = 0;

	if (unwanted_call_ends(id))
		return 0;
	call = syscalls.lookup(&tid);
	/* After the end the entry stays: user space takes back what was counted of it. */
	if (!call || call->below || !recording())
		return 0;
	sk = call->sk;
	c = connections.lookup(&sk);
	if (c && c->id == call->id)
		ended(call, c);
	if (result > 0 && is_urgent(call) && !(call->flags & MSG_PEEK) && c && c->id == call->id)
		c->urgent += result;
	if (result > 0 && !(call->flags & (MSG_PEEK | MSG_ERRQUEUE)) && !is_urgent(call) && c && c->id == call->id) {
		if (call->memory == MEMORY_PIPE)
			from_pipe(call, tid);
		/* Where the socket layer does not count, or not this. */
		if (!COUNTS_BELOW || call->memory)
			count(COUNTER_REPORTED_SENT + (call->direction & 1), result);
		if (call->direction == DIRECTION_RECEIVED)
			note_copied(c, sk);
		ready = moved(call, c, result, id);
	} else if (!c || c->id != call->id) {
		/* The connection's entry has gone, or is another's: what the socket layer counted is nobody's. */
		count(COUNTER_LOST_TABLE_FULL, call->reported);
	}
	if (!result && call->direction == DIRECTION_RECEIVED && c && c->id == call->id && c->untold)
		note_end(c, sk);
	if (!ready)
		drop_notes(call, tid);
	syscalls.delete(&tid);
	return ready;
}

/* At the exit of every call that moves bytes. */
int exit_io(struct exit_arguments *ctx)
{
	return finish_tracepoint(ctx, io_exit(ctx->result));
}

/* (fd, struct user_msghdr *, flags): the iovec array at 16, its count at 24. */
INLINE void message_enter(u32 fd, u64 message, u8 direction, u32 flags)
{
	u64 vector[2] = {};

	if (!bpf_probe_read_user(vector, sizeof(vector), (void *)(message + 16)) && vector[1])
		io_enter(fd, vector[0], vector[1], direction, flags);
}

/* At the entry of every call that moves bytes: one program, for each costs 0.1 s to compile. NR_* are the
 * architecture's, from probes.py. */
int enter_io(struct enter_arguments *ctx)
{
	u64 fd = ctx->args[0], second = ctx->args[1], third = ctx->args[2];
	u32 blocks = 0, flags = 0;
	u8 direction = DIRECTION_SENT;

	if (!wanted_at_entry(bpf_get_current_pid_tgid()))
		return 0;
	/* Read before they are chosen between: the verifier wants no computed offset into the context. */
	asm volatile("" : "+r"(second), "+r"(third));
	switch (ctx->number) {
	case NR_recvmsg:
		message_enter(fd, second, DIRECTION_RECEIVED, third & PROGRAM_FLAGS);
		return 0;
	case NR_sendmsg:
		message_enter(fd, second, DIRECTION_SENT, third & PROGRAM_FLAGS);
		return 0;
	case NR_read:
		direction = DIRECTION_RECEIVED;
		break;
	case NR_readv:
		direction = DIRECTION_RECEIVED;
		blocks = third;
		break;
	case NR_writev:
		blocks = third;
		break;
	case NR_sendfile64:
		/* (out, in, …): the bytes never are in user space; their number is known at exit. */
		flags = NOT_IN_USER_SPACE;
		break;
	case NR_splice:
		/* (in, …, out, …): into a pipe if `in` is a socket; into a socket, TCP shows it (below.bpf.h). */
		direction = DIRECTION_RECEIVED;
		second = third;
		flags = INTO_PIPE;
		break;
	}
	io_enter(fd, second, blocks, direction, flags);
	return 0;
}

/* The same for calls with flags as their fourth argument: the kernel refuses a program that could read more
 * arguments than its tracepoint has. */
int enter_io_flags(struct enter_arguments *ctx)
{
	u8 direction = ctx->number == NR_recvfrom ? DIRECTION_RECEIVED : DIRECTION_SENT;

	if (!wanted_at_entry(bpf_get_current_pid_tgid()))
		return 0;
	io_enter(ctx->args[0], ctx->args[1], 0, direction, ctx->args[3] & PROGRAM_FLAGS);
	return 0;
}

int enter_connect(struct enter_arguments *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct sock_reference s = {};
	struct connection *c;

	if (!wanted(id) || !socket_of(file_of(ctx->args[0]), &s))
		return 0;
	c = connection_of(&s, id >> 32, ctx->args[0]);
	/* A second connect() asks how a non-blocking one went. */
	if (c && !c->opened) {
		c->opened = bpf_ktime_get_ns();
		c->role = ROLE_CLIENT;
	}
	return 0;
}


/* accept's address argument may be NULL: the socket knows better. */
int exit_accept(struct exit_arguments *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct sock_reference s = {};
	struct connection *c;

	if (ctx->result < 0 || !wanted(id) || !socket_of(file_of(ctx->result), &s))
		return 0;
	c = connection_of(&s, id >> 32, ctx->result);
	if (!c || c->opened)
		return 0;
	c->opened = c->established = bpf_ktime_get_ns();
	c->role = ROLE_SERVER;
	note_copied(c, s.sk);
	return 0;
}

/* The FIN of plain TCP is seen in its states, and there may be none: after a RST, shutdown() does nothing. */
int enter_shutdown(struct enter_arguments *ctx)
{
	struct sock_reference s = {};
	struct connection *c;

	if (!wanted(bpf_get_current_pid_tgid()) || !ctx->args[1] || !socket_of(file_of(ctx->args[0]), &s))
		return 0;
	c = connections.lookup(&s.sk);
	if (c && c->inode == s.inode && c->untold && !c->shut) {
		c->local_fin = bpf_ktime_get_ns();
		c->shut = 1;
	}
	return 0;
}

int enter_close(struct enter_arguments *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct descriptor_key key = {.tgid = id >> 32, .fd = ctx->args[0]};
	struct descriptor *known = descriptors.lookup(&key);
	struct connection *c;
	u64 sk;

	if (!known)
		return 0;
	/* Its end, if this is the last that it is called. */
	sk = known->sk;
	c = connections.lookup(&sk);
	if (c && c->id == known->id && c->untold && !c->shut)
		c->local_fin = bpf_ktime_get_ns();
	descriptors.delete(&key);
	return 0;
}
