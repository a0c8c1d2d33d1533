/* SPDX-License-Identifier: GPL-2.0-or-later
 * QUIC (RFC 9000), which HTTP/3 goes over: TLS in datagrams, of which nothing is recorded. So that it is not missed, the
 * processes are told that send packets with which its connections begin.
 */
struct quic_user {
	u8 comm[COMM_BYTES];
};
/* key: tgid. The last ones. */
BPF_TABLE("lru_hash", u32, struct quic_user, quic_users, 1024);

/* An Initial packet: form, fixed bit, type; version, in network order (RFC 9000 §17.2.2, RFC 9369 §3). */
INLINE int is_initial(u8 *packet)
{
	u32 version = 0;

	__builtin_memcpy(&version, packet + 1, sizeof(version));
	version = bpf_ntohl(version);
	return ((packet[0] & 0xf0) == 0xc0 && version == 1) || ((packet[0] & 0xf0) == 0xd0 && version == 0x6b3343cf);
}

/* A wanted process sends a datagram: `buffer`, or the first of `blocks`. */
INLINE void note_quic(u64 buffer, u32 blocks, u64 id)
{
	struct quic_user user = {};
	u32 tgid = id >> 32;
	u8 packet[5] = {};

	if ((blocks && READ_USER(buffer, buffer)) || READ_USER(packet, buffer) || !is_initial(packet))
		return;
	if (has_setting(DROP_TLS) || quic_users.lookup(&tgid))
		return;
	read_comm(user.comm);
	quic_users.update(&tgid, &user);
}
