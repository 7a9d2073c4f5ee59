#include "shim.h"

#include <string.h>

/* The private area of an mbuf begins where its structure ends: the Rust side relies on that. */
_Static_assert(sizeof(struct rte_mbuf) == 128, "an mbuf is two cache lines");

int shim_errno(void)
{
	return rte_errno;
}

uint64_t shim_cycles(void)
{
	return rte_rdtsc();
}

bool shim_is_lcore(void)
{
	return rte_lcore_id() != LCORE_ID_ANY;
}

int shim_capabilities(uint16_t port, struct shim_capabilities *capabilities)
{
	struct rte_eth_dev_info info;
	uint32_t overhead = RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN;
	int ret = rte_eth_dev_info_get(port, &info);

	if (ret != 0)
		return ret;
	/* Some drivers limit the MTU, some the frame; ethdev derives the overhead from the two if it can. */
	if (info.max_mtu != UINT16_MAX && info.max_rx_pktlen > info.max_mtu)
		overhead = info.max_rx_pktlen - info.max_mtu;
	capabilities->max_rx_queues = info.max_rx_queues;
	capabilities->max_tx_queues = info.max_tx_queues;
	capabilities->min_mtu = info.min_mtu;
	/* Without this one type, a driver knows only types of their own for TCP, UDP and the rest. */
	capabilities->hashes_addresses = (info.flow_type_rss_offloads & RTE_ETH_RSS_IPV4) != 0;
	capabilities->max_mtu = RTE_MIN(info.max_mtu, info.max_rx_pktlen - RTE_MIN(overhead, info.max_rx_pktlen));
	return 0;
}

int shim_configure(uint16_t port, uint16_t queues, uint16_t mtu, bool by_flow)
{
	struct rte_eth_dev_info info;
	struct rte_eth_conf conf;
	int ret = rte_eth_dev_info_get(port, &info);

	if (ret != 0)
		return ret;
	memset(&conf, 0, sizeof(conf));
	conf.rxmode.mtu = mtu;
	if (queues > 1) {
		uint64_t hash = RTE_ETH_RSS_IP | (by_flow ? RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP : 0);

		conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads & hash;
		/* A virtual device with several queues may know no hash; it distributes by means of its own. */
		if (conf.rx_adv_conf.rss_conf.rss_hf != 0)
			conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
	}
	return rte_eth_dev_configure(port, queues, queues, &conf);
}

int shim_link_is_up(uint16_t port)
{
	struct rte_eth_link link;
	int ret = rte_eth_link_get_nowait(port, &link);

	return ret != 0 ? ret : link.link_status == RTE_ETH_LINK_UP;
}

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, packets, count);
}

uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, packets, count);
}

struct rte_mempool *shim_packet_pool(const char *name, unsigned int count, unsigned int cache, uint16_t private_size,
				     uint16_t data_room)
{
	struct rte_pktmbuf_pool_private room = {
		.mbuf_data_room_size = data_room,
		.mbuf_priv_size = private_size,
	};
	unsigned int size = sizeof(struct rte_mbuf) + private_size + data_room;
	/* A NIC needs a buffer in one piece of physical memory. Without hugepages that makes one to a page, each at
	 * the same place in it, where they compete for the same cache lines; virtual devices can do without. */
	bool in_one_piece = rte_eal_has_hugepages() || rte_eal_has_pci();
	unsigned int flags = in_one_piece ? 0 : RTE_MEMPOOL_F_NO_IOVA_CONTIG;
	struct rte_mempool *pool =
		rte_mempool_create_empty(name, count, size, cache, sizeof(room), SOCKET_ID_ANY, flags);
	int ret;

	if (pool == NULL)
		return NULL;
	ret = rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), NULL);
	if (ret == 0) {
		rte_pktmbuf_pool_init(pool, &room);
		ret = rte_mempool_populate_default(pool);
	}
	if (ret < 0) {
		rte_mempool_free(pool);
		rte_errno = -ret;
		return NULL;
	}
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	return pool;
}

int shim_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **packets, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, packets, count);
}
