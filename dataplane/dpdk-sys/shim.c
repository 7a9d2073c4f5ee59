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
	capabilities->max_mtu = RTE_MIN(info.max_mtu, info.max_rx_pktlen - RTE_MIN(overhead, info.max_rx_pktlen));
	return 0;
}

int shim_configure(uint16_t port, uint16_t queues, uint16_t mtu)
{
	struct rte_eth_dev_info info;
	struct rte_eth_conf conf;
	int ret = rte_eth_dev_info_get(port, &info);

	if (ret != 0)
		return ret;
	memset(&conf, 0, sizeof(conf));
	conf.rxmode.mtu = mtu;
	if (queues > 1) {
		conf.rx_adv_conf.rss_conf.rss_hf =
			info.flow_type_rss_offloads & (RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_ESP);
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

int shim_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **packets, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, packets, count);
}
