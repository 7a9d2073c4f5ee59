/* What of DPDK the bindings cover. build.rs generates Rust from this header and lists the functions;
 * those that DPDK has as static inline or macro only are wrapped here, one call per burst. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Where the fields are that the Rust side reads and writes. Releases move them between anonymous
 * unions, so their Rust names would change with the release; their offsets come from the compiler. */
enum shim_mbuf_offset {
	MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
};

enum shim_mbuf_room {
	MBUF_HEADROOM = RTE_PKTMBUF_HEADROOM,
	MBUF_POOL_CACHE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE,
};

/* What a port's device can do: the part of rte_eth_dev_info that matters here. */
struct shim_capabilities {
	uint16_t max_rx_queues;
	uint16_t max_tx_queues;
	uint16_t min_mtu;
	uint16_t max_mtu;
	/* It can hash every IPv4 packet by its addresses alone. */
	bool hashes_addresses;
};

int shim_errno(void);

/* The CPU's time stamp counter, which counts at rte_get_tsc_hz(). */
uint64_t shim_cycles(void);

/* Whether the calling thread is known to the EAL. */
bool shim_is_lcore(void);

int shim_capabilities(uint16_t port, struct shim_capabilities *capabilities);

/* Configures `queues` receive and transmit queues. Several receive queues share the traffic by a hash over IP
 * addresses, and with `by_flow` over TCP and UDP ports, too, as far as the device knows these. No scattered receive. */
int shim_configure(uint16_t port, uint16_t queues, uint16_t mtu, bool by_flow);

/* 1 up, 0 down, negative errno. Does not wait for a negotiation to end. */
int shim_link_is_up(uint16_t port);

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count);

uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count);

/* A pool of mbufs as rte_pktmbuf_pool_create() makes, on any socket; NULL and rte_errno if there is not enough
 * memory. `count`, `cache`: mbufs in all, and most that a thread keeps for itself; sizes in bytes. */
struct rte_mempool *shim_packet_pool(const char *name, unsigned int count, unsigned int cache, uint16_t private_size,
				     uint16_t data_room);

/* All or nothing: 0, or a negative errno and nothing allocated. */
int shim_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **packets, unsigned int count);
