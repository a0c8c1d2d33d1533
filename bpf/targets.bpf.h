/* SPDX-License-Identifier: GPL-2.0-or-later
 * What is wanted: processes, decided first in every program, before anything is read or stored; and connections,
 * decided when their ends are known, before anything is copied. Kinds of targets are a conjunction (-p and -u),
 * values of one kind a disjunction (-p 1 -p 2); what is excluded is excluded.
 *
 * A kind's map says of a value whether it is wanted or excluded. WANT_* : the kind restricts, so a value that is
 * not in the map does not pass. CHECK_* : the kind was used at all, so that a look-up is worth its cost.
 */
#define EXCLUDED 2

INLINE int passes(u8 *choice, u32 flags, u32 want)
{
	if (choice)
		return *choice != EXCLUDED;
	return !(flags & want);
}

INLINE int cgroup_passes(struct settings *s)
{
	int i;

	#pragma clang loop unroll(full)
	for (i = 0; i < MAX_CGROUPS; i++)
		if (i < s->excluded_cgroups && excluded_cgroups.check_current_task(i) == 1)
			return 0;
	if (!s->wanted_cgroups)
		return 1;
	#pragma clang loop unroll(full)
	for (i = 0; i < MAX_CGROUPS; i++)
		if (i < s->wanted_cgroups && wanted_cgroups.check_current_task(i) == 1)
			return 1;
	return 0;
}

/* bpf_get_current_uid_gid() says the same, and looks both numbers up in a table first. */
INLINE u32 current_user(void)
{
	u64 cred;
	u32 user;

	asm volatile("%0 = *(u64 *)(%1 + %2)"
		     : "=r"(cred) : "r"(bpf_get_current_task_btf()), "i"(OFFSET_task_struct_cred));
	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(user) : "r"(cred), "i"(OFFSET_cred_uid));
	return user;
}

INLINE int wanted(u64 id)
{
	int zero = 0;
	u32 tgid = id >> 32;
	struct settings *s = settings.lookup(&zero);

	if (!s || tgid == s->self || !s->self)
		return 0;
	if (!(s->flags & CHECK_PROCESSES))
		return 1;
	if ((s->flags & CHECK_PIDS) && !passes(chosen_pids.lookup(&tgid), s->flags, WANT_PIDS))
		return 0;
	if (s->flags & CHECK_UIDS) {
		u32 uid = current_user();
		if (!passes(chosen_uids.lookup(&uid), s->flags, WANT_UIDS))
			return 0;
	}
	if (s->flags & CHECK_COMMS) {
		struct comm_key key = {};

		read_comm(key.comm);
		if (!passes(chosen_comms.lookup(&key), s->flags, WANT_COMMS))
			return 0;
	}
	return cgroup_passes(s);
}

/* Threads inside a hooked call whose process is not wanted: what the call's entry has decided, the other hooks on its
 * way need not. Each on a cache line of its own; two threads that share one decide again and again, and rightly.
 *
 * What was decided holds for the thread's next calls, as long as what it was decided by is the same: the targets and
 * all names of processes (`epoch`), the thread's user and cgroup.
 */
#define UNWANTED_CALLS 16384
struct unwanted_call {
	u64 thread;		/* its task_struct, while it is in a call */
	u64 decided;		/* the same, as long as … */
	u64 epoch, cgroup;	/* … these are the same, */
	u32 user;		/* … and this, */
	u32 checks;		/* the latter two if a kind of targets asks for them */
	u32 pad[6];
};
/* What decides about processes, but for what a process is itself, has changed: its targets, a name. */
struct decisions {
	u64 epoch;
	u64 renamed;		/* when a process was given another name, last */
};
BPF_ARRAY(decisions, struct decisions, 1);
/* A map of one value, for only of such the address can be had. BCC reads no sizeof, and would read each member. */
#define UNWANTED_CALLS_BYTES 1048576
_Static_assert(UNWANTED_CALLS_BYTES == UNWANTED_CALLS * sizeof(struct unwanted_call), "");
struct unwanted_calls {
	char bytes[UNWANTED_CALLS_BYTES];
};
BPF_ARRAY(unwanted_calls, struct unwanted_calls, 1);
/* A name is told of before it is written: until then, nothing that is decided by it is kept. */
#define RENAMING_NS 20000000

/* A thread is its task_struct here, not its number, which takes the kernel longer to say. The address is used again at
 * once: it is forgotten when a thread ends, and when one begins.
 */
#define TASK_ALIGNMENT_BITS 6

INLINE struct unwanted_call *unwanted_call_of(u64 thread)
{
	return (struct unwanted_call *)VALUE_OF(unwanted_calls) + (thread >> TASK_ALIGNMENT_BITS & (UNWANTED_CALLS - 1));
}

/* What is on everybody's way is to be short, for most of its cost are lines of the cache that it takes from others. So it is
 * in a program of its own, which goes on in another: a program saves all registers that it uses and clears its
 * stack before anything else. */
BPF_PROG_ARRAY(wanted_tracepoint, 3);
BPF_PROG_ARRAY(wanted_raw_tracepoint, 5);

/* Ends the program, here: the kernel puts a program's epilogue where its first exit is, and the compiler its only one at
 * the far end. With `to`, it is set to `value` before. */
#define END_IF_SAME(a, b) asm volatile("if %0 != %1 goto +2; r0 = 0; exit" :: "r"(a), "r"(b) : "memory")
#define SET_AND_END_IF_SAME(a, b, to, value) \
	asm volatile("if %0 != %1 goto +3; *(u64 *)(%2 + 0) = %3; r0 = 0; exit" \
		     :: "r"(a), "r"(b), "r"(to), "r"(value) : "memory")

/* Ends the program if the thread is in a call of no interest. */
INLINE void end_in_unwanted_call(void)
{
	u64 thread = bpf_get_current_task();

	END_IF_SAME(unwanted_call_of(thread)->thread, thread);
}

INLINE int go_on_if_wanted(struct bpf_raw_tracepoint_args *ctx, int program)
{
	end_in_unwanted_call();
	wanted_raw_tracepoint.call(ctx, program);
	return 0;
}

/* 0: what else was decided by is the same. */
INLINE u64 is_another(struct unwanted_call *call)
{
	u64 differs = 0;

	if (call->checks & CHECK_UIDS)
		differs = call->user ^ current_user();
	if (call->checks & CHECK_CGROUPS)
		differs |= call->cgroup ^ bpf_get_current_cgroup_id();
	return differs;
}

/* Ends the program if it was decided before that the thread is not wanted. */
INLINE void end_if_unwanted_before(void)
{
	u64 thread = bpf_get_current_task();
	struct decisions *now = VALUE_OF(decisions);
	struct unwanted_call *call = unwanted_call_of(thread);
	u64 differs = (call->decided ^ thread) | (call->epoch ^ now->epoch);

	SET_AND_END_IF_SAME(differs | call->checks, 0ULL, &call->thread, thread);
	if (!differs)
		SET_AND_END_IF_SAME(is_another(call), 0ULL, &call->thread, thread);
}

/* Whether the thread is wanted: decided anew, and kept where it is not. */
INLINE int wanted_at_entry(void)
{
	u64 thread = bpf_get_current_task();
	int zero = 0;
	struct decisions *now = VALUE_OF(decisions);
	struct unwanted_call *call = unwanted_call_of(thread);
	struct settings *s;
	u64 epoch = now->epoch;

	/* A call that is waiting when the recording begins is not decided yet. */
	s = settings.lookup(&zero);
	if (!s || !s->self)
		return 0;
	if (wanted(bpf_get_current_pid_tgid()))
		return 1;
	call->thread = thread;
	call->decided = 0;
	if ((s->flags & CHECK_COMMS) && bpf_ktime_get_ns() - now->renamed < RENAMING_NS)
		return 0;
	call->epoch = epoch;
	call->checks = s->flags & (CHECK_UIDS | CHECK_CGROUPS);
	call->user = current_user();
	call->cgroup = bpf_get_current_cgroup_id();
	call->decided = thread;
	return 0;
}

/* The same at the call's exit. */
INLINE void end_unwanted_call(void)
{
	u64 thread = bpf_get_current_task();
	struct unwanted_call *call = unwanted_call_of(thread);

	SET_AND_END_IF_SAME(call->thread, thread, &call->thread, 0ULL);
}

/* At the thread's end, and before its beginning. */
INLINE void forget_unwanted(u64 thread)
{
	struct unwanted_call *call = unwanted_call_of(thread);

	if (call->thread == thread)
		call->thread = 0;
	if (call->decided == thread)
		call->decided = 0;
}

/* A whole address, IPv4 as ::ffff:a.b.c.d. */
INLINE void host_key(struct host_key *to, u16 family, u8 *address)
{
	to->bits = 8 * sizeof(to->address);
	if (family == AF_INET) {
		to->address[10] = to->address[11] = 0xff;
		__builtin_memcpy(to->address + 12, address, 4);
	} else {
		__builtin_memcpy(to->address, address, 16);
	}
}

/* Either end may fit: what is asked for is a service, or who talks to it. */
INLINE int end_passes(u8 *local, u8 *remote, u32 flags, u32 want)
{
	if ((local && *local == EXCLUDED) || (remote && *remote == EXCLUDED))
		return 0;
	return local || remote || !(flags & want);
}

INLINE void decide_wanted(struct connection *c)
{
	int zero = 0;
	struct settings *s = settings.lookup(&zero);

	if (!s)
		return;
	if (is_unix(c->family)) {
		c->unwanted = !!(s->flags & (WANT_PORTS | WANT_HOSTS));
		return;
	}
	if (s->flags & CHECK_PORTS) {
		u16 local = c->local_port, remote = c->remote_port;
		if (!end_passes(chosen_ports.lookup(&local), chosen_ports.lookup(&remote), s->flags, WANT_PORTS))
			c->unwanted = 1;
	}
	if (s->flags & CHECK_HOSTS) {
		struct host_key local = {}, remote = {};
		host_key(&local, c->family, c->local);
		host_key(&remote, c->family, c->remote);
		if (excluded_hosts.lookup(&local) || excluded_hosts.lookup(&remote))
			c->unwanted = 1;
		if (!end_passes(wanted_hosts.lookup(&local), wanted_hosts.lookup(&remote), s->flags, WANT_HOSTS))
			c->unwanted = 1;
	}
}
