/* SPDX-License-Identifier: GPL-2.0-or-later
 * Streams of AF_UNIX, compiled in where they are wanted (RECORD_UNIX). A connection is named by the inode of its
 * client's socket: both ends can tell it, also before the server has accepted, and no two have the same. Its path is
 * what the server's end is bound to.
 */
#define AF_UNIX 1
#define RCV_SHUTDOWN 1

/* The inode of a socket's file; 0: it has none, for it was not accepted yet, or is closed. */
INLINE u32 inode_of(u64 sk)
{
	u64 socket = 0, inode = 0;

	READ_KERNEL(socket, sk + OFFSET_sock_sk_socket);
	if (socket)
		READ_KERNEL(inode, socket - OFFSET_socket_alloc_socket + OFFSET_socket_alloc_vfs_inode + OFFSET_inode_i_ino);
	return inode;
}

INLINE int is_unix(u16 family)
{
	return RECORD_UNIX && family == AF_UNIX;
}

/* 1 if it is a stream of AF_UNIX, and those are wanted. */
INLINE int unix_sock_of(u64 sk, u16 family)
{
	u16 type = 0;

	if (!is_unix(family))
		return 0;
	READ_KERNEL(type, sk + OFFSET_sock_sk_type);
	return type == SOCK_STREAM;
}

/* Who receives what a socket sends, also when that is closed. key: its sock pointer. A cache. */
BPF_TABLE("lru_hash", u64, u64, unix_receivers, 16384);

/* Sets `role` where it is not known, the connection's name as `local`, where its path is as `remote`. */
INLINE void read_unix_ends(struct connection *c, u64 sk)
{
	u64 peer = 0, address = 0, peers = 0;
	u32 users = 0, peers_users = 0, inode = 0;
	struct connection *other;

	READ_KERNEL(peer, sk + OFFSET_unix_sock_peer);
	READ_KERNEL(address, sk + OFFSET_unix_sock_addr);
	if (address)
		READ_KERNEL(users, address + OFFSET_unix_address_refcnt);
	if (peer) {
		unix_receivers.update(&peer, &sk);
		READ_KERNEL(peers, peer + OFFSET_unix_sock_addr);
		if (peers)
			READ_KERNEL(peers_users, peers + OFFSET_unix_address_refcnt);
		inode = inode_of(peer);
		other = connections.lookup(&peer);
		/* Closed: its entry knows what it was. */
		if (!inode && other && is_unix(other->family))
			inode = other->inode;
	}
	/* A socket that was accepted shares its listener's address; a client may be bound too. */
	if (!c->role && (users || peers_users))
		c->role = users > peers_users ? ROLE_SERVER : ROLE_CLIENT;
	/* A pair has neither end: the smaller inode names it. */
	if (!inode || c->role == ROLE_CLIENT || (!c->role && c->inode < inode))
		inode = c->inode;
	__builtin_memcpy(c->local, &inode, sizeof(inode));
	if (users < peers_users || !users)
		address = peers;
	__builtin_memcpy(c->remote, &address, sizeof(address));
}

/* What the server's end is bound to: a path, or a zero and a name. Its bytes. */
INLINE u8 read_unix_path(struct connection *c, u8 *to)
{
	u64 address;
	int n = 0;

	__builtin_memcpy(&address, c->remote, sizeof(address));
	if (!address)
		return 0;
	READ_KERNEL(n, address + OFFSET_unix_address_len);
	/* struct sockaddr_un begins with the family. */
	bpf_probe_read_kernel(to, UNIX_PATH_BYTES, (void *)(address + OFFSET_unix_address_name + 2));
	return n < 2 || n > UNIX_PATH_BYTES + 2 ? 0 : n - 2;
}

/* A call that received nothing: at the end of what the peer sent, not for want of room. */
INLINE void note_end(struct connection *c, u64 sk)
{
	u8 shut = 0;

	READ_KERNEL(shut, sk + OFFSET_sock_sk_shutdown);
	if ((shut & RCV_SHUTDOWN) && !c->peer_fin)
		c->peer_fin = bpf_ktime_get_ns();
}
