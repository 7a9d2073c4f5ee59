//! Builds the shim against the installed library, if that is asked for.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=shim.c");
    #[cfg(feature = "installed")]
    shim();
}

#[cfg(feature = "installed")]
fn shim() {
    cc::Build::new().file("shim.c").warnings(true).compile("ipsec_mb_shim");
    // It has no file for pkg-config everywhere.
    if pkg_config::Config::new().atleast_version("1.2").probe("libipsec_mb").is_err() {
        println!("cargo:rustc-link-lib=dylib=IPSec_MB");
    }
}
