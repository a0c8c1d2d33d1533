/* SPDX-License-Identifier: GPL-2.0-or-later
 * Which processes are wanted: decided first in every program, before anything is read or stored.
 * Kinds of targets are a conjunction (-p and -u), values of one kind a disjunction (-p 1 -p 2).
 */
INLINE int wanted(u64 id)
{
	int zero = 0;
	u32 tgid = id >> 32;
	struct settings *s = settings.lookup(&zero);

	if (!s || tgid == s->self || !s->self)
		return 0;
	if (!(s->flags & (WANT_PIDS | WANT_COMMS | WANT_UIDS)))
		return 1;
	if ((s->flags & WANT_PIDS) && !wanted_pids.lookup(&tgid))
		return 0;
	if (s->flags & WANT_UIDS) {
		u32 uid = bpf_get_current_uid_gid();
		if (!wanted_uids.lookup(&uid))
			return 0;
	}
	if (s->flags & WANT_COMMS) {
		struct comm_key key = {};

		read_comm(key.comm);
		if (!wanted_comms.lookup(&key))
			return 0;
	}
	return 1;
}

INLINE int keep_all(void)
{
	int zero = 0;
	struct settings *s = settings.lookup(&zero);
	return s && (s->flags & KEEP_ALL_PROTOCOLS);
}
