use serde_json::json;

use super::*;

#[test]
fn times_as_on_routers() {
    for (seconds, text) in [
        (0, "00:00:00"),
        (754, "00:12:34"),
        (86399, "23:59:59"),
        (86400, "1d00h"),
        (604_799, "6d23h"),
        (691_200, "1w1d"),
    ] {
        assert_eq!(time(&json!(seconds)), text);
    }
    assert_eq!(time(&Value::Null), "-");
}

#[test]
fn peers_in_the_columns_that_operators_know() {
    let answer = json!({ "peers": [
        { "tunnel": "tun0", "nbma": "198.51.100.41", "overlay": "10.0.0.1", "state": "up", "kind": "nhs", "nat": false,
          "up_for": 90, "received": 1200, "sent": 7, "identity": "198.51.100.41" },
        { "tunnel": "tun0", "nbma": "203.0.113.18", "overlay": "10.0.0.3", "state": "up", "kind": "cached", "nat": true,
          "up_for": 100_000, "received": 3, "sent": 4, "identity": "10.1.1.1" },
        { "tunnel": "tun1", "nbma": null, "overlay": "10.0.1.9", "state": "nhrp", "kind": "incomplete", "nat": false,
          "up_for": null, "received": 0, "sent": 0, "identity": null },
    ] });
    assert_eq!(
        show(Topic::Dmvpn, &answer),
        "Attrb: S static, D dynamic, I incomplete, N behind a NAT

Interface tun0, 2 peers
 Peer NBMA      Peer Tunnel  State  UpDn Tm   Attrb  Received  Sent  Identity
 198.51.100.41  10.0.0.1     UP     00:01:30  S          1200     7  198.51.100.41
 203.0.113.18   10.0.0.3     UP     1d03h     DN            3     4  10.1.1.1

Interface tun1, 1 peer
 Peer NBMA  Peer Tunnel  State  UpDn Tm  Attrb  Received  Sent  Identity
 -          10.0.1.9     NHRP   -        I             0     0  -
"
    );
    assert_eq!(show(Topic::Dmvpn, &json!({ "peers": [] })), "no peer\n");
}

#[test]
fn tunnels_with_their_descriptions() {
    let answer =
        json!({ "tunnels": [{ "tunnel": "tun0", "description": "to the hub" }, { "tunnel": "tun1" }] });
    assert_eq!(
        show(Topic::Nhrp, &answer),
        "Interface tun0, to the hub\nthe cache is empty\n\nInterface tun1\nthe cache is empty\n"
    );
}

#[test]
fn drops_by_frequency() {
    let answer = json!({ "drops": { "runt": 0, "esp_replay": 3, "vlan": 20 }, "punts": { "arp": 0 } });
    assert_eq!(
        show(Topic::Drops, &answer),
        " Dropped because  Packets\n vlan                  20\n esp_replay             3\nnothing to control\n"
    );
}

#[test]
fn workers_and_what_their_stages_cost() {
    let answer = json!({ "workers": [
        { "worker": 0, "cpu": 2, "polls": 5, "busy_cycles": 1, "idle_cycles": 3, "handed_over": 0, "taken_over": 0,
          "injected": 0, "drops": 0, "stages": [
              { "stage": "rx", "runs": 2, "packets": 65, "cycles": 1300 },
              { "stage": "decrypt", "runs": 0, "packets": 0, "cycles": 0 },
          ] },
    ] });
    assert_eq!(
        show(Topic::Workers, &answer),
        " Worker  CPU  Busy    Polls  Handed over  Taken over  Injected  Drops
      0    2  25.0 %      5            0           0         0      0

Worker 0
 Stage    Runs  Packets  Packets/run  Cycles/packet
 rx          2       65         32.5           20.0
 decrypt     0        0            -              -
"
    );
}

#[test]
fn counts_and_reloads() {
    assert_eq!(count("Ended the session with", &json!({ "peers": 1 })), "Ended the session with 1 peer.\n");
    assert_eq!(count("Ended the session with", &json!({ "peers": 2 })), "Ended the session with 2 peers.\n");
    assert_eq!(reload(&json!({ "changed": [] })), "nothing has changed\n");
    assert_eq!(
        reload(&json!({ "changed": ["system", "protocols.static"] })),
        "changed: system\nchanged: protocols.static\n"
    );
}

/// An answer of another version, or of something else altogether, is shown as far as it goes.
#[test]
fn answers_of_any_shape() {
    use clap::ValueEnum;
    let odd =
        json!({ "peers": [{}, 3, null], "sas": [{}], "tunnels": [{ "cache": [null] }], "workers": [[]] });
    for topic in Topic::value_variants() {
        for answer in [&odd, &Value::Null, &json!([1]), &json!({ "ports": "none", "drops": 1 })] {
            show(*topic, answer);
        }
    }
}
