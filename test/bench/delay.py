"""A link with a round trip: packets between the network of this process and one that it makes wait on their way.

Usage: delay.py ONE_WAY_SECONDS. Prints `ready` when the link is up, and ends, the other network with it, when its standard
input ends. The other network, /proc/PID/ns/net, has every address of 198.18.0.0/16; this side is 198.19.0.1. Not every
kernel has netem, but every Debian kernel has TUN devices. Whatever uses clush has Python.
"""

import collections
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
CLONE_NEWNET = 0x40000000
PACKET_BYTES = 65536


def open_tun(name, commands):
    """The device exists in the network that this process is in now."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    # A burst of all nodes at once must not be cut: a lost packet would cost far more than the round trip.
    for command in [f"link set {name} txqueuelen 20000 up", *commands]:
        subprocess.run(["ip", *command.split()], check=True)
    return tun


def read_all(tun):
    while True:
        try:
            yield os.read(tun, PACKET_BYTES)
        except BlockingIOError:
            return


def relay(near, far, delay):
    other = {near: far, far: near}
    on_its_way = collections.deque()  # of (when due, where to, packet), in the order of the first
    while True:
        wait = max(0, on_its_way[0][0] - time.monotonic()) if on_its_way else None
        readable, _, _ = select.select([near, far, sys.stdin], [], [], wait)
        if sys.stdin in readable:
            return
        for tun in readable:
            for packet in read_all(tun):
                on_its_way.append((time.monotonic() + delay, other[tun], packet))
        while on_its_way and on_its_way[0][0] <= time.monotonic():
            _, tun, packet = on_its_way.popleft()
            os.write(tun, packet)


def main():
    delay = float(sys.argv[1])
    near = open_tun("near", ["addr add 198.19.0.1/32 dev near", "route add 198.18.0.0/16 dev near src 198.19.0.1"])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    here = ["link set lo up", "route add local 198.18.0.0/16 dev lo", "route add 198.19.0.0/16 dev far"]
    far = open_tun("far", here)
    os.nice(-20)  # the programs that are measured take both cores; packets must not be late for that
    print("ready", flush=True)
    relay(near, far, delay)


main()
