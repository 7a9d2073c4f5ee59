//! Stamps the program with what a report names: the commit it was built from, and the compiler.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let release = env!("CARGO_PKG_VERSION");
    let version = match output("git", &["describe", "--always", "--dirty", "--exclude=*"]) {
        Some(commit) => format!("{release} ({commit})"),
        None => release.to_owned(),
    };
    println!("cargo:rustc-env=DMVPN_VERSION={version}");
    let compiler = env::var("RUSTC").ok().and_then(|rustc| output(&rustc, &["--version"]));
    println!("cargo:rustc-env=DMVPN_RUSTC={}", compiler.as_deref().unwrap_or("unknown"));
    // The log of HEAD grows with every commit and change of branch.
    let log = output("git", &["rev-parse", "--git-path", "logs/HEAD"]);
    if let Some(log) = log.filter(|log| Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
}

/// What a program says, if it is there and succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
