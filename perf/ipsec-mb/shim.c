/*
 * ESP packets through libipsec-mb, as its users get the most out of it: combined cipher and hash jobs of many packets in
 * flight, AES-GCM by the direct calls, key state prefetched a burst ahead.
 */
#include <intel-ipsec-mb.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER = 8, AHEAD = 32, IN_FLIGHT = 1024, LINE = 64, BLOCK = 64, GCM_IV = 8, GCM_ICV = 16, SALT = 4 };

struct mb_suite {
	uint32_t cipher;         /* 0 AES-CBC, 1 AES-GCM, 2 3DES-CBC */
	uint32_t cipher_key_len; /* without the salt of AES-GCM */
	uint32_t integrity;      /* 0 none, 1 SHA-1, 2 SHA-256, 3 MD5 */
	uint32_t integrity_key_len;
};

struct mb_packet {
	uint8_t *bytes; /* from the ESP header to the end of the ICV */
	uint32_t len;
	uint32_t sa;
};

struct cbc_sa {
	uint8_t inner[32];
	uint8_t outer[32];
	union {
		struct {
			uint8_t encrypt[15 * 16];
			uint8_t decrypt[15 * 16];
		};
		struct {
			uint64_t des[3][16];
			const void *des_keys[3];
		};
	};
} __attribute__((aligned(LINE)));

struct gcm_sa {
	struct gcm_key_data key;
	uint8_t salt[SALT];
} __attribute__((aligned(LINE)));

struct mb {
	IMB_MGR *manager;
	struct mb_suite suite;
	uint32_t iv_len;
	uint32_t icv_len;
	struct cbc_sa *cbc;
	struct gcm_sa *gcm;
	uint8_t tags[IN_FLIGHT][32] __attribute__((aligned(LINE)));
};

static void hash_block(struct mb *mb, const uint8_t *key, uint8_t pad, uint8_t *state)
{
	uint8_t block[BLOCK];

	memset(block, pad, sizeof(block));
	for (uint32_t i = 0; i < mb->suite.integrity_key_len; i++)
		block[i] ^= key[i];
	switch (mb->suite.integrity) {
	case 1: IMB_SHA1_ONE_BLOCK(mb->manager, block, state); break;
	case 2: IMB_SHA256_ONE_BLOCK(mb->manager, block, state); break;
	default: IMB_MD5_ONE_BLOCK(mb->manager, block, state); break;
	}
}

static void expand_cbc(struct mb *mb, struct cbc_sa *sa, const uint8_t *key)
{
	const uint8_t *integrity = key + mb->suite.cipher_key_len;

	if (mb->suite.cipher == 2) {
		for (int i = 0; i < 3; i++) {
			IMB_DES_KEYSCHED(mb->manager, sa->des[i], key + 8 * i);
			sa->des_keys[i] = sa->des[i];
		}
	} else if (mb->suite.cipher_key_len == 32) {
		IMB_AES_KEYEXP_256(mb->manager, key, sa->encrypt, sa->decrypt);
	} else {
		IMB_AES_KEYEXP_128(mb->manager, key, sa->encrypt, sa->decrypt);
	}
	hash_block(mb, integrity, 0x36, sa->inner);
	hash_block(mb, integrity, 0x5c, sa->outer);
}

static void expand_gcm(struct mb *mb, struct gcm_sa *sa, const uint8_t *key)
{
	if (mb->suite.cipher_key_len == 32)
		IMB_AES256_GCM_PRE(mb->manager, key, &sa->key);
	else
		IMB_AES128_GCM_PRE(mb->manager, key, &sa->key);
	memcpy(sa->salt, key + mb->suite.cipher_key_len, SALT);
}

void mb_free(struct mb *mb)
{
	if (mb == NULL)
		return;
	if (mb->manager != NULL)
		free_mb_mgr(mb->manager);
	free(mb->cbc);
	free(mb->gcm);
	free(mb);
}

/*
 * Keys lie one after the other, `stride` bytes each. Without `avx512` the library is held to what it has for CPUs that have AVX2
 * and no more. NULL if there is no memory or the CPU has nothing for it.
 */
struct mb *mb_new(const struct mb_suite *suite, uint32_t icv_len, bool avx512, const uint8_t *keys, uint32_t stride,
		  uint32_t count)
{
	struct mb *mb = aligned_alloc(LINE, sizeof(*mb));

	if (mb == NULL)
		return NULL;
	memset(mb, 0, sizeof(*mb));
	mb->suite = *suite;
	mb->icv_len = icv_len;
	mb->iv_len = suite->cipher == 0 ? 16 : 8;
	mb->manager = alloc_mb_mgr(0);
	if (mb->manager == NULL) {
		mb_free(mb);
		return NULL;
	}
	if (avx512)
		init_mb_mgr_auto(mb->manager, NULL); /* What suits this CPU best. */
	else
		init_mb_mgr_avx2(mb->manager);
	if (suite->cipher == 1)
		mb->gcm = aligned_alloc(LINE, count * sizeof(*mb->gcm));
	else
		mb->cbc = aligned_alloc(LINE, count * sizeof(*mb->cbc));
	if (imb_get_errno(mb->manager) != 0 || (mb->gcm == NULL && mb->cbc == NULL)) {
		mb_free(mb);
		return NULL;
	}
	for (uint32_t i = 0; i < count; i++) {
		if (mb->gcm != NULL)
			expand_gcm(mb, &mb->gcm[i], keys + (size_t)i * stride);
		else
			expand_cbc(mb, &mb->cbc[i], keys + (size_t)i * stride);
	}
	return mb;
}

static void prefetch_range(const void *start, size_t len)
{
	for (size_t i = 0; i < len; i += LINE)
		__builtin_prefetch((const char *)start + i);
}

/* Of the next packets, what will be read first. */
static void prefetch(const struct mb *mb, const struct mb_packet *packets, size_t count, bool opens)
{
	for (size_t i = 0; i < count; i++) {
		prefetch_range(packets[i].bytes, 2 * LINE);
		if (mb->gcm != NULL) {
			/* Round keys, and the powers for short packets. */
			prefetch_range(&mb->gcm[packets[i].sa], 12 * LINE);
			continue;
		}
		struct cbc_sa *sa = &mb->cbc[packets[i].sa];

		prefetch_range(sa->inner, LINE);
		if (mb->suite.cipher == 2)
			prefetch_range(sa->des, sizeof(sa->des) + sizeof(sa->des_keys));
		else
			prefetch_range(opens ? sa->decrypt : sa->encrypt, sizeof(sa->encrypt));
	}
}

/* Without a branch on where they differ. */
static bool equal(const uint8_t *a, const uint8_t *b, uint32_t len)
{
	uint8_t difference = 0;

	for (uint32_t i = 0; i < len; i++)
		difference |= a[i] ^ b[i];
	return difference == 0;
}

static void describe(struct mb *mb, IMB_JOB *job, const struct mb_packet *packet, size_t number, bool opens)
{
	struct cbc_sa *sa = &mb->cbc[packet->sa];
	uint32_t offset = HEADER + mb->iv_len;
	uint8_t *icv = packet->bytes + packet->len - mb->icv_len;
	bool des = mb->suite.cipher == 2;

	job->user_data = (void *)packet;
	job->user_data2 = mb->tags[number % IN_FLIGHT];
	job->cipher_direction = opens ? IMB_DIR_DECRYPT : IMB_DIR_ENCRYPT;
	job->chain_order = opens ? IMB_ORDER_HASH_CIPHER : IMB_ORDER_CIPHER_HASH;
	job->src = packet->bytes;
	job->dst = packet->bytes + offset;
	job->cipher_start_src_offset_in_bytes = offset;
	job->msg_len_to_cipher_in_bytes = packet->len - offset - mb->icv_len;
	job->hash_start_src_offset_in_bytes = 0;
	job->msg_len_to_hash_in_bytes = packet->len - mb->icv_len;
	job->iv = packet->bytes + HEADER;
	job->iv_len_in_bytes = mb->iv_len;
	job->cipher_mode = des ? IMB_CIPHER_DES3 : IMB_CIPHER_CBC;
	job->key_len_in_bytes = mb->suite.cipher_key_len;
	job->enc_keys = des ? (const void *)sa->des_keys : sa->encrypt;
	job->dec_keys = des ? (const void *)sa->des_keys : sa->decrypt;
	job->hash_alg = mb->suite.integrity == 1 ? IMB_AUTH_HMAC_SHA_1 :
			mb->suite.integrity == 2 ? IMB_AUTH_HMAC_SHA_256 :
						   IMB_AUTH_MD5;
	job->u.HMAC._hashed_auth_key_xor_ipad = sa->inner;
	job->u.HMAC._hashed_auth_key_xor_opad = sa->outer;
	job->auth_tag_output = opens ? job->user_data2 : icv;
	job->auth_tag_output_len_in_bytes = mb->icv_len;
}

static size_t finish(const struct mb *mb, const IMB_JOB *job, bool opens)
{
	const struct mb_packet *packet = job->user_data;

	if (job->status != IMB_STATUS_COMPLETED)
		return 0;
	return !opens || equal(packet->bytes + packet->len - mb->icv_len, job->user_data2, mb->icv_len);
}

static size_t run_cbc(struct mb *mb, const struct mb_packet *packets, size_t count, bool opens)
{
	IMB_MGR *manager = mb->manager;
	IMB_JOB *job;
	size_t good = 0;

	for (size_t i = 0; i < count; i++) {
		if (i % AHEAD == 0)
			prefetch(mb, packets + i, count - i < AHEAD ? count - i : AHEAD, opens);
		describe(mb, IMB_GET_NEXT_JOB(manager), &packets[i], i, opens);
		for (job = IMB_SUBMIT_JOB_NOCHECK(manager); job != NULL; job = IMB_GET_COMPLETED_JOB(manager))
			good += finish(mb, job, opens);
	}
	while ((job = IMB_FLUSH_JOB(manager)) != NULL)
		good += finish(mb, job, opens);
	return good;
}

static size_t run_gcm(struct mb *mb, const struct mb_packet *packets, size_t count, bool opens)
{
	IMB_MGR *manager = mb->manager;
	bool wide = mb->suite.cipher_key_len == 32;
	size_t good = 0;

	for (size_t i = 0; i < count; i++) {
		struct gcm_sa *sa = &mb->gcm[packets[i].sa];
		struct gcm_context_data context;
		uint8_t iv[SALT + GCM_IV], tag[GCM_ICV], *bytes = packets[i].bytes, *text = bytes + HEADER + GCM_IV;
		uint64_t len = packets[i].len - HEADER - GCM_IV - GCM_ICV;

		if (i % AHEAD == 0)
			prefetch(mb, packets + i, count - i < AHEAD ? count - i : AHEAD, opens);
		memcpy(iv, sa->salt, SALT);
		memcpy(iv + SALT, bytes + HEADER, GCM_IV);
		if (!opens) {
			if (wide)
				IMB_AES256_GCM_ENC(manager, &sa->key, &context, text, text, len, iv, bytes, HEADER,
						   text + len, GCM_ICV);
			else
				IMB_AES128_GCM_ENC(manager, &sa->key, &context, text, text, len, iv, bytes, HEADER,
						   text + len, GCM_ICV);
			good++;
			continue;
		}
		if (wide)
			IMB_AES256_GCM_DEC(manager, &sa->key, &context, text, text, len, iv, bytes, HEADER, tag, GCM_ICV);
		else
			IMB_AES128_GCM_DEC(manager, &sa->key, &context, text, text, len, iv, bytes, HEADER, tag, GCM_ICV);
		good += equal(text + len, tag, GCM_ICV);
	}
	return good;
}

/* Seals or opens packets in place; how many of them are good. */
size_t mb_run(struct mb *mb, const struct mb_packet *packets, size_t count, bool opens)
{
	return mb->gcm != NULL ? run_gcm(mb, packets, count, opens) : run_cbc(mb, packets, count, opens);
}
