/* SPDX-License-Identifier: GPL-2.0-or-later
 * Host names: what the C library's resolver was asked by a wanted process, what it answered, and how long that took.
 *
 * Returns are probed where they are, on each RET: threads are cancelled inside these functions, and what unwinds
 * their stacks must find the addresses that calls have put there. A call that never returns leaves an
 * entry, which the next one replaces.
 */
#define MAX_LOOKUPS 8192
/* Entries of a result: three for each address where the caller did not choose a type of socket. */
#define MAX_LOOKUP_ENTRIES 192
#define LOOKUP_ADDRESSES (LOOKUP_ADDRESS_BYTES / 16)

struct lookup_key {
	u32 tid, shape;
};
struct lookup {
	u64 name;
	u64 result;		/* where the pointer to the result will be put */
	u64 entered;
};
/* key: {tid, shape}. Deleted at return. */
BPF_TABLE("lru_hash", struct lookup_key, struct lookup, lookups, MAX_LOOKUPS);

/* getaddrinfo may call gethostbyname2_r, and so does gethostbyname_r in musl: the same question. */
INLINE int is_part_of_lookup(struct lookup_key key)
{
	int shape = key.shape;

	key.shape = SHAPE_NAME_ADDRINFO;
	if (shape != SHAPE_NAME_ADDRINFO && lookups.lookup(&key))
		return 1;
	key.shape = SHAPE_NAME_HOST;
	return shape == SHAPE_NAME_HOST2 && lookups.lookup(&key);
}

INLINE int name_enter(struct pt_regs *ctx, int shape)
{
	u64 id = bpf_get_current_pid_tgid(), fourth = PT_REGS_PARM4(ctx), fifth = PT_REGS_PARM5(ctx);
	u64 sixth = PT_REGS_PARM6(ctx);
	struct lookup_key key = {.tid = id, .shape = shape};
	struct lookup call = {.name = PT_REGS_PARM1(ctx), .entered = bpf_ktime_get_ns()};

	/* Read before they are chosen between: the verifier wants no computed offset into the context. */
	asm volatile("" : "+r"(fourth), "+r"(fifth), "+r"(sixth));
	call.result = shape == SHAPE_NAME_ADDRINFO ? fourth : shape == SHAPE_NAME_HOST ? fifth : sixth;
	/* Without a name it asks for addresses to listen on. */
	if (!call.name || !wanted(id) || is_part_of_lookup(key))
		return 0;
	if (lookups.update(&key, &call))
		count(COUNTER_TABLE_FULL, 1);
	return finish_uprobe(ctx, 0);
}

/* Adds an address, in IPv6's form, unless it equals the one before: an answer is listed once for each type of socket.
 * The one before is kept in the head's members for connection and session, which this sample does not need. */
INLINE void add_address(struct name_sample *r, u64 from, u32 family)
{
	u64 *to = (u64 *)r->addresses, address[2] = {};
	u32 at = r->head.captured;

	if (family == AF_INET) {
		address[1] = 0xffff0000ULL;
		bpf_probe_read_user((u8 *)address + 12, 4, (void *)from);
	} else if (family == AF_INET6) {
		bpf_probe_read_user(address, 16, (void *)from);
	} else {
		return;
	}
	if (address[0] == r->head.connection && address[1] == r->head.session)
		return;
	r->head.connection = address[0];
	r->head.session = address[1];
	if (at >= LOOKUP_ADDRESSES) {
		r->head.length++;
		return;
	}
	r->head.captured = at + 1;
	asm volatile("" : "+r"(at));
	at = 2 * (at & (LOOKUP_ADDRESSES - 1));
	to[at] = address[0];
	to[at + 1] = address[1];
}

/* struct addrinfo (netdb.h): five numbers of 32 bits, then pointers to address, name and the next one. */
INLINE void add_addrinfo(struct name_sample *r, u64 entry)
{
	u64 address = 0;
	u16 family = 0;
	u32 i;

	#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_LOOKUP_ENTRIES && entry; i++) {
		bpf_probe_read_user(&address, sizeof(address), (void *)(entry + 24));
		bpf_probe_read_user(&family, sizeof(family), (void *)address);
		add_address(r, address + (family == AF_INET ? 4 : 8), family);
		if (bpf_probe_read_user(&entry, sizeof(entry), (void *)(entry + 40)))
			entry = 0;
	}
	if (entry)
		r->head.length++;
}

/* struct hostent (netdb.h): pointers to name and aliases, the family, a length, and a list of pointers. */
INLINE void add_hostent(struct name_sample *r, u64 host)
{
	u64 list = 0, address = 0;
	u32 family = 0, i;

	bpf_probe_read_user(&family, sizeof(family), (void *)(host + 16));
	bpf_probe_read_user(&list, sizeof(list), (void *)(host + 24));
	#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_LOOKUP_ENTRIES; i++) {
		if (bpf_probe_read_user(&address, sizeof(address), (void *)(list + 8 * i)) || !address)
			return;
		add_address(r, address, family);
	}
	r->head.length++;
}

INLINE int name_results(struct pt_regs *ctx, int shape)
{
	u64 id = bpf_get_current_pid_tgid(), result = 0;
	struct lookup_key key = {.tid = id, .shape = shape};
	struct lookup *found = lookups.lookup(&key), call;
	struct name_sample *r;

	if (!found)
		return 0;
	call = *found;
	lookups.delete(&key);
	if (!recording() || (int)PT_REGS_RC(ctx) ||
	    bpf_probe_read_user(&result, sizeof(result), (void *)call.result) || !result)
		return 0;
	r = ring.ringbuf_reserve(sizeof(*r));
	if (!r) {
		count(COUNTER_EVENTS_RING_FULL, 1);
		return 0;
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->head.kind = SAMPLE_NAME;
	r->head.time = bpf_ktime_get_ns();
	r->head.position = call.entered;
	r->head.tgid = id >> 32;
	r->head.tid = id;
	bpf_probe_read_user_str(r->name, sizeof(r->name), (void *)call.name);
	if (shape == SHAPE_NAME_ADDRINFO)
		add_addrinfo(r, result);
	else
		add_hostent(r, result);
	submit(r);
	return finish_uprobe(ctx, 0);
}

int name_enter_by_cookie(struct pt_regs *ctx)
{
	name_enter(ctx, bpf_get_attach_cookie(ctx) & 0xff);
	return NO_RETURN;
}

int name_return_by_cookie(struct pt_regs *ctx)
{
	name_results(ctx, bpf_get_attach_cookie(ctx) & 0xff);
	return NO_RETURN;
}
