/* SPDX-License-Identifier: GPL-2.0-or-later
 * fd → file → socket → sock, each step one bounded read; the OFFSET_* come from BTF (btf.py). Works for
 * connections older than us, accept(NULL), other network namespaces. Nothing but TCP passes, and streams
 * of AF_UNIX where they are wanted.
 */
#define SOCK_DONE (1 << 1)	/* sk_flags: the peer's FIN has come */

struct sock_reference {
	u64 sk;
	u32 inode;
	u16 family;
	u16 untold;
	u16 datagrams;		/* it has no stream */
};

/* The file behind a descriptor of the current process; 0: none. */
INLINE u64 file_of(u32 fd)
{
	u64 p = 0, table = 0, file = 0;
	u32 max = 0;

	READ_KERNEL(p, bpf_get_current_task() + OFFSET_task_struct_files);
	if (!p)
		return 0;
	READ_KERNEL(p, p + OFFSET_files_struct_fdt);
	READ_KERNEL(max, p + OFFSET_fdtable_max_fds);
	if (fd >= max)
		return 0;
	READ_KERNEL(table, p + OFFSET_fdtable_fd);
	READ_KERNEL(file, table + 8ULL * fd);
	return file;
}

/* 1 if it is TCP's. The inode is not read. */
INLINE int tcp_sock_of(u64 sk, struct sock_reference *s)
{
	u16 protocol = 0;

	s->sk = sk;
	READ_KERNEL(s->family, sk + OFFSET_sock_common_skc_family);
	READ_KERNEL(protocol, sk + OFFSET_sock_sk_protocol);
	s->untold = protocol == IPPROTO_MPTCP;
	return (s->family == AF_INET || s->family == AF_INET6) &&
		(protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP);
}

/* A layer above TCP (kernel TLS) gives it other bytes than the program's. */
INLINE int has_upper_layer(u64 sk)
{
	u64 operations = 0;

	READ_KERNEL(operations, sk + OFFSET_inet_connection_sock_icsk_ulp_ops);
	return operations != 0;
}

/* How far TCP has given received bytes away. MPTCP counts otherwise. */
INLINE void note_copied(struct connection *c, u64 sk)
{
#if BELOW
	READ_KERNEL(c->copied, sk + OFFSET_tcp_sock_copied_seq);
	c->copied_known = 1;
#endif
}

/* 1 if it is TCP's, or a stream of AF_UNIX that is wanted. The inode is not read. */
INLINE int stream_sock_of(u64 sk, struct sock_reference *s)
{
	if (tcp_sock_of(sk, s))
		return 1;
	s->untold = unix_sock_of(sk, s->family);
	return s->untold;
}

/* The same of a file, with the inode. */
INLINE int socket_of(u64 file, struct sock_reference *s)
{
	u64 inode = 0, socket = 0, ino = 0;
	u16 mode = 0, type = 0;

	if (!file)
		return 0;
	READ_KERNEL(inode, file + OFFSET_file_f_inode);
	READ_KERNEL(mode, inode + OFFSET_inode_i_mode);
	if ((mode & 0170000) != 0140000)
		return 0;
	READ_KERNEL(socket, file + OFFSET_file_private_data);
	READ_KERNEL(type, socket + OFFSET_socket_type);
	READ_KERNEL(s->sk, socket + OFFSET_socket_sk);
	s->datagrams = type == SOCK_DGRAM;
	if (type != SOCK_STREAM || !s->sk || !stream_sock_of(s->sk, s))
		return 0;
	READ_KERNEL(ino, inode + OFFSET_inode_i_ino);
	s->inode = ino;
	return 1;
}

/* As the socket was bound: skc_num is 0 once TCP has closed it, as when the peer has reset it, and what it has received
 * may be read then. */
INLINE u16 local_port(u64 sk)
{
	u16 port = 0;

	READ_KERNEL(port, sk + OFFSET_inet_sock_inet_sport);
	return bpf_ntohs(port);
}

INLINE void read_addresses(struct connection *c, u64 sk)
{
	u64 net = 0;
	u16 port = 0;

	if (is_unix(c->family)) {
		read_unix_ends(c, sk);
		return;
	}
	READ_KERNEL(net, sk + OFFSET_sock_common_skc_net);
	READ_KERNEL(c->netns, net + OFFSET_net_ns_inum);
	c->local_port = local_port(sk);
	READ_KERNEL(port, sk + OFFSET_sock_common_skc_dport);
	c->remote_port = bpf_ntohs(port);
	if (c->family == AF_INET) {
		bpf_probe_read_kernel(c->local, 4, (void *)(sk + OFFSET_sock_common_skc_rcv_saddr));
		bpf_probe_read_kernel(c->remote, 4, (void *)(sk + OFFSET_sock_common_skc_daddr));
	} else {
		bpf_probe_read_kernel(c->local, 16, (void *)(sk + OFFSET_sock_common_skc_v6_rcv_saddr));
		bpf_probe_read_kernel(c->remote, 16, (void *)(sk + OFFSET_sock_common_skc_v6_daddr));
	}
}

/* The process's name: a thread may be called otherwise. */
INLINE void read_comm(void *to)
{
	u64 id = bpf_get_current_pid_tgid(), leader = 0;

	if ((u32)id == id >> 32) {
		bpf_get_current_comm(to, COMM_BYTES);
		return;
	}
	READ_KERNEL(leader, bpf_get_current_task() + OFFSET_task_struct_group_leader);
	bpf_probe_read_kernel_str(to, COMM_BYTES, (void *)(leader + OFFSET_task_struct_comm));
}

/* Known by its socket only: no descriptor was seen. */
#define NO_FD 0xffffffff

/* The entry of a socket, made when it is first seen. NULL: the table is full. */
INLINE struct connection *connection_of(struct sock_reference *s, u32 tgid, u32 fd)
{
	u64 sk = s->sk;
	struct connection *c = connections.lookup(&sk);

	/* The same address with another inode is another socket: that one's end was missed, or waits to be told. */
	if (!c || c->inode != s->inode || c->ended) {
		if (c && !c->ended)
			ended_unseen(c);
		if (c && c->announced && !put_end(c))
			count(COUNTER_EVENTS_RING_FULL, 1);
		u32 tid = bpf_get_current_pid_tgid();
		int zero = 0;
		struct connection *none = no_connections.lookup(&zero), *fresh;
		if (!none || drafts.update(&tid, none) || !(fresh = drafts.lookup(&tid))) {
			count(COUNTER_TABLE_FULL, 1);
			return NULL;
		}
		fresh->id = new_id();
		fresh->inode = s->inode;
		fresh->family = s->family;
		fresh->untold = s->untold;
		fresh->tgid = tgid;
		fresh->fd = fd;
		read_comm(fresh->comm);
		read_addresses(fresh, sk);
		if (c)
			connections.delete(&sk);
		/* Another thread may have been as quick: its entry stays. */
		connections.insert(&sk, fresh);
		c = connections.lookup(&sk);
		if (!c)
			count(COUNTER_TABLE_FULL, 1);
		if (c && c->untold && untold_ends.update(&sk, &c->id))
			count(COUNTER_TABLE_FULL, 1);
		drafts.delete(&tid);
	}
	return c;
}

/* Remembers which connection a descriptor is: the next call on it need not look closely. */
INLINE void hold(u32 tgid, u32 fd, u64 file, u64 sk, u64 id)
{
	struct descriptor_key key = {.tgid = tgid, .fd = fd};
	struct descriptor value = {.file = file, .sk = sk, .id = id};
	if (descriptors.update(&key, &value))
		count(COUNTER_TABLE_FULL, 1);
}

/* The connection that a descriptor was when it was last used, if it is that still: the same file with the same
 * socket, whose entry has not been replaced. */
INLINE struct connection *held_connection(u32 tgid, u32 fd, u64 file, u64 *sk)
{
	struct descriptor_key key = {.tgid = tgid, .fd = fd};
	struct descriptor *known = descriptors.lookup(&key);
	struct connection *c;
	u64 socket = 0, now = 0, id;

	if (!known || known->file != file)
		return NULL;
	*sk = known->sk;
	id = known->id;
	READ_KERNEL(socket, file + OFFSET_file_private_data);
	READ_KERNEL(now, socket + OFFSET_socket_sk);
	if (now != *sk)
		return NULL;
	c = connections.lookup(sk);
	if (!c || c->id != id)
		return NULL;
	/* All of this may be another's already, where nobody told of the end. */
	return !c->untold || c->inode == inode_of(*sk) ? c : NULL;
}
