//! DPDK's environment abstraction layer: its memory, its drivers, its view of threads.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr, c_char};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::process;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, fs};

use dpdk_sys::rte_mempool;

use crate::device::Device;
use crate::error::{Errno, Error};

/// What DPDK is started with.
#[derive(Debug, Clone)]
pub struct EalOptions {
    /// Where packet memory comes from.
    pub memory: Memory,
    /// The devices that ports will be made of. No other device of the machine is touched.
    pub devices: Vec<Device>,
}

/// Where packet memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Hugepages, as many as it takes.
    Hugepages,
    /// Ordinary pages, this many MiB, taken at the start.
    Ordinary(u32),
}

/// The running EAL. Clones share it, and everything made from it holds one. The last to go cleans it up,
/// unless packets are still out of their pools: then its memory stays until the process ends.
#[derive(Debug, Clone)]
pub struct Eal {
    runtime: Arc<Runtime>,
}

/// A thread known to DPDK: it has a cache of its own in every mempool. For as long as this lives, and only in
/// the thread that asked for it.
#[derive(Debug)]
pub struct RegisteredThread {
    _eal: Eal,
    _bound_to_thread: PhantomData<*const ()>,
}

struct Runtime {
    /// What `rte_eal_init` was given: it may keep pointers into it.
    _arguments: Vec<CString>,
    pools: Mutex<Vec<Pool>>,
    ports: Mutex<BTreeSet<u16>>,
}

struct Pool {
    raw: NonNull<rte_mempool>,
    capacity: u32,
}

// SAFETY: a mempool may be used from any thread.
unsafe impl Send for Pool {}

static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK with a runtime folder of its own for this process, and lets it see only `options.devices`.
    /// The calling thread becomes its main thread and keeps its CPU affinity. Takes about half a second.
    ///
    /// # Errors
    /// [`Error::Init`] if DPDK does not start, [`Error::Again`] at the second call in a process, even if the
    /// first failed: DPDK cannot be started twice.
    pub fn init(options: &EalOptions) -> Result<Self, Error> {
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(Error::Again);
        }
        let arguments = arguments(options)
            .into_iter()
            .map(|argument| CString::new(argument.clone()).map_err(|_| Error::Argument(argument)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<*mut c_char> = arguments.iter().map(|text| text.as_ptr().cast_mut()).collect();
        let count = i32::try_from(pointers.len()).map_err(|_| Error::Init(Errno::E2BIG))?;
        pointers.push(std::ptr::null_mut());
        // SAFETY: `pointers` are `count` valid strings and a null, as for main(); it permutes the array, not
        // the strings, which `arguments` keeps. It is called once per process (STARTED).
        let returned = unsafe { dpdk_sys::rte_eal_init(count, pointers.as_mut_ptr()) };
        if returned < 0 {
            let errno = Errno::last();
            remove_runtime_folder();
            return Err(Error::Init(errno));
        }
        let runtime = Runtime { _arguments: arguments, pools: Mutex::default(), ports: Mutex::default() };
        Ok(Self { runtime: Arc::new(runtime) })
    }

    /// Makes the calling thread known to DPDK. A thread should do so before it touches packets: without, each
    /// allocation and release goes to the pool's shared ring.
    ///
    /// # Errors
    /// [`Error::Thread`] if the thread is known already, or there are 128 of them.
    pub fn register_thread(&self) -> Result<RegisteredThread, Error> {
        // SAFETY: reads a thread-local integer.
        if unsafe { dpdk_sys::shim_is_lcore() } {
            // DPDK would give it another number, and never take the first one back.
            return Err(Error::Thread(Errno::EEXIST));
        }
        // SAFETY: the EAL is initialised, as `self` exists.
        let returned = unsafe { dpdk_sys::rte_thread_register() };
        if returned < 0 {
            return Err(Error::Thread(Errno::last()));
        }
        Ok(RegisteredThread { _eal: self.clone(), _bound_to_thread: PhantomData })
    }

    /// DPDK's name and release.
    pub fn version() -> String {
        // SAFETY: returns a static string.
        let text = unsafe { CStr::from_ptr(dpdk_sys::rte_version()) };
        text.to_string_lossy().into_owned()
    }

    pub(crate) fn adopt_pool(&self, raw: NonNull<rte_mempool>, capacity: u32) {
        let mut pools = self.runtime.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.push(Pool { raw, capacity });
    }

    /// Whether nobody claimed this port before: a port has one owner.
    pub(crate) fn claim_port(&self, id: u16) -> bool {
        self.runtime.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(id)
    }
}

impl Drop for RegisteredThread {
    fn drop(&mut self) {
        // SAFETY: this thread is registered: `self` was made in it and cannot leave it.
        unsafe { dpdk_sys::rte_thread_unregister() }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let pools = self.pools.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: pools stay valid until the cleanup below.
        let all_back = pools
            .iter()
            .all(|pool| unsafe { dpdk_sys::rte_mempool_avail_count(pool.raw.as_ptr()) == pool.capacity });
        if all_back {
            // SAFETY: ports, queues, pools and registered threads hold an `Eal`, so there are none left, and
            // no mbuf is out.
            unsafe { dpdk_sys::rte_eal_cleanup() };
        }
        remove_runtime_folder();
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

/// DPDK makes a folder for this process and leaves it behind, empty. Nothing depends on it.
fn remove_runtime_folder() {
    // SAFETY: returns a string that stays; an empty one if DPDK did not get that far.
    let folder = unsafe { CStr::from_ptr(dpdk_sys::rte_eal_get_runtime_dir()) };
    let _ = fs::remove_dir(OsStr::from_bytes(folder.to_bytes()));
}

/// The command line of the EAL.
fn arguments(options: &EalOptions) -> Vec<String> {
    let mut arguments = vec![
        env!("CARGO_PKG_NAME").to_owned(),
        // One logical core on all CPUs that this thread may use: without it, the EAL would pin the thread.
        format!("--lcores=0@({})", allowed_cpus()),
        format!("--file-prefix=dmvpn{}", process::id()),
        // No other process attaches to this one.
        "--no-telemetry".to_owned(),
        "--no-shconf".to_owned(),
        "--log-level=warning".to_owned(),
    ];
    match options.memory {
        Memory::Hugepages => arguments.push("--in-memory".to_owned()),
        Memory::Ordinary(mib) => {
            arguments.extend(["--no-huge".to_owned(), format!("-m{mib}")]);
        }
    }
    if !options.devices.iter().any(|device| matches!(device, Device::Pci(_))) {
        arguments.push("--no-pci".to_owned());
    }
    arguments.extend(options.devices.iter().map(|device| match device {
        Device::Pci(_) => format!("--allow={device}"),
        Device::Virtual { .. } => format!("--vdev={device}"),
    }));
    arguments
}

/// CPUs that the calling thread may run on, as a list.
fn allowed_cpus() -> String {
    let cpus = core_affinity::get_core_ids().unwrap_or_default();
    if cpus.is_empty() {
        return "0".to_owned();
    }
    cpus.iter().map(|cpu| cpu.id.to_string()).collect::<Vec<_>>().join(",")
}
