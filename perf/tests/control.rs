//! `publish` and `latency`: that what they measure takes place. What they find, on a machine that tests share, says nothing.

use std::process::Command;

use serde_json::Value;

#[test]
fn changes_are_adopted_and_lose_nothing() {
    let cases = run(&["publish", "--peers", "30", "--seconds", "0.6"]);
    let loads: Vec<_> = cases.iter().map(|case| case["load"].as_str().unwrap()).collect();
    assert_eq!(loads, ["idle", "full", "full, 50000/s"]);
    for case in &cases[..2] {
        assert!(case["changes"].as_u64() > Some(0), "{case}");
        assert!(case["publication_p50_us"].as_f64() <= case["adopted_p50_us"].as_f64(), "{case}");
        rising(case, &["adopted_p50_us", "adopted_p99_us", "adopted_p999_us", "adopted_max_us"]);
    }
    let storm = &cases[2];
    assert_eq!(storm["lost"], 0);
    assert!(storm["changes"].as_u64() > Some(0) && storm["mpps"].as_f64() > Some(0.0), "{storm}");
    assert!(storm["rounds"].as_u64() >= storm["filtered"].as_u64(), "{storm}");
}

#[test]
fn packets_arrive_on_time_in_every_direction() {
    let options = ["--suite", "aes128gcm", "--size", "64", "--peers", "10", "--seconds", "0.5"];
    let cases = run(&[&["latency", "--direction", "encap,decap,hairpin"], &options[..]].concat());
    assert_eq!(cases.len(), 3 * 3 * 2, "directions, loads, with and without a control plane");
    for case in &cases {
        assert_eq!(case["lost"], 0, "{case}");
        rising(case, &["p50_us", "p90_us", "p99_us", "p999_us", "max_us"]);
        assert!(case["p50_us"].as_f64() > Some(0.0) && case["windows"].as_u64() > Some(0), "{case}");
        let changes = case["changes_per_second"].as_f64().unwrap();
        assert_eq!(changes > 0.0, case["churn"] == true, "{case}");
    }
    let rates: Vec<_> = cases[..3].iter().map(|case| case["mpps"].as_f64().unwrap()).collect();
    assert!(
        (rates[1] / rates[0] - 5.0).abs() < 0.01 && (rates[2] / rates[0] - 9.0).abs() < 0.01,
        "{rates:?}"
    );
}

#[test]
fn what_has_no_effect_is_refused() {
    for (arguments, problem) in [
        (&["publish", "--direction", "decap"][..], "--direction encap"),
        (&["publish", "--kernel", "portable"], "the control plane chooses the kernels"),
        (&["latency", "--ab", "kernel=portable"], "the control plane chooses the kernels"),
        (&["kernel", "--direction", "hairpin", "--against", "rustcrypto"], "--direction encap,decap"),
        (&["path", "--peers", "0"], "from 1 to"),
    ] {
        let output = command(arguments).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains(problem), "{told}");
    }
}

fn rising(case: &Value, names: &[&str]) {
    let values: Vec<_> = names.iter().map(|name| case[name].as_f64().unwrap()).collect();
    assert!(values.is_sorted(), "{case}");
}

fn run(arguments: &[&str]) -> Vec<Value> {
    let output = command(arguments).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["command"], arguments[0]);
    report["cases"].as_array().unwrap().clone()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmvpn-perf"));
    command.args(arguments);
    command
}
