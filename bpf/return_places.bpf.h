/* SPDX-License-Identifier: GPL-2.0-or-later
 * Returns that no probe at a call's entry has arranged for: of calls on switched stacks (stacks.bpf.h), and of calls that
 * were entered before the recording (capture/older_calls.py). A probe waits at the address that they return to, in one
 * process alone.
 *
 * It is of uprobe_multi's plain type. Of a session's program that does not run, as none does in other processes, the
 * kernel believes that it wants the function's return to be shown.
 */
int return_place(struct pt_regs *ctx)
{
	u64 stack = STACK_AT_RETURN(ctx);
	struct tls_call_key key = {};
	struct tls_call *call = tls_returning(bpf_get_current_pid_tgid(), stack, &key);
	int ready;

	if (!call)
		return 0;
	if (call->older && !know_older_call(call, bpf_get_current_pid_tgid())) {
		tls_calls.delete(&key);
		return 0;
	}
	if (call->shape >= SHAPE_NSPR_READ)
		ready = nss_return(ctx, call->shape, call->library, stack);
	else
		ready = shape_return(ctx, stack);
	if (ready)
		emit_from_place.call(ctx, 0);
	return 0;
}
