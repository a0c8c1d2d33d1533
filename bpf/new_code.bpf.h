/* SPDX-License-Identifier: GPL-2.0-or-later
 * Code that was not looked at yet: a wanted process executes a file, or maps one as code, that may hold a TLS
 * library. User space is told, and looks. Where `holding` is set the process stops for the milliseconds that takes:
 * the signal acts before it returns to its own code, so that not a byte is missed.
 */
#define PROT_EXEC 4
#define SIGCHLD 17
#define SIGSTOP 19
/* Of task_struct's ptrace. */
#define PT_PTRACED 1
#define PT_SEIZED 0x10000
#define PIDTYPE_PGID 2
#define PIDTYPE_SID 3
/* The kernel keeps a flag above a time's nanoseconds. */
#define NANOSECONDS 0x3fffffff

/* An inode, and which of its contents: it may be written over, or freed and used again. */
struct file_key {
	u64 inode;
	u64 changed;		/* ctime, ns */
	u64 size;
	u32 device, pad;	/* as the kernel has it: major << 20 | minor */
};
/* Files that were looked at. Filled by user space; a cache, for one that is told of twice costs little. */
BPF_TABLE("lru_hash", struct file_key, u8, known_files, 65536);
/* A process was stopped. One that goes on may be stopped again at once, for something else. */
struct hold {
	u64 since;
	u32 tgid, pad;
};
/* Value: of no use. Deleted by user space when it lets them go on; the guard's list. */
BPF_HASH(held, struct hold, u8, 8192);
/* Whether to stop processes: 1 or 0. Set by user space, cleared by the guard when nobody answers. */
BPF_ARRAY(holding, u32, 1);
BPF_RINGBUF_OUTPUT(new_code_ring, NEW_CODE_RING_BYTES / 4096);

/* Whether a stop would be noticed: a shell with job control puts each job in a process group of its own, waits for
 * stops too, and would take it for the user's. It has a terminal, or (set -m in a script) a shell's name; fish waits for
 * them without job control, too. Others that make groups (Go's Setpgid) wait for the end alone, and who makes a session
 * never had job control over it. But script(1) stops with what it has given a terminal: SIGCHLD, which it has blocked to
 * read it, tells it, and comes once for a stop and an end that are close, so that it would wait for the end for good. */
INLINE int is_watched(void)
{
	u64 task = 0, parent = 0, signal = 0, group = 0, parent_group = 0, tty = 0;
	u64 session = 0, parent_session = 0, parent_blocks = 0;
	char comm[COMM_BYTES] = {};
	int i;

	READ_KERNEL(task, bpf_get_current_task() + OFFSET_task_struct_group_leader);
	READ_KERNEL(signal, task + OFFSET_task_struct_signal);
	READ_KERNEL(group, signal + OFFSET_signal_struct_pids + 8 * PIDTYPE_PGID);
	READ_KERNEL(session, signal + OFFSET_signal_struct_pids + 8 * PIDTYPE_SID);
	READ_KERNEL(tty, signal + OFFSET_signal_struct_tty);
	READ_KERNEL(parent, task + OFFSET_task_struct_real_parent);
	READ_KERNEL(signal, parent + OFFSET_task_struct_signal);
	READ_KERNEL(parent_group, signal + OFFSET_signal_struct_pids + 8 * PIDTYPE_PGID);
	READ_KERNEL(parent_session, signal + OFFSET_signal_struct_pids + 8 * PIDTYPE_SID);
	READ_KERNEL(parent_blocks, parent + OFFSET_task_struct_blocked);
	bpf_probe_read_kernel_str(comm, sizeof(comm), (void *)(parent + OFFSET_task_struct_comm));
	if (comm[0] == 'f' && comm[1] == 'i' && comm[2] == 's' && comm[3] == 'h' && !comm[4])
		return 1;
	if (group == parent_group)
		return 0;
	if (session != parent_session)
		return tty && (parent_blocks & 1 << (SIGCHLD - 1));
	if (tty)
		return 1;
	for (i = 0; i < COMM_BYTES - 2; i++)
		if (comm[i] == 's' && comm[i + 1] == 'h' && !comm[i + 2])
			return 1;
	return 0;
}

/* Whether a debugger (gdb, Delve) runs the thread: each signal stops it there, the stop's as well as the one that ends
 * it, and who debugs is shown both. Who seizes, as strace does, lets stops be stops. */
INLINE int is_debugged(void)
{
	u32 ptrace = 0;

	READ_KERNEL(ptrace, bpf_get_current_task() + OFFSET_task_struct_ptrace);
	return (ptrace & (PT_PTRACED | PT_SEIZED)) == PT_PTRACED;
}

/* Stops the process until user space has answered. 1: it will be. Listed before it is stopped, told after: whoever dies
 * in between leaves nothing behind. Sent to this thread: a signal that the process has pending already is not sent to it
 * again, and this one must not run until another thread gets round to it. */
INLINE int hold_process(u32 tgid, u64 now)
{
	int zero = 0;
	u32 *hold = holding.lookup(&zero);
	struct hold key = {.since = now, .tgid = tgid};
	u8 yes = 1;

	if (!hold || !*hold || is_debugged() || is_watched() || held.update(&key, &yes))
		return 0;
	bpf_send_signal_thread(SIGSTOP);
	return 1;
}

/* `name`: the path that exec was given, in the kernel's memory; 0: none. */
INLINE void new_code(u64 id, u64 file, u64 name)
{
	struct file_key key = {};
	u64 inode = 0, super = 0, now;
	s64 seconds = 0;
	u32 tgid = id >> 32, nanoseconds = 0;
	int zero = 0;
	struct settings *s = settings.lookup(&zero);
	struct new_code_sample *r;

	if (!s || !file)
		return;
	READ_KERNEL(inode, file + OFFSET_file_f_inode);
	READ_KERNEL(key.inode, inode + OFFSET_inode_i_ino);
	READ_KERNEL(super, inode + OFFSET_inode_i_sb);
	READ_KERNEL(key.device, super + OFFSET_super_block_s_dev);
	READ_KERNEL(key.size, inode + OFFSET_inode_i_size);
	READ_KERNEL(seconds, inode + OFFSET_inode_ctime_sec);
	READ_KERNEL(nanoseconds, inode + OFFSET_inode_ctime_nsec);
	key.changed = seconds * 1000000000 + (nanoseconds & NANOSECONDS);
	if (known_files.lookup(&key))
		return;
	r = new_code_ring.ringbuf_reserve(sizeof(*r));
	if (!r) {
		count(COUNTER_EVENTS_RING_FULL, 1);
		return;
	}
	__builtin_memset(r, 0, sizeof(*r));
	now = bpf_ktime_get_ns();
	r->head.kind = SAMPLE_NEW_CODE;
	r->head.time = now;
	r->head.position = key.inode;
	r->head.length = key.device;
	r->head.tgid = tgid;
	r->head.tid = id;
	r->changed = key.changed;
	r->size = key.size;
	if (name)
		bpf_probe_read_kernel_str(r->path, sizeof(r->path), (void *)name);
	r->head.reason = hold_process(tgid, now);
	new_code_ring.ringbuf_submit(r, RINGBUF_FORCE_WAKEUP);
}

int enter_mmap(struct enter_arguments *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 fd = ctx->args[4];

	if (!(ctx->args[2] & PROT_EXEC) || (s32)fd < 0 || !wanted(id))
		return 0;
	new_code(id, file_of(fd), 0);
	return 0;
}
