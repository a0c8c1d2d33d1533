/* SPDX-License-Identifier: GPL-2.0-or-later
 * What the socket layer moves, whoever asked for it, and how much: TCP bytes of calls that have no tracepoint of
 * their own here (sendfile, splice, io_uring, AIO, sendmmsg, preadv2, 32-bit programs), and the ledger's
 * independent count.
 *
 * Sending: tcp_sendmsg_locked shows the message before TCP takes from it, sock_send_length how much it took;
 * between the two the message's blocks are still there. Receiving: skb_copy_datagram_iovec shows the packet
 * before it is copied; tcp_rcv_space_adjust comes after, with the packet still queued, and by then copied_seq
 * tells whether the bytes were taken or only peeked at. All of it under the socket's lock, so in TCP's order.
 *
 * A transfer has its entry in `syscalls` like a system call, marked as `below`. A hooked call that covers the
 * bytes has made its own before, and then nothing is done here but counting.
 */
#ifdef BELOW
/* Ours: not known yet whether the process is wanted. */
#define UNCHECKED 0x40000000
/* enum iter_type, since Linux 6.6; tcp_sendmsg_locked is newer than that. */
#define ITER_UBUF 0
#define ITER_IOVEC 1
#define ITER_BVEC 2
#define ITER_KVEC 3
#define PF_KTHREAD 0x00200000

/* Where programs go on: [0] with what is ready, [1] where it is not known yet whether the process is wanted. Deciding
 * that in the former would cost the verifier half a second: it follows each way through the targets to the end. */
BPF_PROG_ARRAY(move_below, 2);

/* A kernel thread's connections (NFS) are no program's. */
INLINE int is_kernel_thread(void)
{
	u32 flags = 0;

	READ_KERNEL(flags, bpf_get_current_task() + OFFSET_task_struct_flags);
	return flags & PF_KTHREAD;
}

/* What io_enter does for system calls; here, nothing is known of the connection but its socket. */
INLINE void begin_below(struct syscall *call, u64 sk, u64 id)
{
	struct connection *c = connections.lookup(&sk);

	if (c) {
		call->id = c->id;
		begins(call, c);
	}
}

/* What is about to be sent. */
INLINE void sends(u64 id, u64 sk, u64 message)
{
	u64 iter = message + OFFSET_msghdr_msg_iter;
	u32 tid = id, flags = 0;
	struct syscall *known, call = {.sk = sk, .direction = DIRECTION_SENT, .below = 1};
	u64 skip = 0, blocks = 0, left = 0;
	u32 sequence = 0;
	u8 type = 0;

	known = syscalls.lookup(&tid);
	READ_KERNEL(left, iter + OFFSET_iov_iter_count);
	READ_KERNEL(sequence, sk + OFFSET_tcp_sock_write_seq);
	if (known && known->sk == sk && known->direction == DIRECTION_SENT) {
		if (!known->sequenced)
			known->most = left;
		in_sequence(known, tid, sequence, known->most - left);
		return;
	}
	call.entered = bpf_ktime_get_ns();
	READ_KERNEL(type, iter + OFFSET_iov_iter_iter_type);
	READ_KERNEL(skip, iter + OFFSET_iov_iter_iov_offset);
	READ_KERNEL(call.buffer, iter + OFFSET_iov_iter___iov);
	call.most = left;
	READ_KERNEL(blocks, iter + OFFSET_iov_iter_nr_segs);
	if (type == ITER_UBUF) {
		call.buffer += skip;
	} else {
		call.blocks = blocks;
		call.skip = skip;
	}
	call.memory = type == ITER_IOVEC ? MEMORY_USER_COPIED : type == ITER_BVEC ? MEMORY_PAGES :
		type == ITER_KVEC ? MEMORY_KERNEL : MEMORY_USER;
	READ_KERNEL(flags, message + OFFSET_msghdr_msg_flags);
	call.flags = flags & MSG_ZEROCOPY;
	if (type > ITER_KVEC || has_upper_layer(sk))
		call.flags |= NOT_IN_USER_SPACE;
	/* Theirs are counted nowhere: nothing would end them. */
	if (!is_kernel_thread())
		begin_below(&call, sk, id);
	in_sequence(&call, tid, sequence, 0);
	if (syscalls.update(&tid, &call)) {
		count(COUNTER_TABLE_FULL, 1);
		comes_to_nothing(&call, tid);
	}
}

/* (sk, msghdr, …), for every packet that TCP fills. */
int on_tcp_sendmsg_locked(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = bpf_get_current_pid_tgid();

	if (!in_unwanted_call(id) && wanted(id))
		sends(id, ctx->args[0], ctx->args[1]);
	return 0;
}

/* struct sk_buff_head: the first packet, the last. */
#define QUEUE_HEAD(sk) ((sk) + OFFSET_sock_sk_receive_queue)
#define QUEUE_TAIL(sk) ((sk) + OFFSET_sock_sk_receive_queue + 8)

/* The socket that a packet waits at; 0: it is none of a stream of AF_UNIX that is wanted. */
INLINE u64 unix_receiver(u64 skb, u64 sender)
{
	u64 receiver = 0, senders = 0;
	u16 family = 0;

	if (!RECORD_UNIX)
		return 0;
	READ_KERNEL(family, sender + OFFSET_sock_common_skc_family);
	if (!unix_sock_of(sender, family))
		return 0;
	READ_KERNEL(receiver, sender + OFFSET_unix_sock_peer);
	if (receiver)
		return receiver;
	/* The sender is closed. The first packet's neighbour is the queue itself. */
	READ_KERNEL(receiver, skb + OFFSET_sk_buff_prev);
	receiver -= OFFSET_sock_sk_receive_queue;
	READ_KERNEL(senders, receiver + OFFSET_unix_sock_peer);
	return senders == sender ? receiver : 0;
}

/* A system call that has an entry receives so many more bytes of a packet. What is then left of it may go unseen. */
INLINE void note_unix_copy(u64 sk, u64 skb, u32 n)
{
	struct connection *c = connections.lookup(&sk);
	u32 before = 0, length = 0;

	if (!c || !is_unix(c->family))
		return;
	READ_KERNEL(before, skb + OFFSET_sk_buff_cb + OFFSET_unix_skb_parms_consumed);
	READ_KERNEL(length, skb + OFFSET_sk_buff_len);
	c->unix_seen = before + n;
	/* Of one that is given back, the next may have the address. */
	c->unix_skb = c->unix_seen < length ? skb : 0;
}

/* A packet of which `length` bytes are about to be copied. */
INLINE void receives(u64 id, u64 skb, u32 length)
{
	u32 tid = id;
	struct syscall *known, fresh = {.direction = DIRECTION_RECEIVED, .below = 1};
	struct sock_reference s = {};
	u32 sequence = 0;
	u64 receiver;

	known = syscalls.lookup(&tid);
	if (known && !known->below) {
		if (RECORD_UNIX && known->direction == DIRECTION_RECEIVED && !(known->flags & MSG_PEEK))
			note_unix_copy(known->sk, skb, length);
		if (known->direction == DIRECTION_RECEIVED && !known->unsequenced && !(known->flags & MSG_PEEK)) {
			READ_KERNEL(sequence, known->sk + OFFSET_tcp_sock_copied_seq);
			in_sequence(known, tid, sequence, known->told);
			known->told += length;
		}
		return;
	}
	READ_KERNEL(s.sk, skb + OFFSET_sk_buff_sk);
	if (!s.sk)
		return;
	receiver = unix_receiver(skb, s.sk);
	if (receiver)
		s.sk = receiver;
	else if (!tcp_sock_of(s.sk, &s))
		return;
	if (!known || known->sk != s.sk) {
		fresh.sk = s.sk;
		if (syscalls.update(&tid, &fresh)) {
			count(COUNTER_TABLE_FULL, 1);
			return;
		}
		known = syscalls.lookup(&tid);
		if (!known)
			return;
	}
	known->skb = skb;
	known->most = length;
	known->unsequenced = receiver != 0;
	if (receiver)
		READ_KERNEL(known->sequence, skb + OFFSET_sk_buff_cb + OFFSET_unix_skb_parms_consumed);
	else
		READ_KERNEL(known->sequence, s.sk + OFFSET_tcp_sock_copied_seq);
}

/* (skb, length), before it is copied to the program. */
int on_skb_copy_datagram_iovec(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = bpf_get_current_pid_tgid();

	if (!in_unwanted_call(id) && wanted(id))
		receives(id, ctx->args[0], ctx->args[1]);
	return 0;
}

/* The packet that was copied, as pieces of memory. 0: it is not what it seemed. */
INLINE int from_packet(struct syscall *call, u32 tid)
{
	u64 skb = call->skb, data = 0, head = 0, shared, skip, fragment[2] = {}, address = 0;
	u32 sequence = 0, length = 0, in_pages = 0, end = 0, i;
	struct pieces *p;
	u8 fragments = 0;

	if (!call->unsequenced)
		READ_KERNEL(sequence, skb + OFFSET_sk_buff_cb + OFFSET_tcp_skb_cb_seq);
	READ_KERNEL(length, skb + OFFSET_sk_buff_len);
	READ_KERNEL(in_pages, skb + OFFSET_sk_buff_data_len);
	READ_KERNEL(data, skb + OFFSET_sk_buff_data);
	READ_KERNEL(head, skb + OFFSET_sk_buff_head);
	READ_KERNEL(end, skb + OFFSET_sk_buff_end);
	skip = call->sequence - sequence;
	if (skip + call->most > length || !(p = new_pieces(tid)))
		return 0;
	p->skip = skip;
	shared = head + end;
	READ_KERNEL(fragments, shared + OFFSET_skb_shared_info_nr_frags);
	add_piece(p, data, length - in_pages);
	#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_KEPT_PIECES - 1; i++) {
		if (i >= fragments)
			break;
		READ_KERNEL(fragment, shared + OFFSET_skb_shared_info_frags + 16 * i);
		if (page_address(fragment[0], &address))
			return 0;
		add_piece(p, address + (fragment[1] >> 32), (u32)fragment[1]);
	}
	use_pieces(call, p);
	return 1;
}

/* A packet of which the call that ends has received a part: the last one that it copied. */
INLINE void begun_packet(struct syscall *call, u32 tid, u64 sk)
{
	if (!call->skb || call->moved != call->most)
		return;
	if (from_packet(call, tid))
		call->flags = 0;
	call->queue = QUEUE_HEAD(sk);
}

/* A transfer that nothing has shown before its end. */
INLINE struct syscall *surprise(u64 sk, u32 tid, u8 direction)
{
	struct syscall call = {
		.sk = sk, .direction = direction, .below = 1, .flags = UNCHECKED | NOT_IN_USER_SPACE,
		.entered = bpf_ktime_get_ns(),
	};

	return syscalls.update(&tid, &call) ? NULL : syscalls.lookup(&tid);
}

/* Received bytes that were not copied: into a pipe by a call that is not hooked (32-bit, io_uring), mapped
 * (TCP_ZEROCOPY_RECEIVE), discarded (MSG_TRUNC). How many they are, TCP's sequence tells. 1: it is ready. */
INLINE int unseen(u64 sk, u32 tid, u32 now)
{
	struct connection *c = connections.lookup(&sk);
	struct syscall *call;
	u32 n, end = 0;
	u64 flags = 0;

	if (!c || !c->copied_known || !recording())
		return 0;
	n = now - c->copied;
	c->copied = now;
	/* The peer's FIN has a sequence number too. */
	READ_KERNEL(flags, sk + OFFSET_sock_common_skc_flags);
	READ_KERNEL(end, sk + OFFSET_tcp_sock_rcv_nxt);
	if (n && (flags & SOCK_DONE) && now == end)
		n--;
	if (!n || has_upper_layer(sk))
		return 0;
	call = surprise(sk, tid, DIRECTION_RECEIVED);
	if (!call)
		return 0;
	c->silent = n;
	call->moved = call->reported = n;
	return 1;
}

/* (sk), after each packet that was copied to a program, and after others have taken packets. */
int on_tcp_rcv_space_adjust(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0], id = bpf_get_current_pid_tgid();
	u32 tid = id, now = 0;
	struct syscall *call;

	if (in_unwanted_call(id))
		return 0;
	call = syscalls.lookup(&tid);
	if (call && (!call->skb || call->sk != sk))
		return 0;
	READ_KERNEL(now, sk + OFFSET_tcp_sock_copied_seq);
	if (!call) {
		if (unseen(sk, tid, now))
			move_below.call(ctx, 1);
		return 0;
	}
	/* Peeked at: nothing has moved. */
	if (now - call->sequence == call->most && !has_upper_layer(sk)) {
		call->moved = call->most;
		call->flags = from_packet(call, tid) ? 0 : NOT_IN_USER_SPACE;
		call->skb = 0;
		move_below.call(ctx, 0);
	}
	call->skb = 0;
	return 0;
}

/* (sk, result, flags), once a message. */
int on_sock_send_length(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0], id = bpf_get_current_pid_tgid();
	s64 n = (int)ctx->args[1];
	u32 tid = id;
	struct syscall *call;

	if (in_unwanted_call(id) || !recording())
		return 0;
	call = syscalls.lookup(&tid);
	if (call && call->sk == sk && !call->below) {
		if (n > 0) {
			call->reported += n;
			count(COUNTER_REPORTED_SENT, n);
		}
		return 0;
	}
	if (call && (call->sk != sk || !call->below))
		return 0;
	if (n <= 0) {
		if (call) {
			comes_to_nothing(call, tid);
			syscalls.delete(&tid);
		}
		return 0;
	}
	if (!call) {
		u16 protocol = 0, family = 0;
		READ_KERNEL(protocol, sk + OFFSET_sock_sk_protocol);
		READ_KERNEL(family, sk + OFFSET_sock_common_skc_family);
		if (unix_sock_of(sk, family) || protocol == UNSEEN_SENDERS || (UNSEEN_SENDERS == IPPROTO_TCP && protocol == IPPROTO_MPTCP))
			call = surprise(sk, tid, DIRECTION_SENT);
		if (!call)
			return 0;
	}
	if (n > call->most || call->unsequenced)
		call->flags |= NOT_IN_USER_SPACE;
	call->moved = n - call->told;
	call->reported = n;
	if (call->flags & UNCHECKED)
		move_below.call(ctx, 1);
	else
		move_below.call(ctx, 0);
	return 0;
}

INLINE int was_unseen(u64 sk, u64 n)
{
	struct connection *c = connections.lookup(&sk);
	int was = c && c->silent >= n;

	if (c)
		c->silent = 0;
	return was;
}

/* (sk, result, flags), once a message. */
int on_sock_recv_length(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0], id = bpf_get_current_pid_tgid();
	s64 n = (int)ctx->args[1];
	u32 flags = ctx->args[2], tid = id;
	struct syscall *call;

	if (in_unwanted_call(id) || !recording())
		return 0;
	call = syscalls.lookup(&tid);
	if (n <= 0 || (flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE)))
		n = 0;
	if (call && call->sk == sk && !call->below) {
		if (n) {
			call->reported += n;
			count(COUNTER_REPORTED_RECEIVED, n);
		}
		return 0;
	}
	if (call && (call->sk != sk || !call->below))
		return 0;
	if (!n) {
		if (call)
			syscalls.delete(&tid);
		return 0;
	}
	if (!call) {
		/* TCP shows each packet that it copies, before, and what it discards, after: unseen(). */
		u16 protocol = 0, family = 0;
		READ_KERNEL(protocol, sk + OFFSET_sock_sk_protocol);
		READ_KERNEL(family, sk + OFFSET_sock_common_skc_family);
		if (unix_sock_of(sk, family) || protocol == IPPROTO_MPTCP || (protocol == IPPROTO_TCP && (flags & MSG_TRUNC) && !was_unseen(sk, n)))
			call = surprise(sk, tid, DIRECTION_RECEIVED);
		if (!call)
			return 0;
	}
	call->reported = n;
	call->moved = n - call->told;
	if (call->flags & UNCHECKED) {
		move_below.call(ctx, 1);
		return 0;
	}
	call->flags |= NOT_IN_USER_SPACE;
	if (RECORD_UNIX && call->unsequenced)
		begun_packet(call, tid, sk);
	move_below.call(ctx, 0);
	return 0;
}

/* What the programs above have made ready: `moved` bytes; with `reported` the transfer has ended. */
INLINE int below_moved(void)
{
	u64 id = bpf_get_current_pid_tgid(), n, reported;
	u32 tid = id, d;
	struct syscall *call = syscalls.lookup(&tid);
	struct sock_reference s = {};
	struct connection *c;
	int ready = 0;

	if (!call || !recording())
		return 0;
	n = call->moved;
	reported = call->reported;
	d = call->direction & 1;
	s.sk = call->sk;
	if (is_kernel_thread() || !stream_sock_of(s.sk, &s))
		goto out;
	if (reported)
		count(COUNTER_REPORTED_SENT + d, reported);
	if (!n)
		goto out;
	call->told += n;
	s.inode = inode_of(s.sk);
	c = connection_of(&s, id >> 32, NO_FD);
	if (c) {
		if (d == DIRECTION_RECEIVED) {
			note_copied(c, s.sk);
			if (RECORD_UNIX && call->unsequenced) {
				c->unix_skb = call->skb;
				c->unix_seen = call->sequence + call->most;
			}
			/* Told under the socket's lock: others may be told later of what they received before. */
			if (!s.untold && c->in_flight[1]) {
				call->sequenced = call->overlapped = 1;
				__sync_fetch_and_add(&c->overlaps[1], 1);
			}
		} else if (call->id == c->id) {
			ended(call, c);
		}
		ready = moved(call, c, n, id);
	} else
		count(COUNTER_LOST_TABLE_FULL, n);
out:
	if (!ready)
		drop_notes(call, tid);
	if (reported)
		syscalls.delete(&tid);
	return ready;
}

int check_below_program(struct bpf_raw_tracepoint_args *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();

	if (wanted(bpf_get_current_pid_tgid()))
		move_below.call(ctx, 0);
	else
		syscalls.delete(&tid);
	return 0;
}

int move_below_program(struct bpf_raw_tracepoint_args *ctx)
{
	if (below_moved())
		emit_from_raw_tracepoint.call(ctx, 0);
	return 0;
}
#endif
