/* SPDX-License-Identifier: GPL-2.0-or-later
 * Raw tracepoints that are rare enough to have no filter of their own: TCP's states, the end of sockets,
 * fork and exec. Their arguments are the tracepoint's prototype.
 */
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_FIN_WAIT1 4
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LAST_ACK 9
#define TCP_CLOSING 11
#define EPIPE 32
#define ECONNRESET 104

INLINE void closed(struct connection *c, u64 sk, int old, u64 now)
{
	u64 flags = 0;
	int error = 0;

	READ_KERNEL(flags, sk + OFFSET_sock_common_skc_flags);
	READ_KERNEL(error, sk + OFFSET_sock_sk_err);
	if ((flags & SOCK_DONE) && !c->peer_fin && !c->abandoned)
		c->peer_fin = now;
	if (error == ECONNRESET || error == EPIPE)
		c->peer_reset = now;
	else if (!error && (old == TCP_ESTABLISHED || old == TCP_CLOSE_WAIT))
		c->local_reset = now;
}

/* The first FIN is ours, by close() and not shutdown(): a peer that then ends as well has been left, and what it sent may
 * not be all. Of a library that does not tell of close_notify, the peer's end may have been what was waited for. */
INLINE void note_abandoned(struct connection *c, u64 sk)
{
	u8 shut = 0;

	READ_KERNEL(shut, sk + OFFSET_sock_sk_shutdown);
	c->abandoned = (shut & RCV_SHUTDOWN) && !c->peer_fin && !c->notified &&
		(c->protocol != PROTOCOL_TLS || c->notifies);
}

/* A connect() that has no tracepoint here (32-bit, io_uring). TCP sends its SYN on the caller's thread. */
INLINE struct connection *connecting(u64 sk, u32 fd)
{
	u64 id = bpf_get_current_pid_tgid();
	struct sock_reference s = {};

	/* What Multipath TCP connects is not the program's. */
	if (!wanted(id) || !tcp_sock_of(sk, &s) || has_upper_layer(sk))
		return NULL;
	s.inode = inode_of(sk);
	return s.inode ? connection_of(&s, id >> 32, fd) : NULL;
}

/* The entry of a socket that TCP has. Where one has ended and waits to be told, the address may be another's by now. */
INLINE struct connection *open_connection(u64 sk)
{
	struct connection *c = connections.lookup(&sk);

	return c && !c->ended ? c : NULL;
}

#define PF_EXITING 4
/* Whether it is the process of the connection's session that runs, and is not ending. */
INLINE int closes_and_goes_on(struct connection *c)
{
	u32 flags = 0;

	if (c->ssl_tgid != bpf_get_current_pid_tgid() >> 32)
		return 0;
	READ_KERNEL(flags, bpf_get_current_task() + OFFSET_task_struct_flags);
	return !(flags & PF_EXITING);
}

/* Whether a process that closes a socket may go on to decrypt what that has received: Node does, where a response is given
 * up. Its session then ends when it is freed, which must be known. If TCP was not done with it then, it is whoever runs
 * when the peer's FIN comes that is told. */
INLINE int reads_on(struct session *s, struct connection *c)
{
	if (!s->in_memory || s->unfreed || !(c->announced || c->unwanted))
		return 0;
	return c->closed || closes_and_goes_on(c);
}

/* An end found no room. It waits under the connection's id, which is no address: that is soon another socket's, whose end
 * may find none either. 0: there is no room for that. */
INLINE int wait_elsewhere(struct connection *c, u64 sk)
{
	u64 id = c->id;

	if (sk == id || connections.update(&id, c))
		return 0;
	c = connections.lookup(&id);
	if (c)
		end_later(c, id);
	return 1;
}

/* No more bytes will come. */
INLINE void forget_connection(struct connection *c, u64 sk)
{
	if (c->ssl) {
		struct session_key key = {.ssl = c->ssl, .tgid = c->ssl_tgid};
		struct session *s = sessions.lookup(&key);
		if (s && s->connection == c->id && s->writing && c->announced) {
			/* The peer has it and has closed, and the call has not returned yet: its bytes come before the end. */
			end_later(c, sk);
			return;
		}
		if (s && s->connection == c->id && reads_on(s, c)) {
			s->gone = 1 + c->unwanted;
			s->sk = 0;
		} else if (s && s->connection == c->id) {
			put_session_event(SAMPLE_SESSION_END, s, 0, (u64)c->ssl_tgid << 32);
			sessions.delete(&key);
		}
	}
	if (c->announced && !put_end(c) && !wait_elsewhere(c, sk)) {
		end_later(c, sk);
		return;
	}
	connections.delete(&sk);
}

/* A socket that connects once more: connect() to AF_UNSPEC has ended what it was before, or it was refused. A call that
 * connects and sends (MSG_FASTOPEN) goes on as the new one's. */
INLINE struct connection *connecting_again(struct connection *c, u64 sk)
{
	u32 fd = c->fd, tid = bpf_get_current_pid_tgid();
	struct syscall *call = syscalls.lookup(&tid);

	forget_connection(c, sk);
	c = connecting(sk, fd);
	if (c && call && call->sk == sk) {
		call->id = c->id;
		call_begins(call, c);
	}
	return c;
}

/* What has no SYN that was acknowledged is a connection that another kernel began (TCP_REPAIR, CRIU). */
INLINE int is_restored(u64 sk)
{
	u64 acknowledged = 0;

	READ_KERNEL(acknowledged, sk + OFFSET_tcp_sock_bytes_acked);
	return !acknowledged;
}

/* (sk, old state, new state) */
int on_inet_sock_set_state(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0], now = bpf_ktime_get_ns();
	int old = ctx->args[1], new = ctx->args[2];
	struct connection *c = open_connection(sk);

	if (!c && new == TCP_SYN_SENT)
		c = connecting(sk, NO_FD);
	else if (c && new == TCP_SYN_SENT && (c->established || c->position[0]) && recording())
		c = connecting_again(c, sk);
	/* Nobody's yet: not known whose it will be. */
	if (!c && old == TCP_SYN_RECV && new == TCP_ESTABLISHED && recording())
		passive_opens.update(&sk, &now);
	if (!c)
		return 0;
	if (new == TCP_SYN_SENT && !c->opened) {
		c->opened = now;
		c->role = ROLE_CLIENT;
	}
	/* From SYN_RECV if both ends asked at once. */
	if (new == TCP_ESTABLISHED && (old == TCP_SYN_SENT || !c->established)) {
		c->established = now;
		note_copied(c, sk);
		if (old == TCP_SYN_SENT)
			c->restored = is_restored(sk);
	} else if (new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK) {
		c->local_fin = now;
		c->closed = closes_and_goes_on(c);
		note_abandoned(c, sk);
	} else if (new == TCP_CLOSE_WAIT || (new == TCP_CLOSING && !c->abandoned))
		c->peer_fin = now;
	else if (new == TCP_CLOSE)
		closed(c, sk, old, now);
	return 0;
}

/* (sk). Both the program and TCP have let go of it. */
int on_tcp_destroy_sock(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0];
	struct connection *c = open_connection(sk);

	passive_opens.delete(&sk);
	if (!c || !recording())
		return 0;
	check_totals(c, sk);
	forget_connection(c, sk);
	return 0;
}

/* A socket that has no file any more: 1 if TCP is not done with it. Its memory may be another's by now. */
INLINE int lingers(struct connection *c, u64 sk)
{
	u16 remote = 0;
	u8 state = 0;

	READ_KERNEL(state, sk + OFFSET_sock_common_skc_state);
	READ_KERNEL(remote, sk + OFFSET_sock_common_skc_dport);
	if (c->addressed && (local_port(sk) != c->local_port || bpf_ntohs(remote) != c->remote_port))
		return 0;
	return state && state != TCP_CLOSE;
}

/* Run by user space for connections whose end may not have been told: (sk). A file that lets go of a socket leaves it
 * without an inode. */
int check_end(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0];
	struct connection *c = connections.lookup(&sk);
	u32 inode = inode_of(sk);

	if (c && (inode ? c->inode == inode : !c->untold && lingers(c, sk)))
		return 0;
	/* TCP may be just about to tell it, on another processor: it is asked of once more. */
	if (c && !c->untold && !c->missed) {
		c->missed = 1;
		return 0;
	}
	if (c && recording()) {
		ended_unseen(c);
		forget_connection(c, sk);
	}
	untold_ends.delete(&sk);
	return 0;
}

/* Run by user space when it has told an end: (sk, connection id). The address may be another socket's by now. */
int drop_ended(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0], id = ctx->args[1];
	struct connection *c = connections.lookup(&sk);
	u64 *late = late_ends.lookup(&sk);

	if (c && c->ended && c->id == id)
		connections.delete(&sk);
	if (late && *late == id)
		late_ends.delete(&sk);
	return 0;
}

/* (parent, child) */
int on_sched_process_fork(struct bpf_raw_tracepoint_args *ctx)
{
	u64 child = ctx->args[1];
	u32 parent = bpf_get_current_pid_tgid() >> 32, pid = 0, tgid = 0;
	int zero = 0;
	u8 choice, *chosen;
	struct settings *s = settings.lookup(&zero);

	forget_unwanted(child);
	if (!s || !(s->flags & FOLLOW_CHILDREN))
		return 0;
	chosen = chosen_pids.lookup(&parent);
	if (!chosen)
		return 0;
	choice = *chosen;
	READ_KERNEL(pid, child + OFFSET_task_struct_pid);
	READ_KERNEL(tgid, child + OFFSET_task_struct_tgid);
	if (pid == tgid && chosen_pids.update(&tgid, &choice))
		count(COUNTER_TABLE_FULL, 1);
	return 0;
}

struct exec_record {
	struct sample head;
	u8 file[EXEC_TEXT_BYTES / 2];
	u8 arguments[EXEC_TEXT_BYTES / 2];
};

/* (task, old pid, linux_binprm). A process may be gone before user space can look at /proc. */
int on_sched_process_exec(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = bpf_get_current_pid_tgid(), mm = 0, start = 0, end = 0, name = 0, file = 0;
	struct exec_record *r;
	u32 n;

	if (!wanted(id))
		return 0;
	READ_KERNEL(file, ctx->args[2] + OFFSET_linux_binprm_file);
	READ_KERNEL(name, ctx->args[2] + OFFSET_linux_binprm_interp);
	new_code(id, file, name);
	r = ring.ringbuf_reserve(sizeof(*r));
	if (!r) {
		count(COUNTER_EVENTS_RING_FULL, 1);
		return 0;
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->head.kind = SAMPLE_EXEC;
	r->head.time = bpf_ktime_get_ns();
	r->head.tgid = id >> 32;
	r->head.tid = id;
	READ_KERNEL(name, ctx->args[2] + OFFSET_linux_binprm_filename);
	bpf_probe_read_kernel_str(r->file, sizeof(r->file), (void *)name);
	READ_KERNEL(mm, bpf_get_current_task() + OFFSET_task_struct_mm);
	READ_KERNEL(start, mm + OFFSET_mm_struct_arg_start);
	READ_KERNEL(end, mm + OFFSET_mm_struct_arg_end);
	n = end - start < sizeof(r->arguments) ? end - start : sizeof(r->arguments);
	asm volatile("" : "+r"(n));
	if (n > sizeof(r->arguments))
		n = sizeof(r->arguments);
	if (!bpf_probe_read_user(r->arguments, n, (void *)start))
		r->head.captured = n;
	submit(r);
	return 0;
}

/* (task, name): a process, by exec() or by itself, or a thread of it. */
int on_task_rename(struct bpf_raw_tracepoint_args *ctx)
{
	struct decisions *now = VALUE_OF(decisions);

	if (!has_setting(CHECK_COMMS))
		return 0;
	now->renamed = bpf_ktime_get_ns();
	__sync_fetch_and_add(&now->epoch, 1);
	return 0;
}
