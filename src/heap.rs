//! The heap, where tables and SAs lie.

use tikv_jemallocator::Jemalloc;

/// Everything is allocated here but the packets and what else DPDK has. It asks the kernel for huge pages, as
/// `.cargo/config.toml` says: in small ones, a packet of one of many thousand peers would wait for page tables as long as for
/// the SA itself.
#[global_allocator]
static HEAP: Jemalloc = Jemalloc;

#[cfg(test)]
mod tests {
    use std::fs;

    /// The flags (proc_pid_smaps(5)) of the mapping that has `address`.
    fn flags_of_mapping(address: usize) -> Option<String> {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines();
        lines.find(|line| {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let bound = |text| usize::from_str_radix(text, 16).ok();
            range
                .and_then(|(first, end)| Some(bound(first)?..bound(end)?))
                .is_some_and(|r| r.contains(&address))
        })?;
        lines.find_map(|line| line.strip_prefix("VmFlags:")).map(str::to_owned)
    }

    #[test]
    fn it_lies_in_huge_pages_where_the_kernel_has_them_for_who_asks() {
        let policy = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        if policy.contains("[madvise]") {
            let small = Box::new(0u64);
            let flags = flags_of_mapping(std::ptr::from_ref(&*small).addr()).unwrap();
            assert!(flags.split_whitespace().any(|flag| flag == "hg"), "{flags}");
        }
    }
}
