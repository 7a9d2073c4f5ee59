//! Finds the installed DPDK, builds the shim against it and generates the bindings.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Releases whose API the shim and the bindings were written for, ends included.
const OLDEST: &str = "22.11";
const FIRST_UNTRIED: &str = "25.12";

/// Everything that the safe layer calls.
const FUNCTIONS: &[&str] = &[
    "rte_eal_init",
    "rte_eal_cleanup",
    "rte_eal_get_runtime_dir",
    "rte_eth_dev_close",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_disable",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_tx_queue_setup",
    "rte_get_tsc_hz",
    "rte_mempool_avail_count",
    "rte_pktmbuf_free_bulk",
    "rte_strerror",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_version",
    "shim_.*",
];

/// The libraries that hold these functions. Drivers are plugins that EAL loads by itself.
const LIBRARIES: &[&str] = &["rte_ethdev", "rte_mbuf", "rte_mempool", "rte_eal"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=shim.h");
    println!("cargo:rerun-if-changed=shim.c");

    let dpdk = match pkg_config::Config::new()
        .range_version(OLDEST..FIRST_UNTRIED)
        .cargo_metadata(false)
        .probe("libdpdk")
    {
        Ok(dpdk) => dpdk,
        Err(error) => {
            println!("cargo::error=DPDK from {OLDEST} up to {FIRST_UNTRIED} (excluded) is needed to build.");
            println!(
                "cargo::error=On Debian or Ubuntu: apt install libdpdk-dev pkg-config clang libclang-dev"
            );
            for line in error.to_string().lines().filter(|line| !line.trim().is_empty()) {
                println!("cargo::error={line}");
            }
            return;
        }
    };
    for path in &dpdk.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    for library in LIBRARIES {
        println!("cargo:rustc-link-lib=dylib={library}");
    }

    let flags = compiler_flags();
    let mut shim = cc::Build::new();
    shim.file("shim.c").warnings(true);
    for flag in &flags {
        shim.flag(flag);
    }
    shim.compile("dpdk_shim");

    let bindings = bindgen::Builder::default()
        .header("shim.h")
        .clang_args(&flags)
        .allowlist_function(FUNCTIONS.join("|"))
        // What these mention besides (mbufs, pools, queue options) is opaque; the library defines it.
        .allowlist_type("shim_.*|rte_eth_stats|rte_ether_addr")
        .allowlist_recursively(false)
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .translate_enum_integer_types(true)
        .generate_comments(false)
        .wrap_unsafe_ops(true)
        .use_core();
    let target = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("bindings.rs");
    match bindings.generate() {
        Ok(bindings) => bindings.write_to_file(target).unwrap_or_else(|error| {
            println!("cargo::error=cannot write the DPDK bindings: {error}");
        }),
        Err(error) => println!("cargo::error=cannot generate the DPDK bindings: {error}"),
    }
}

/// DPDK's own compiler flags: include folders, its configuration header, and the instruction set that
/// its inline functions need.
fn compiler_flags() -> Vec<String> {
    let pkg_config = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let output = match Command::new(pkg_config).args(["--cflags", "libdpdk"]).output() {
        Ok(output) if output.status.success() => output.stdout,
        _ => {
            println!("cargo::error=pkg-config --cflags libdpdk failed");
            Vec::new()
        }
    };
    // System headers, so that their warnings are not ours.
    String::from_utf8_lossy(&output)
        .split_whitespace()
        .flat_map(|flag| match flag.strip_prefix("-I") {
            Some(path) => vec!["-isystem".to_owned(), path.to_owned()],
            None => vec![flag.to_owned()],
        })
        .collect()
}
