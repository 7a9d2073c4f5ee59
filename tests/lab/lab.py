"""Networks of namespaces for the demo and the system tests.

A Lab owns everything it makes: namespaces, links, processes, files. All its namespaces carry a name of
their own, so labs run side by side; `close` removes every trace and ends only what the lab started.
"""
import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class LabError(Exception):
    """What went wrong, in a sentence for a person."""


def run(*command, check=True, timeout=60):
    """Runs a command to its end and returns it; with `check`, a failure is a LabError."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode:
        raise LabError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done


def wait_until(what, condition, seconds, every=0.1):
    """Polls `condition` until it returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    last = None
    while time.monotonic() < deadline:
        try:
            last = condition()
            if last:
                return last
        except LabError as error:
            last = error
        time.sleep(every)
    raise LabError(f"not within {seconds} s: {what} (last seen: {last})")


class Lab:
    def __init__(self, name=None):
        self.name = name or f"dm{os.getpid():x}"
        self.dir = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self.namespaces = []
        self.processes = []
        self.keep = False
        atexit.register(self.close)

    def netns(self, short):
        """Makes a namespace without IPv6 and returns its full name."""
        full = f"{self.name}-{short}"
        run("ip", "netns", "add", full)
        self.namespaces.append(full)
        self.inside(full, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
        self.inside(full, "ip", "link", "set", "lo", "up")
        return full

    def link(self, a, a_dev, b, b_dev):
        """A cable between two namespaces. Its ends do no checksum or segmentation offload: whoever
        reads them by packet socket must see what a wire would carry."""
        run("ip", "link", "add", a_dev, "netns", a, "type", "veth", "peer", "name", b_dev, "netns", b)
        for ns, dev in ((a, a_dev), (b, b_dev)):
            self.inside(ns, "ethtool", "-K", dev, "rx", "off", "tx", "off", "sg", "off", "tso", "off", "gso", "off", "gro", "off",
                        check=False)
            self.inside(ns, "ip", "link", "set", dev, "up")

    def address(self, ns, dev, address):
        self.inside(ns, "ip", "address", "add", address, "dev", dev)

    def route(self, ns, prefix, via):
        self.inside(ns, "ip", "route", "add", prefix, "via", via)

    def inside(self, ns, *command, **kwargs):
        """Runs a command in a namespace to its end."""
        return run("ip", "netns", "exec", ns, *command, **kwargs)

    def start(self, ns, *command, log):
        """Starts a command in a namespace; its output goes to a file of the lab."""
        with open(self.dir / log, "ab") as output:
            process = subprocess.Popen(["ip", "netns", "exec", ns, *command], stdout=output, stderr=output,
                                       stdin=subprocess.DEVNULL, start_new_session=True)
        self.processes.append(process)
        return process

    def end(self, process, how=signal.SIGTERM, seconds=5):
        """Ends a process of this lab and waits for it."""
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(f"/run/dpdk/dmvpn{process.pid}", ignore_errors=True)  # a dmvpnd that is killed leaves it
        if process in self.processes:
            self.processes.remove(process)

    def capture(self, ns, dev):
        """Starts a capture of a device; returns the file."""
        file = self.dir / f"{ns}-{dev}.pcap"
        self.start(ns, "tcpdump", "-i", dev, "--immediate-mode", "-U", "-s", "0", "-Z", "root", "-w", str(file), log=f"{file.stem}.tcpdump")
        wait_until(f"capture of {dev} in {ns}", file.exists, 10, every=0.02)
        return file

    def close(self):
        if self.keep:
            return
        for process in list(self.processes):
            self.end(process)
        for ns in reversed(self.namespaces):
            run("ip", "netns", "delete", ns, check=False)
        self.namespaces.clear()
        shutil.rmtree(self.dir, ignore_errors=True)


class Box:
    """A dmvpnd in a namespace of its own, with a configuration file of the lab."""

    def __init__(self, lab, short, config, binaries, replace=()):
        """`config`: a file to start from. `replace`: (pattern, text) pairs for its text."""
        self.lab, self.name, self.binaries = lab, short, binaries
        self.ns = lab.netns(short)
        self.socket = lab.dir / f"{short}.sock"
        text = Path(config).read_text()
        for pattern, replacement in [(r'(?m)^socket *=.*$', f'socket = "{self.socket}"'), *replace]:
            text, count = re.subn(pattern, replacement, text)
            if not count:
                raise LabError(f"{config} has nothing like {pattern}")
        self.config = lab.dir / f"{short}.toml"
        self.config.write_text(text)
        self.process = None

    def start(self):
        self.process = self.lab.start(self.ns, str(self.binaries / "dmvpnd"), "--config", str(self.config),
                                      log=f"{self.name}.log")

    def ready(self, seconds=15):
        """Waits until the daemon answers its socket."""
        def answers():
            if self.process.poll() is not None:
                raise LabError(f"{self.name} ended with status {self.process.returncode}: {self.log_tail()}")
            return self.show("ports")
        wait_until(f"{self.name} answers", answers, seconds)

    def stop(self, how=signal.SIGTERM):
        self.lab.end(self.process, how)

    def ctl(self, *words, timeout=10):
        return run(str(self.binaries / "dmvpnctl"), "--socket", str(self.socket), *words, timeout=timeout)

    def show(self, what):
        return json.loads(self.ctl("--json", "show", what).stdout)

    def log_tail(self, lines=12):
        file = self.lab.dir / f"{self.name}.log"
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:]) if file.exists() else ""


class Ping:
    """A ping in the background; its result can be asked for when it has ended."""

    def __init__(self, lab, ns, target, count, interval, size=56):
        self.file = lab.dir / f"ping-{ns}-{target}-{time.monotonic_ns()}"
        self.process = lab.start(ns, "ping", "-n", "-q", "-s", str(size), "-c", str(count), "-i", str(interval), "-W", "2",
                                 target, log=self.file.name)
        self.lab, self.what, self.seconds = lab, f"ping from {ns} to {target}", count * interval

    def result(self):
        """(sent, received), after the last answer."""
        try:
            self.process.wait(self.seconds + 20)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.what} does not end") from None
        self.lab.processes.remove(self.process)
        match = re.search(r"(\d+) packets transmitted, (\d+) (?:packets )?received", self.file.read_text())
        if not match:
            raise LabError(f"{self.what}: {self.file.read_text().strip()}")
        if "duplicates" in self.file.read_text():
            raise LabError(f"{self.what}: answered twice")
        return int(match[1]), int(match[2])

    def lossless(self):
        sent, received = self.result()
        if sent != received:
            raise LabError(f"{self.what}: {sent - received} of {sent} lost")
        return sent


def seed_network(lab, binaries, replace=()):
    """The documented network: the Internet as a router, hub and two spokes, one host on each LAN.

    Returns (boxes by name, hosts by name, the router's namespace). Nothing is started."""
    inet = lab.netns("inet")
    lab.inside(inet, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    boxes, hosts = {}, {}
    for number, (name, gateway) in enumerate(
            (("hub", "198.51.100.42/30"), ("spoke1", "203.0.113.1/30"), ("spoke2", "203.0.113.17/30")), start=1):
        box = Box(lab, name, ROOT / f"config/examples/{name}.toml", binaries, replace)
        host = lab.netns(f"lan{number}")
        lab.link(inet, name, box.ns, "eth0")
        lab.address(inet, name, gateway)
        lab.link(box.ns, "eth1", host, "eth0")
        lab.address(host, "eth0", f"192.168.{number}.10/24")
        lab.route(host, "default", f"192.168.{number}.1")
        boxes[name], hosts[f"lan{number}"] = box, host
    return boxes, hosts, inet


def clear_packets(pcap, among=""):
    """Lines of tcpdump for whatever in a WAN capture (or `among` some of it) is neither IKE, ESP nor ARP."""
    rest = "not (arp or udp port 500 or udp port 4500 or ip proto 50)"
    done = run("tcpdump", "-n", "-r", str(pcap), f"({among}) and {rest}" if among else rest, check=False)
    if "reading from file" not in done.stderr:
        raise LabError(f"cannot read {pcap}: {done.stderr.strip()}")
    return done.stdout.splitlines()


def packets(pcap, what=""):
    """How many packets of a capture match a filter."""
    return len(run("tcpdump", "-n", "-r", str(pcap), what, check=False).stdout.splitlines())
