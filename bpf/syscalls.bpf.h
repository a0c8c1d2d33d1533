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
#define MSG_TRUNC 0x20
#define MSG_ERRQUEUE 0x2000	/* copies of what was sent, with its time stamps */
/* Ours: the bytes go from a file to the socket, past the program. */
#define NOT_IN_USER_SPACE 0x80000000

INLINE void io_enter(u32 fd, u64 buffer, u32 blocks, u8 direction, u32 flags)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id, tgid = id >> 32;
	struct sock_reference s = {};
	struct connection *c;
	u64 file;

	if (!wanted(id))
		return;
	file = file_of(fd);
	c = held_connection(tgid, fd, file, &s.sk);
	if (!c) {
		if (!tcp_socket_of(file, &s))
			return;
		c = connection_of(&s, tgid, fd);
		if (!c)
			return;
		hold(tgid, fd, file, s.sk, c->id);
	}
	struct syscall call = {
		.sk = s.sk, .id = c->id, .entered = bpf_ktime_get_ns(), .buffer = buffer, .blocks = blocks,
		.direction = direction, .flags = flags,
	};
	if (syscalls.update(&tid, &call))
		count(COUNTER_TABLE_FULL, 1);
}

/* Blocks that are looked into for a call's first bytes: some programs put short or empty ones before the rest. */
#define MAX_FIRST_BLOCKS 4

/* The first bytes that a call moved, at most PREFIX_BYTES of them; `to` has twice the room, for the verifier. */
INLINE u32 first_bytes(struct syscall *call, u64 moved, u8 *to)
{
	u32 want = moved < PREFIX_BYTES ? moved : PREFIX_BYTES, have = 0, i;

	if (!call->blocks)
		return bpf_probe_read_user(to, want, (void *)call->buffer) ? 0 : want;
	#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_FIRST_BLOCKS; i++) {
		u64 block[2] = {}, n = want - have, at;
		if (i >= call->blocks || have >= want)
			break;
		if (bpf_probe_read_user(block, sizeof(block), (void *)(call->buffer + 16 * i)))
			break;
		if (n > block[1])
			n = block[1];
		asm volatile("" : "+r"(n));
		if (n > PREFIX_BYTES)
			n = PREFIX_BYTES;
		/* The verifier knows pointers plus numbers; the compiler would make it an or. */
		at = have & (PREFIX_BYTES - 1);
		asm volatile("" : "+r"(at));
		if (bpf_probe_read_user(to + at, n, (void *)block[0]))
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
		return c->hello_left[d] ? FATE_HELLO : COUNTER_SUPPRESSED;
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

/* 1: the job is set up and waits for the copying program. */
INLINE int io_exit(long result)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id;
	struct syscall *call = syscalls.lookup(&tid);
	u8 bytes[2 * PREFIX_BYTES] = {};
	struct connection *c;
	u64 n, position;
	u32 d, begun;

	if (!call)
		return 0;
	if (!recording())
		goto out;
	u64 sk = call->sk;
	c = connections.lookup(&sk);
	if (result <= 0 || (call->flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE)) || !c || c->id != call->id)
		goto out;
	n = result;
	d = call->direction & 1;
	if (!c->addressed) {
		read_addresses(c, sk);
		decide_wanted(c);
		c->addressed = 1;
	}
	if (c->protocol != PROTOCOL_TLS)
		infer(c, d, bytes, first_bytes(call, n, bytes));
	note_nested(tid, call, c);
	count(COUNTER_REPORTED_SENT + d, n);

	struct job job = {
		.connection = c->id, .tgid = id >> 32, .tid = tid,
		.kind = SAMPLE_DATA, .direction = d, .protocol = c->protocol,
		.time = d == DIRECTION_SENT ? call->entered : bpf_ktime_get_ns(),
	};
	int fate = fate_of(c, d, call->flags);
	int announced = fate <= FATE_COPY && announce(c, job.tgid, tid);
	job.position = __sync_fetch_and_add(&c->position[d], n);
	if (c->protocol == PROTOCOL_TLS && d == DIRECTION_SENT && !c->session)
		match_record(call, c, sk, n, id);
	if (fate != FATE_COPY) {
		count(fate == FATE_HELLO ? COUNTER_SUPPRESSED : fate, n);
		if (fate == COUNTER_LOST_NOT_IN_USER_SPACE && announce(c, job.tgid, tid))
			put_gap(&job, n, REASON_NOT_IN_USER_SPACE);
		if (fate != FATE_HELLO || !announced)
			goto out;
		if (n > c->hello_left[d])
			n = c->hello_left[d];
		c->hello_left[d] -= n;
		job.kind = SAMPLE_HELLO;
	} else if (!announced) {
		count(COUNTER_LOST_RING_FULL, n);
		goto out;
	}
	job.left = n;
	if (call->blocks) {
		job.vector = call->buffer;
		job.blocks = call->blocks;
	} else {
		job.base = call->buffer;
		job.length = n;
	}
	syscalls.delete(&tid);
	if (!jobs.update(&tid, &job))
		return 1;
	count(COUNTER_TABLE_FULL, 1);
	if (job.kind == SAMPLE_DATA)
		count(COUNTER_LOST_TABLE_FULL, n);
	return 0;
out:
	syscalls.delete(&tid);
	return 0;
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

	if (!wanted(bpf_get_current_pid_tgid()))
		return;
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

	/* Read before they are chosen between: the verifier wants no computed offset into the context. */
	asm volatile("" : "+r"(second), "+r"(third));
	switch (ctx->number) {
	case NR_recvmsg:
		message_enter(fd, second, DIRECTION_RECEIVED, third);
		return 0;
	case NR_sendmsg:
		message_enter(fd, second, DIRECTION_SENT, third);
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
	}
	io_enter(fd, second, blocks, direction, flags);
	return 0;
}

/* The same for calls with flags as their fourth argument: the kernel refuses a program that could read more
 * arguments than its tracepoint has. */
int enter_io_flags(struct enter_arguments *ctx)
{
	u8 direction = ctx->number == NR_recvfrom ? DIRECTION_RECEIVED : DIRECTION_SENT;

	io_enter(ctx->args[0], ctx->args[1], 0, direction, ctx->args[3]);
	return 0;
}

int enter_connect(struct enter_arguments *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct sock_reference s = {};
	struct connection *c;

	if (!wanted(id) || !tcp_socket_of(file_of(ctx->args[0]), &s))
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

	if (ctx->result < 0 || !wanted(id) || !tcp_socket_of(file_of(ctx->result), &s))
		return 0;
	c = connection_of(&s, id >> 32, ctx->result);
	if (!c || c->opened)
		return 0;
	c->opened = c->established = bpf_ktime_get_ns();
	c->role = ROLE_SERVER;
	return 0;
}

/* The FIN of plain TCP is seen in its states; MPTCP's are those of its subflows. */
int enter_shutdown(struct enter_arguments *ctx)
{
	struct sock_reference s = {};
	struct connection *c;

	if (!wanted(bpf_get_current_pid_tgid()) || !ctx->args[1] || !tcp_socket_of(file_of(ctx->args[0]), &s))
		return 0;
	c = connections.lookup(&s.sk);
	if (c && c->inode == s.inode && !c->local_fin)
		c->local_fin = bpf_ktime_get_ns();
	return 0;
}

int enter_close(struct enter_arguments *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct descriptor_key key = {.tgid = id >> 32, .fd = ctx->args[0]};
	if (descriptors.lookup(&key))
		descriptors.delete(&key);
	return 0;
}
