#!/usr/bin/env python3
"""Shows the documented network at work: one hub, two spokes, a host on each LAN, everything encrypted.

    scripts/demo           build, run the show, remove everything
    scripts/demo --keep    leave the network running, and print the commands to play with
    scripts/demo --down    remove a network that --keep has left

Ends with `demo: ok` and status 0; anything else is a failure, with the reason.
"""
import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from lab import ROOT, Lab, LabError, Ping, clear_packets, packets, run, seed_network, wait_until

KEPT = Path("/run/dmvpn-demo.json")
HUB_LAN, SPOKE1_LAN, SPOKE2_LAN = "192.168.1.10", "192.168.2.10", "192.168.3.10"


class Show:
    """Progress lines: what is going on, then what came of it."""

    def __init__(self):
        self.begin = time.monotonic()

    def step(self, text):
        print(f"[{time.monotonic() - self.begin:5.1f} s] {text} ...", flush=True)

    def ok(self, text):
        print(f"           {text}", flush=True)


# Where cargo puts what it builds.
BUILT = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"


def build():
    subprocess.run(["cargo", "build", "--release", "--bins"], cwd=ROOT, check=True)
    return BUILT


def up_peers(box):
    """Peers of a box that have both an SA and an overlay address."""
    return [peer for peer in box.show("dmvpn")["peers"] if peer["state"] == "up"]


def peer_state(box, overlay):
    return next((peer for peer in up_peers(box) if peer["overlay"] == overlay), None)


def forwarded(box):
    """Packets that the box has decrypted so far."""
    return sum(sa["packets"] for sa in box.show("sas")["sas"] if sa["direction"] == "in")


def ping(lab, ns, target, count=5, interval=0.2):
    return Ping(lab, ns, target, count, interval).lossless()


def rekey_everything(boxes):
    for box in boxes.values():
        box.ctl("rekey", "esp")
    time.sleep(4)
    for box in boxes.values():
        box.ctl("rekey", "ike")


def spis(box):
    return {sa["spi"] for sa in box.show("sas")["sas"]}


def act(lab, binaries, show):
    show.step("making the network: internet, hub, spoke1, spoke2, a host on each LAN")
    boxes, hosts, inet = seed_network(lab, binaries)
    hub, spoke1, spoke2 = boxes["hub"], boxes["spoke1"], boxes["spoke2"]
    captures = [lab.capture(inet, name) for name in boxes]
    for box in boxes.values():
        box.start()
    for box in boxes.values():
        box.ready()
    show.ok("three dmvpnd are running")

    show.step("spokes register with the hub")
    wait_until("both spokes registered", lambda: len(up_peers(hub)) == 2, 30)
    for peer in up_peers(hub):
        show.ok(f"{peer['overlay']} is at {peer['nbma']}")

    show.step("hub LAN <-> spoke1 LAN")
    show.ok(f"{ping(lab, hosts['lan1'], SPOKE1_LAN)} of 5 answered from the hub, "
            f"{ping(lab, hosts['lan2'], HUB_LAN)} of 5 from the spoke")

    show.step("spoke1 LAN -> spoke2 LAN: first through the hub, then directly")
    before = forwarded(hub)
    first = Ping(lab, hosts["lan2"], SPOKE2_LAN, 10, 0.2)
    wait_until("shortcut on both spokes",
               lambda: peer_state(spoke1, "10.0.0.3") and peer_state(spoke2, "10.0.0.2"), 15)
    sent = first.lossless()
    through = forwarded(hub) - before
    if not through:
        raise LabError("the first packets did not go through the hub")
    show.ok(f"{sent} of {sent} answered, the first ones through the hub ({through} packets)")
    before = forwarded(hub)
    sent = ping(lab, hosts["lan2"], SPOKE2_LAN, 30, 0.1)
    if forwarded(hub) != before:
        raise LabError(f"the hub still forwards: {forwarded(hub) - before} packets during {sent} pings")
    show.ok(f"{sent} more pings: the hub's counters stood still")

    show.step("30 s of traffic while every SA is rekeyed")
    old = {name: spis(box) for name, box in boxes.items()}
    pings = [Ping(lab, hosts["lan2"], SPOKE2_LAN, 1500, 0.02), Ping(lab, hosts["lan1"], SPOKE1_LAN, 1500, 0.02),
             Ping(lab, hosts["lan3"], HUB_LAN, 1500, 0.02)]
    time.sleep(2)
    rekey_everything(boxes)
    show.ok(f"{sum(p.lossless() for p in pings)} pings, none lost")
    for name, box in boxes.items():
        new = {sa["spi"] for sa in box.show("sas")["sas"] if sa["state"] == "active"}
        if new & old[name]:
            raise LabError(f"{name} still uses SAs from before the rekey: {new & old[name]}")

    show.step("the hub is killed; the shortcut lives on")
    hub.stop(signal.SIGKILL)
    show.ok(f"{ping(lab, hosts['lan2'], SPOKE2_LAN, 30, 0.1)} of 30 answered between the spokes")

    show.step("the hub comes back")
    hub.start()
    hub.ready()
    wait_until("both spokes registered again", lambda: len(up_peers(hub)) == 2, 40)
    show.ok(f"{ping(lab, hosts['lan2'], HUB_LAN)} of 5 answered from the hub's LAN")

    show.step("what was on the WAN")
    for capture in captures:
        clear = clear_packets(capture)
        if clear:
            raise LabError(f"packets in the clear: {clear[0]} (and {len(clear) - 1} more)")
    esp, ike = (sum(packets(capture, what) for capture in captures) for what in ("ip proto 50", "udp port 500 or 4500"))
    if not esp or not ike:
        raise LabError(f"the captures hold {esp} ESP and {ike} IKE packets")
    show.ok(f"{esp} ESP and {ike} IKE packets, nothing else")
    return boxes, hosts


def keep(lab, boxes, hosts):
    lab.keep = True
    KEPT.write_text(json.dumps({"namespaces": lab.namespaces, "dir": str(lab.dir),
                                "pids": [process.pid for process in lab.processes]}))
    ctl = BUILT / "dmvpnctl"
    print("\nThe network is running. Try:")
    for name, box in boxes.items():
        print(f"    {ctl} --socket {box.socket} show dmvpn      # {name}")
    print("        also: show nhrp, ike, sas, routes, neighbors, ports, drops, workers, config; rekey, clear, reload; --json")
    print(f"    ip netns exec {hosts['lan2']} ping {SPOKE2_LAN}")
    print(f"    tail -f {lab.dir}/hub.log")
    print("    scripts/demo --down                                # removes it")


def down():
    if not KEPT.exists():
        raise LabError("no network was left running")
    kept = json.loads(KEPT.read_text())
    for pid in kept["pids"]:
        try:
            process = os.pidfd_open(pid)
            signal.pidfd_send_signal(process, signal.SIGTERM)
        except ProcessLookupError:
            continue
        select.select([process], [], [], 5)  # until it has ended
        os.close(process)
    for ns in kept["namespaces"]:
        run("ip", "netns", "delete", ns, check=False)
    run("rm", "-rf", kept["dir"])
    KEPT.unlink()


def main():
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave the network running")
    parser.add_argument("--down", action="store_true", help="remove a network that --keep has left")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("demo: failed: it makes network namespaces and so must run as root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("demo: failed: terminated"))
    try:
        if arguments.down:
            down()
            return
        if arguments.keep and KEPT.exists():
            raise LabError("a network is already running; remove it with scripts/demo --down")
        binaries = build()
        lab, show = Lab(), Show()
        try:
            boxes, hosts = act(lab, binaries, show)
            if arguments.keep:
                keep(lab, boxes, hosts)
        finally:
            lab.close()
    except (LabError, subprocess.CalledProcessError) as error:
        sys.exit(f"demo: failed: {error}")
    except KeyboardInterrupt:
        sys.exit("demo: failed: interrupted")
    print("demo: ok")


if __name__ == "__main__":
    main()
