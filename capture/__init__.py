"""What to hook; kernel events → connections → byte streams; the command line. How a recording is made, in prose.

Data goes one way::

    kernel ──► sample ──► event ──► view ──► stream item ──► packet ──► pcapng
               (bytes)    (value)   (one     (Data, Gap,                   │
                                     end)     Opened, …)                   ▼
                                       exchange ◄── stream item ◄── packet (any capture)
                                          │
                                          └──► HAR, lines, statistics

**Before.** ``recorder`` starts a recording. While ``bpf.program`` has the kernel side compiled, ``tls_probes``
looks at every file that processes map (``processes``): ``tls_libraries`` has a row for each library, ``elf*``
and ``golang`` read symbols, ``openssl_internals``, ``openssl_static``, ``boringssl`` and
``located_libraries`` find what has none, ``rustls`` what compilers have named, and ``probe_catalog``
remembers (``cache_folder``: where). Where a probe may sit, ``probe_points`` and ``x86`` tell; ``call_shapes`` is the
contract with the kernel side. ``older_connections`` asks who is connected already, ``older_calls`` which threads are in
a library's call already and with what (``thread_stacks``, ``call_frames``, ``call_arguments``; ``older_reads`` where
that does not tell), ``targets``, ``networks`` and ``containers`` which processes and connections are meant. What
``rights`` are missing decides what is left out, and said.

**While it runs.** Four threads and a process. ``drain`` empties the ring and waits for no parser; what is not
handled yet is in memory (``arena``) or, where that has no room, on the disk (``spool``). ``new_code`` answers
processes that run code which was never looked at, or calls TLS from coroutines (``switched_stacks``), and ``guard``,
a process of its own, lets them go on if nobody answers; ``leases`` makes who writes to a probed file wait until its
probes are gone. ``pipeline`` does the rest: samples become values (``samples``, ``events``), and these stream items
(``connections``), which an exporter makes packets of; ends that found no room in the ring are told after what it had
(``late_ends``). ``outbox`` hands them to the file, or to a reader that may pause.

``connections`` binds TLS sessions to connections (``sessions``, ``inner_sessions`` for TLS in TLS), puts pieces
in order (``flows``, ``answers``), says why bytes are missing (``holes``), chooses which end of a local
connection is shown (``two_ends``), and names TLS that nothing was read of (``unread``, ``relays``,
``unreadable_tls``). A view (``views``) is one end of a connection on its way to being a stream; ``streams`` has
the items, all that exporters know of this package.

**At the end.** The kernel side is told to stop, what it has reported is drained, and ``balance`` draws up the
``ledger``: reported = captured + suppressed + filtered + mirrored + lost, by reason.

Sans-IO are those that turn values into values; ``tests/test_architecture.py`` holds them to it, and the imports
of all to this picture. Decisions, and the measurements behind them, are in docs/architecture.md.
"""
