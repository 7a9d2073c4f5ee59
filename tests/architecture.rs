//! Who may depend on whom, and where `unsafe` may stand: the shape of the project, held by a test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// What a package may depend on within the workspace.
enum May {
    /// These and no others.
    Use(&'static [&'static str]),
    /// Any that come before it: it puts the others together.
    UseAll,
}

/// The packages that put others together come last: the daemon, and the harness that measures how the daemon puts them
/// together. Nobody else depends on them. `dmvpn-control` and
/// `dmvpn-dataplane` never see each other: `dmvpn-tables` is what they share. DPDK is known to
/// `dmvpn-dpdk` alone, so that everything before it builds and is tested without DPDK.
const LAYERS: [(&str, May); 12] = [
    ("dmvpn-wire", May::Use(&[])),
    ("dmvpn-esp", May::Use(&["dmvpn-wire"])),
    ("dmvpn-tables", May::Use(&["dmvpn-esp", "dmvpn-wire"])),
    ("dmvpn-config", May::Use(&[])),
    ("dmvpn-control", May::Use(&["dmvpn-tables", "dmvpn-config", "dmvpn-wire"])),
    ("dmvpn-dataplane", May::Use(&["dmvpn-tables", "dmvpn-esp", "dmvpn-wire"])),
    (
        "dmvpn-simulation",
        May::Use(&["dmvpn-config", "dmvpn-control", "dmvpn-dataplane", "dmvpn-tables", "dmvpn-wire"]),
    ),
    ("dpdk-sys", May::Use(&[])),
    // The Ethernet address of a port is a type of `dmvpn-wire`.
    ("dmvpn-dpdk", May::Use(&["dmvpn-dataplane", "dpdk-sys", "dmvpn-wire"])),
    ("dmvpn-ipsec-mb", May::Use(&[])),
    ("dmvpn", May::UseAll),
    ("dmvpn-perf", May::UseAll),
];

/// Packages that talk to C: to DPDK, and to the library that the harness measures the kernels against. Everybody else
/// forbids `unsafe`, or denies it but for [`KERNELS`].
const FOREIGN: [&str; 3] = ["dpdk-sys", "dmvpn-dpdk", "dmvpn-ipsec-mb"];

/// The package with vector instructions, and the folder in it where alone they may be.
const KERNELS: (&str, &str) = ("dmvpn-esp", "src/kernel");

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let Some(place) = LAYERS.iter().position(|(layer, _)| *layer == name) else {
            wrong.push(format!("{name} has no place among the layers"));
            continue;
        };
        seen.insert(name);
        // Also for tests and build scripts: what a test may reach into is soon relied upon.
        for (dependency, kind) in own_dependencies(package) {
            let allowed = match LAYERS[place].1 {
                May::Use(allowed) => allowed.contains(&dependency.as_str()),
                May::UseAll => LAYERS[..place].iter().any(|(layer, _)| *layer == dependency),
            };
            if !allowed {
                wrong.push(format!("{name} -> {dependency} ({kind})"));
            }
        }
    }
    assert!(wrong.is_empty(), "against the architecture: {wrong:#?}");
    for name in ["dmvpn-wire", "dmvpn-tables", "dmvpn-control", "dmvpn-dataplane", "dmvpn-dpdk", "dmvpn"] {
        assert!(seen.contains(name), "{name} was not looked at");
    }
}

#[test]
fn control_and_data_plane_meet_in_tables_only() {
    let metadata = metadata();
    let graph: BTreeMap<String, Vec<String>> = metadata
        .workspace_packages()
        .into_iter()
        .map(|package| {
            let dependencies = own_dependencies(package).map(|(name, _)| name).collect();
            (package.name.to_string(), dependencies)
        })
        .collect();
    let reach = |from: &'static str| {
        let mut found = BTreeSet::new();
        let mut left = vec![from];
        while let Some(name) = left.pop() {
            if found.insert(name) {
                left.extend(graph.get(name).into_iter().flatten().map(String::as_str));
            }
        }
        found
    };
    let (control, dataplane) = (reach("dmvpn-control"), reach("dmvpn-dataplane"));
    assert!(control.contains("dmvpn-tables") && dataplane.contains("dmvpn-tables"));
    assert!(!control.contains("dmvpn-dataplane") && !dataplane.contains("dmvpn-control"));
    for plane in [control, dataplane] {
        assert!(!plane.contains("dpdk-sys"), "{plane:?} needs DPDK");
    }
}

#[test]
fn unsafe_code_stands_where_it_must() {
    let metadata = metadata();
    for package in
        metadata.workspace_packages().into_iter().filter(|package| !FOREIGN.contains(&package.name.as_str()))
    {
        let kernels = package.name.as_str() == KERNELS.0;
        let policy = if kernels { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
        for target in package.targets.iter().filter(|target| target.is_lib() || target.is_bin()) {
            let root = fs::read_to_string(&target.src_path).unwrap();
            assert!(root.lines().any(|line| line == policy), "{} lacks {policy}", target.src_path);
        }
        if !kernels {
            continue;
        }
        // The compiler takes an exception anywhere; we take it in one folder.
        let folder = package.manifest_path.parent().unwrap().as_std_path();
        let lifted: Vec<_> = sources(&folder.join("src"))
            .into_iter()
            .filter(|source| {
                let text = fs::read_to_string(source).unwrap();
                text.lines().any(|line| line.contains("unsafe_code") && line != policy)
            })
            .collect();
        assert!(!lifted.is_empty(), "no kernel has unsafe code: forbid it in {} too", KERNELS.0);
        for source in lifted {
            assert!(source.starts_with(folder.join(KERNELS.1)), "{} allows unsafe code", source.display());
        }
    }
}

/// Lints, versions and the edition are said once, in the workspace's manifest.
#[test]
fn packages_take_lints_and_versions_from_the_workspace() {
    let metadata = metadata();
    let root = metadata.workspace_root.join("Cargo.toml");
    for package in metadata.workspace_packages() {
        let path = &package.manifest_path;
        let manifest = fs::read_to_string(path).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{path} has lints of its own");
        for line in manifest.lines().filter(|_| *path != root) {
            let own = ["version = ", "edition = "].iter().any(|key| line.starts_with(key));
            assert!(!own && !line.contains("{ version = "), "{path}: {line:?} belongs into {root}");
        }
    }
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap()
}

/// What `package` depends on within the workspace, which is by path.
fn own_dependencies(package: &Package) -> impl Iterator<Item = (String, DependencyKind)> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.path.is_some())
        .map(|dependency| (dependency.name.clone(), dependency.kind))
}

/// All Rust files in a folder and those under it.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
