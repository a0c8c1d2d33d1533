/* SPDX-License-Identifier: GPL-2.0-or-later
 * Why bytes that have a position have no record. Where nothing is noted, the ring was full: then there was no room to
 * say so, and it is what nearly every hole is. The rest is rare, and is noted here for user space to read when it
 * comes to a hole.
 */
struct hole_key {
	u64 connection, session, position;	/* of the first byte; the connection is 0 where there is a session */
	u64 direction;
};
struct hole {
	u64 length, reason;
};
/* A cache: what nobody asks for goes when room is needed. */
BPF_TABLE("lru_hash", struct hole_key, struct hole, holes, 16384);

INLINE void note_hole(u64 connection, u64 session, u64 direction, u64 position, u64 n, u64 reason)
{
	struct hole_key key = {.session = session, .position = position, .direction = direction};
	struct hole hole = {.length = n, .reason = reason};

	if (!session)
		key.connection = connection;
	holes.update(&key, &hole);
	count(COUNTER_HOLES_NOTED, 1);
}
