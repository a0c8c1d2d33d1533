/* SPDX-License-Identifier: GPL-2.0-or-later
 * Tracepoints of system calls. Entry resolves the descriptor, so that a close() by another thread cannot
 * confuse the exit; exit knows how many bytes moved and finds their pages resident.
 */
struct enter_arguments {
	u64 common;
	u64 number;
	u64 args[6];
};
struct exit_arguments {
	u64 common;
	u64 number;
	long result;
};

#define MSG_OOB 0x1
#define MSG_PEEK 0x2
#define MSG_TRUNC 0x20
/* Ours: the bytes go from a file to the socket, past the program. */
#define NOT_IN_USER_SPACE 0x80000000

INLINE void io_enter(u32 fd, u64 buffer, u32 blocks, u8 direction, u32 flags)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id, tgid = id >> 32;
	struct sock_reference s = {};
	struct connection *c;

	if (!wanted(id) || !tcp_socket_of(file_of(fd), &s))
		return;
	c = connection_of(&s, tgid, fd);
	if (!c)
		return;
	hold(tgid, fd, s.sk, c->id);
	struct syscall call = {
		.sk = s.sk, .id = c->id, .entered = bpf_ktime_get_ns(), .buffer = buffer, .blocks = blocks,
		.direction = direction, .flags = flags,
	};
	if (syscalls.update(&tid, &call))
		count(COUNTER_TABLE_FULL, 1);
}

/* The first bytes that a call moved, n of them at most PREFIX_BYTES. */
INLINE u32 first_bytes(struct syscall *call, u64 moved, u8 *to)
{
	u32 want = moved < PREFIX_BYTES ? moved : PREFIX_BYTES;
	u64 from = call->buffer;

	if (call->blocks) {
		u64 block[2] = {};
		if (bpf_probe_read_user(block, sizeof(block), (void *)from))
			return 0;
		from = block[0];
		if (block[1] < want)
			want = block[1];
	}
	asm volatile("" : "+r"(want));
	if (want > PREFIX_BYTES)
		want = PREFIX_BYTES;
	return bpf_probe_read_user(to, want, (void *)from) ? 0 : want;
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
	if (!keep_all()) {
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
	u8 bytes[PREFIX_BYTES] = {};
	struct connection *c;
	u64 n, position;
	u32 d, begun;

	if (!call)
		return 0;
	if (!recording())
		goto out;
	u64 sk = call->sk;
	c = connections.lookup(&sk);
	if (result <= 0 || (call->flags & (MSG_PEEK | MSG_OOB)) || !c || c->id != call->id)
		goto out;
	n = result;
	d = call->direction & 1;
	if (!c->addressed) {
		read_addresses(c, sk);
		decide_ports(c);
		c->addressed = 1;
	}
	if (c->protocol != PROTOCOL_TLS)
		infer(c, d, bytes, first_bytes(call, n, bytes));
	note_nested(tid, call, c);
	if (c->protocol == PROTOCOL_TLS && d == DIRECTION_SENT && !c->session)
		match_record(call, c, sk, n, id);
	count(COUNTER_REPORTED_SENT + d, n);

	struct job job = {
		.connection = c->id, .tgid = id >> 32, .tid = tid,
		.kind = SAMPLE_DATA, .direction = d, .protocol = c->protocol,
		.time = d == DIRECTION_SENT ? call->entered : bpf_ktime_get_ns(),
	};
	int fate = fate_of(c, d, call->flags);
	int announced = fate <= FATE_COPY && announce(c, job.tgid, tid);
	job.position = __sync_fetch_and_add(&c->position[d], n);
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

#define IO_BUFFER(name, direction, flags)					\
int enter_##name(struct enter_arguments *ctx)					\
{										\
	io_enter(ctx->args[0], ctx->args[1], 0, direction, flags);		\
	return 0;								\
}

/* (fd, iovec array, count). */
#define IO_VECTOR(name, direction)						\
int enter_##name(struct enter_arguments *ctx)					\
{										\
	io_enter(ctx->args[0], ctx->args[1], ctx->args[2], direction, 0);	\
	return 0;								\
}

/* (fd, struct user_msghdr *, flags): the iovec array at 16, its count at 24. */
#define IO_MESSAGE(name, direction)						\
int enter_##name(struct enter_arguments *ctx)					\
{										\
	u64 vector[2] = {};							\
	if (!wanted(bpf_get_current_pid_tgid()))				\
		return 0;							\
	if (bpf_probe_read_user(vector, sizeof(vector), (void *)(ctx->args[1] + 16)) || !vector[1])	\
		return 0;							\
	io_enter(ctx->args[0], vector[0], vector[1], direction, ctx->args[2]);	\
	return 0;								\
}

IO_BUFFER(read, DIRECTION_RECEIVED, 0)
IO_BUFFER(write, DIRECTION_SENT, 0)
IO_BUFFER(recvfrom, DIRECTION_RECEIVED, ctx->args[3])
IO_BUFFER(sendto, DIRECTION_SENT, ctx->args[3])
IO_VECTOR(readv, DIRECTION_RECEIVED)
IO_VECTOR(writev, DIRECTION_SENT)
IO_MESSAGE(recvmsg, DIRECTION_RECEIVED)
IO_MESSAGE(sendmsg, DIRECTION_SENT)

/* sendfile(out, in, …): the bytes never are in user space; their number is known at exit. */
int enter_sendfile64(struct enter_arguments *ctx)
{
	io_enter(ctx->args[0], 0, 0, DIRECTION_SENT, NOT_IN_USER_SPACE);
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
