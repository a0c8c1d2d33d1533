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
#if BELOW
/* Ours: not known yet whether the process is wanted. */
#define UNCHECKED 0x40000000
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
		call_begins(call, c);
	}
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
#endif
