"""Takes away from a process what averaging numbers doesn't need: files, network, other processes, memory without end.

Every measure is applied on its own, as far as the kernel, the container and the user allow, so that the strongest
mixture holds everywhere: as root or not, with or without user namespaces, inside a container's own system call filter.
What was granted is told in an :class:`Isolation`. Linux numbers and structures are those of the kernel's uapi headers.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NOBODY: Final = 65534

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER: Final = 2
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
_CAPABILITY_VERSION_3: Final = 0x20080522

# sock_filter operations: load a word of seccomp_data, jump if equal or greater-or-equal, return.
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_DATA_NUMBER, _DATA_ARCHITECTURE = 0, 4
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_REFUSE: Final = 0x00050000 | 1  # SECCOMP_RET_ERRNO with EPERM
_X32_BIT: Final = 0x40000000

# What computing, memory, the clock, and reading and writing open pipes need: numbers on x86_64 and on aarch64.
# Not in it, on purpose: opening anything, sockets, clone, execve, ptrace, kill, prctl, prlimit64 and ioctl.
# fmt: off
_ALLOWED_CALLS: Final = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "close": (3, 57), "fstat": (5, 80),
    "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216),
    "brk": (12, 214), "madvise": (28, 233), "mincore": (27, 232), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "setitimer": (38, 103),
    "restart_syscall": (219, 128), "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293),
    "membarrier": (324, 283), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "times": (100, 153), "getrusage": (98, 165), "sysinfo": (99, 179), "uname": (63, 160),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94),
}
# fmt: on


@dataclass(frozen=True, slots=True)
class _Architecture:
    audit: int
    column: int


_ARCHITECTURES: Final = {"x86_64": _Architecture(0xC000003E, 0), "aarch64": _Architecture(0xC00000B7, 1)}


@dataclass(frozen=True, slots=True)
class Isolation:
    """Which of the measures that depend on kernel and user are in force; the resource limits always are."""

    network_namespace: bool
    system_call_filter: bool
    unprivileged_user: bool

    @property
    def network_cut(self) -> bool:
        """No packet leaves: there is no network to send on, or no system call to make a socket with."""
        return self.network_namespace or self.system_call_filter


def lock_down(memory: int, parent: int) -> Isolation:
    """Apply all measures to the calling process, for good. Only file descriptors that are open now can be used after.

    Args:
        memory: bytes that may be allocated on top of what is in use now.
        parent: process id; the calling process is killed when that one's starting thread ends.

    Raises:
        OSError: a resource limit could not be set.
    """
    in_use = address_space_in_use()
    prefer_for_out_of_memory_kill()
    control_process(_PR_SET_NO_NEW_PRIVS, 1)
    privileged = os.geteuid() == 0
    network_namespace = privileged and leave_network(_CLONE_NEWNET | _CLONE_NEWIPC)
    if privileged:
        become_nobody()
    if not network_namespace:
        network_namespace = leave_network(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC)
    drop_capabilities()
    limit_resources(in_use + memory)
    # A change of credentials makes the kernel forget both, so they come after the user is settled.
    control_process(_PR_SET_DUMPABLE, 0)
    end_with_parent(parent)
    unprivileged = os.geteuid() != 0
    return Isolation(network_namespace, filter_system_calls(), unprivileged)


def address_space_in_use() -> int:
    """Bytes of address space of this process, which is what RLIMIT_AS limits."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def prefer_for_out_of_memory_kill() -> None:
    """If the machine or the container runs out of memory, this process goes first, not the node."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def leave_network(flags: int) -> bool:
    """Move into an empty network namespace, where not even loopback is up; False if that isn't allowed."""
    libc = _libc()
    return libc is not None and libc.unshare(flags) == 0


def become_nobody() -> bool:
    """Give up root's user and groups; False if that isn't allowed (containers without CAP_SETUID)."""
    try:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    except OSError:
        return False
    return True


def drop_capabilities() -> None:
    """Give up all capabilities: a new user namespace, for one, grants all of them inside."""
    libc = _libc()
    if libc is not None:
        header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
        nothing = ctypes.create_string_buffer(struct.pack("=6I", 0, 0, 0, 0, 0, 0))
        libc.capset(header, nothing)


def limit_resources(address_space: int) -> None:
    """Bound memory, and forbid new file descriptors, file content, core dumps, processes and threads."""
    # A descriptor must be below this limit, and the lowest free one is always taken: with all below it in use, none
    # can be opened. This holds on every architecture, with or without a system call filter.
    opened = _lowest_free_descriptor()
    for limit, value in (
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_NOFILE, opened),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        # What the process was started with may be lower already, and can't be raised again.
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


def end_with_parent(parent: int) -> None:
    """Be killed with the parent, however it ends; ends at once if it is gone already."""
    control_process(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def filter_system_calls() -> bool:
    """Let the kernel refuse every system call but those of computing; False where there is no such filter."""
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None or _libc() is None:
        return False
    program = ctypes.create_string_buffer(_filter_program(architecture))
    length = (len(program) - 1) // 8
    # struct sock_fprog: the number of instructions, then their address.
    description = ctypes.create_string_buffer(struct.pack("@HP", length, ctypes.addressof(program)))
    return control_process(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(description))


def control_process(option: int, first: int, second: int = 0) -> bool:
    """prctl(2); False if the kernel refuses or has none."""
    libc = _libc()
    if libc is None:
        return False
    arguments = [ctypes.c_ulong(value) for value in (first, second, 0, 0)]
    return bool(libc.prctl(option, *arguments) == 0)


def _filter_program(architecture: _Architecture) -> bytes:
    allowed = sorted(numbers[architecture.column] for numbers in _ALLOWED_CALLS.values())
    instructions = [
        (_LOAD, 0, 0, _DATA_ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture.audit),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _DATA_NUMBER),
        (_JUMP_GREATER_EQUAL, len(allowed), 0, _X32_BIT),
    ]
    for position, number in enumerate(allowed):
        # To the last instruction: over the numbers that follow and the refusal.
        instructions.append((_JUMP_EQUAL, len(allowed) - position, 0, number))
    instructions += [(_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def _lowest_free_descriptor() -> int:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
