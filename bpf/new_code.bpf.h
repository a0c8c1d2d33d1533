/* SPDX-License-Identifier: GPL-2.0-or-later
 * Code that was not looked at yet: a wanted process executes a file, or maps one as code, that may hold a TLS
 * library. User space is told, and looks. With HOLD_NEW_CODE the process stops for the milliseconds that takes:
 * the signal acts before it returns to its own code, so that not a byte is missed.
 */
#define PROT_EXEC 4
#define SIGSTOP 19
#define PIDTYPE_PGID 2

struct file_key {
	u64 inode;
	u32 device, pad;	/* as the kernel has it: major << 20 | minor */
};
/* Files that were looked at. Filled by user space; a cache, for one that is told of twice costs little. */
BPF_TABLE("lru_hash", struct file_key, u8, known_files, 65536);
/* Processes that we stopped. key: tgid. Deleted by user space when it lets them go on; the guard's list. */
BPF_HASH(held, u32, u8, 8192);

/* Whether a stop would be noticed: a shell with job control puts each job in a process group of its own, waits for
 * stops too, and would take it for the user's. */
INLINE int is_a_shell_s_job(void)
{
	u64 task = 0, parent = 0, signal = 0, group = 0, parent_group = 0;

	READ_KERNEL(task, bpf_get_current_task() + OFFSET_task_struct_group_leader);
	READ_KERNEL(signal, task + OFFSET_task_struct_signal);
	READ_KERNEL(group, signal + OFFSET_signal_struct_pids + 8 * PIDTYPE_PGID);
	READ_KERNEL(parent, task + OFFSET_task_struct_real_parent);
	READ_KERNEL(signal, parent + OFFSET_task_struct_signal);
	READ_KERNEL(parent_group, signal + OFFSET_signal_struct_pids + 8 * PIDTYPE_PGID);
	return group != parent_group;
}

INLINE void new_code(u64 id, u64 file)
{
	struct file_key key = {};
	u64 inode = 0, super = 0;
	u32 tgid = id >> 32;
	int zero = 0;
	u8 one = 1;
	struct settings *s = settings.lookup(&zero);
	struct sample *r;

	if (!s || !file)
		return;
	READ_KERNEL(inode, file + OFFSET_file_f_inode);
	READ_KERNEL(key.inode, inode + OFFSET_inode_i_ino);
	READ_KERNEL(super, inode + OFFSET_inode_i_sb);
	READ_KERNEL(key.device, super + OFFSET_super_block_s_dev);
	if (known_files.lookup(&key))
		return;
	r = ring.ringbuf_reserve(sizeof(*r));
	if (!r) {
		count(COUNTER_EVENTS_RING_FULL, 1);
		return;
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->kind = SAMPLE_NEW_CODE;
	r->time = bpf_ktime_get_ns();
	r->position = key.inode;
	r->length = key.device;
	r->tgid = tgid;
	r->tid = id;
	/* Listed before it is stopped, told after: whoever dies in between leaves nothing behind. */
	if ((s->flags & HOLD_NEW_CODE) && !is_a_shell_s_job() && !held.update(&tgid, &one)) {
		r->reason = 1;
		bpf_send_signal(SIGSTOP);
	}
	submit(r);
}

int enter_mmap(struct enter_arguments *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 fd = ctx->args[4];

	if (!(ctx->args[2] & PROT_EXEC) || (s32)fd < 0 || !wanted(id))
		return 0;
	new_code(id, file_of(fd));
	return 0;
}
