"""Network namespaces for scripts/fleet: each worker's own, all on a bridge in another one of the script."""

import ctypes
import os
import shutil
import subprocess
import time

CLONE_NEWNET = 0x40000000
# Of the range for tests of networks (RFC 2544). It exists only inside of the namespaces made here.
HUB = "198.18.0.1"
libc = ctypes.CDLL(None, use_errno=True)


def address(number):
    """Of a worker, on the bridge."""
    return f"198.18.0.{number + 1}"


def ip(*lines):
    """Runs `ip` with these commands; whatever it makes goes with the namespace, and that with its last process."""
    done = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, capture_output=True)
    if done.returncode != 0:
        raise OSError(f"ip: {done.stderr.strip()}")


def make_hub():
    """Moves this process to a network namespace of its own with a bridge."""
    if os.geteuid() != 0:
        raise OSError("not root")
    for tool in ["ip", "unshare", "nsenter"]:
        if not shutil.which(tool):
            raise OSError(f"no program {tool}")
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")
    ip("link set lo up", "link add hub type bridge", f"addr add {HUB}/24 dev hub", "link set hub up")


def plug_in(process, number):
    """Joins the namespace of a process, which waits for it, to the bridge."""
    end = time.monotonic() + 10
    while os.stat(f"/proc/{process.pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
        if time.monotonic() > end or process.poll() is not None:
            raise OSError("unshare made no namespace")
        time.sleep(0.002)
    name = f"w{number}-{process.pid}"[:15]
    ip(f"link add {name} type veth peer name eth0 netns {process.pid}", f"link set {name} master hub up")
    inside = f"link set lo up\naddr add {address(number)}/24 dev eth0\nlink set eth0 up\n"
    enter = ["nsenter", "--target", str(process.pid), "--net", "ip", "-batch", "-"]
    subprocess.run(enter, input=inside, text=True, check=True, capture_output=True)
