/* SPDX-License-Identifier: GPL-2.0-or-later
 * What users may miss in a recording, for it is in no TCP stream: QUIC (RFC 9000), which HTTP/3 goes over; and HTTP on
 * sockets of AF_UNIX where those are not recorded. Nothing of it is, but who uses it is told.
 */
struct unrecorded_key {
	u32 tgid, what;			/* enum unrecorded */
};
struct unrecorded_user {
	u8 comm[COMM_BYTES];
};
/* The last ones. */
BPF_TABLE("lru_hash", struct unrecorded_key, struct unrecorded_user, unrecorded_users, 1024);

INLINE void note_unrecorded(u64 id, u32 what)
{
	struct unrecorded_key key = {.tgid = id >> 32, .what = what};
	struct unrecorded_user user = {};

	if (unrecorded_users.lookup(&key))
		return;
	read_comm(user.comm);
	unrecorded_users.update(&key, &user);
}

/* An Initial packet, with which a connection begins: form, fixed bit and type; version (RFC 9000 §17.2.2, RFC 9369 §3). */
INLINE int is_initial(u8 *packet)
{
	u32 version = 0;

	__builtin_memcpy(&version, packet + 1, sizeof(version));
	version = bpf_ntohl(version);
	return ((packet[0] & 0xf0) == 0xc0 && version == 1) || ((packet[0] & 0xf0) == 0xd0 && version == 0x6b3343cf);
}

/* The first four bytes of a request by the methods that programs use (RFC 9110 §9.1), or of HTTP/2's preface. */
INLINE int is_request(u8 *text)
{
	u32 word = 0;

	__builtin_memcpy(&word, text, sizeof(word));
	switch (bpf_ntohl(word)) {
	case 0x47455420:	/* "GET " */
	case 0x504f5354:	/* "POST" */
	case 0x50555420:	/* "PUT " */
	case 0x48454144:	/* "HEAD" */
	case 0x44454c45:	/* "DELE" */
	case 0x50524920:	/* "PRI " */
		return 1;
	}
	return 0;
}

/* A wanted process sends by a socket that is not recorded: `buffer`, or the first of `blocks`. */
INLINE void look_at_unrecorded(struct sock_reference *s, u64 buffer, u32 blocks, u64 id)
{
	u8 head[5] = {};

	if ((blocks && READ_USER(buffer, buffer)) || READ_USER(head, buffer))
		return;
	if (s->datagrams && is_initial(head) && !has_setting(DROP_TLS))
		note_unrecorded(id, UNRECORDED_QUIC);
	/* Not a network's: only of whom the user asked for. */
	if (s->family == AF_UNIX && is_request(head) && has_setting(CHECK_PROCESSES))
		note_unrecorded(id, UNRECORDED_UNIX);
}
