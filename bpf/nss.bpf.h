/* SPDX-License-Identifier: GPL-2.0-or-later
 * NSS, whose users read and write with NSPR's functions for any kind of file: PR_Read and its kin. TLS is a layer on
 * a descriptor, so two things must hold before their bytes are plaintext: the descriptor is layered, and what its
 * layers sent or received on this thread's way down was TLS. A layer passes calls to the one below through its
 * table of methods, mostly; where it calls PR_Read once more, that is a call on another descriptor, and of the two
 * only the one next to the system call gets bound to a socket.
 */

/* PRFileDesc begins with a pointer to its methods, those with their type (NSPR, prio.h: PRDescType). */
#define PR_DESC_LAYERED 4
#define PR_MSG_PEEK 2

INLINE int is_layered(u64 descriptor)
{
	u64 methods = 0;
	u32 type = 0;

	if (bpf_probe_read_user(&methods, sizeof(methods), (void *)descriptor) || !methods)
		return 0;
	return !bpf_probe_read_user(&type, sizeof(type), (void *)methods) && type == PR_DESC_LAYERED;
}

INLINE int nspr_writes(int shape)
{
	return shape == SHAPE_NSPR_WRITE || shape == SHAPE_NSPR_WRITEV;
}

/* 1: the call's return is to be seen. */
INLINE int nss_enter(struct pt_regs *ctx, int shape, u64 library)
{
	u64 descriptor = PT_REGS_PARM1(ctx);

	if (shape == SHAPE_NSPR_CLOSE)
		return tls_free(ctx, descriptor);
	if (shape == SHAPE_NSS_IMPORT || !wanted(bpf_get_current_pid_tgid()) || !is_layered(descriptor))
		return 0;
	if (shape == SHAPE_NSPR_RECV && (PT_REGS_PARM4(ctx) & PR_MSG_PEEK))
		return 0;
	/* The upper half of an int argument's register is anyone's. */
	struct tls_call call = {
		.ssl = descriptor, .buffer = PT_REGS_PARM2(ctx), .count = (u32)PT_REGS_PARM3(ctx), .library = library,
		.shape = shape,
		.kind = nspr_writes(shape) ? CALL_WRITES : CALL_READS,
	};
	if (shape == SHAPE_NSPR_WRITEV) {
		/* At most 16 (prio.h: PR_MAX_IOVECTOR_SIZE); how much they hold is for the call to say. */
		call.blocks = (u32)call.count & 31;
		call.count = 0x7fffffff;
		call.memory = MEMORY_USER_NARROW;
	}
	return tls_enter(ctx, &call);
}

/* SSL_ImportFD returns a descriptor that has TLS from now on: a new session, whatever was at its address. */
INLINE int nss_imported(u64 descriptor, u64 library)
{
	u64 id = bpf_get_current_pid_tgid();
	struct session_key key = {.ssl = descriptor, .tgid = id >> 32};
	struct session fresh = {.library = library & (WITHOUT_BIO - 1)};

	if (!descriptor || !wanted(id))
		return 0;
	fresh.id = new_id();
	if (sessions.update(&key, &fresh))
		count(COUNTER_TABLE_FULL, 1);
	return 0;
}

INLINE int nss_return(struct pt_regs *ctx, int shape, u64 library, u64 stack)
{
	u64 id = bpf_get_current_pid_tgid();
	struct tls_call_key key = {};
	struct tls_call *call;
	struct session *s;
	int n = PT_REGS_RC(ctx), ready = 0;

	if (shape == SHAPE_NSS_IMPORT)
		return nss_imported(PT_REGS_RC(ctx), library);
	call = tls_returning(id, stack, &key);
	if (!call)
		return 0;
	if (recording() && (n > 0 || call->connection)) {
		s = session_of(call, id);
		if (s)
			bind(s, call, id);
		if (s && s->connection && n > 0 && n <= (int)call->count)
			ready = tls_moved(call, tls_around(call, key.stack), id, nspr_writes(shape) ? DIRECTION_SENT : DIRECTION_RECEIVED, n);
	}
	tls_calls.delete(&key);
	return ready;
}

int nss_enter_by_cookie(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx);
	nss_enter(ctx, cookie & 0xff, cookie >> 8);
	return NO_RETURN;
}

int nss_return_by_cookie(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx);
	return finish_uprobe(ctx, nss_return(ctx, cookie & 0xff, cookie >> 8, STACK_AT_EXIT(ctx, cookie)));
}

int nss_call_by_cookie(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx);
	int shape = cookie & 0xff;

	if (!is_at_entry(ctx, PT_REGS_IP(ctx))) {
		call_returns.call(ctx, RETURN_OF_NSS);
		return NO_RETURN;
	}
	if (shape == SHAPE_NSS_IMPORT)
		return is_switched(bpf_get_current_pid_tgid(), STACK_AT_ENTRY(ctx)) ? NO_RETURN : SHOW_RETURN;
	if (!nss_enter(ctx, shape, cookie >> 8))
		return NO_RETURN;
	return shows_return(bpf_get_current_pid_tgid(), STACK_AT_ENTRY(ctx));
}
