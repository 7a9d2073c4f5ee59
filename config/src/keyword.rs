//! The words of the configuration: those that we support, and those that its users know from elsewhere.

use std::fmt;

use crate::model::{DhGroup, Encryption, EspMode, Hash, IdlePolicy, Multicast};
use crate::section::{nearest, shown};

/// The words that a key takes.
#[derive(Debug)]
pub(crate) struct Keywords<T: 'static> {
    /// What we support, each with its meaning.
    pub supported: &'static [(&'static str, T)],
    /// Words of the same vocabulary that we do not support.
    pub unsupported: &'static [&'static str],
    /// Why not.
    pub because: &'static str,
}

impl<T: Copy> Keywords<T> {
    /// The meaning of a word, or what is wrong with it.
    pub(crate) fn find(&self, word: &str) -> Result<T, String> {
        if let Some((_, meaning)) = self.supported.iter().find(|(supported, _)| *supported == word) {
            return Ok(*meaning);
        }
        if self.unsupported.contains(&word) {
            return Err(format!("`{word}` is not supported{}", self.because));
        }
        let words: Vec<_> = self.supported.iter().map(|(word, _)| *word).collect();
        let near = nearest(word, &words).map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
        Err(format!("unknown word `{}`{near}", shown(word)))
    }

    /// The supported words, for people.
    pub(crate) fn allowed(&self) -> String {
        self.supported.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ")
    }

    /// The word for a meaning.
    pub(crate) fn word(&self, meaning: T) -> &'static str
    where
        T: PartialEq,
    {
        self.supported.iter().find(|(_, supported)| *supported == meaning).map_or("", |(word, _)| word)
    }
}

/// `esp-group proposal encryption`.
pub(crate) const ESP_ENCRYPTION: Keywords<Encryption> = Keywords {
    supported: &[
        ("aes128", Encryption::Aes128),
        ("aes192", Encryption::Aes192),
        ("aes256", Encryption::Aes256),
        ("3des", Encryption::TripleDes),
        ("aes128gcm128", Encryption::Aes128Gcm128),
        ("aes256gcm128", Encryption::Aes256Gcm128),
    ],
    unsupported: UNSUPPORTED_ENCRYPTION,
    because: "",
};

/// `ike-group proposal encryption`.
pub(crate) const IKE_ENCRYPTION: Keywords<Encryption> = Keywords {
    supported: &[
        ("aes128", Encryption::Aes128),
        ("aes192", Encryption::Aes192),
        ("aes256", Encryption::Aes256),
        ("3des", Encryption::TripleDes),
    ],
    unsupported: UNSUPPORTED_ENCRYPTION,
    because: " in an ike-group",
};

/// Ciphers that encrypt and authenticate at once: IKEv1 itself cannot use them.
pub(crate) const AEAD: &[&str] = &["aes128gcm128", "aes256gcm128"];

const UNSUPPORTED_ENCRYPTION: &[&str] = &[
    "null",
    "aes128ctr",
    "aes192ctr",
    "aes256ctr",
    "aes128ccm64",
    "aes192ccm64",
    "aes256ccm64",
    "aes128ccm96",
    "aes192ccm96",
    "aes256ccm96",
    "aes128ccm128",
    "aes192ccm128",
    "aes256ccm128",
    "aes128gcm64",
    "aes192gcm64",
    "aes256gcm64",
    "aes128gcm96",
    "aes192gcm96",
    "aes256gcm96",
    "aes192gcm128",
    "aes128gmac",
    "aes192gmac",
    "aes256gmac",
    "blowfish128",
    "blowfish192",
    "blowfish256",
    "camellia128",
    "camellia192",
    "camellia256",
    "camellia128ctr",
    "camellia192ctr",
    "camellia256ctr",
    "camellia128ccm64",
    "camellia192ccm64",
    "camellia256ccm64",
    "camellia128ccm96",
    "camellia192ccm96",
    "camellia256ccm96",
    "camellia128ccm128",
    "camellia192ccm128",
    "camellia256ccm128",
    "serpent128",
    "serpent192",
    "serpent256",
    "twofish128",
    "twofish192",
    "twofish256",
    "cast128",
    "chacha20poly1305",
];

/// `proposal hash`.
pub(crate) const HASH: Keywords<Hash> = Keywords {
    supported: &[
        ("md5", Hash::Md5),
        ("sha1", Hash::Sha1),
        ("sha256", Hash::Sha256),
        ("sha384", Hash::Sha384),
        ("sha512", Hash::Sha512),
    ],
    unsupported: &[
        "md5_128",
        "sha1_160",
        "sha256_96",
        "aesxcbc",
        "aescmac",
        "aes128gmac",
        "aes192gmac",
        "aes256gmac",
    ],
    because: "",
};

/// `proposal dh-group` and `pfs dh-groupN`.
pub(crate) const DH_GROUP: Keywords<DhGroup> = Keywords {
    supported: &[
        ("2", DhGroup::Modp1024),
        ("5", DhGroup::Modp1536),
        ("14", DhGroup::Modp2048),
        ("15", DhGroup::Modp3072),
        ("16", DhGroup::Modp4096),
        ("17", DhGroup::Modp6144),
        ("18", DhGroup::Modp8192),
        ("19", DhGroup::Ecp256),
        ("20", DhGroup::Ecp384),
        ("21", DhGroup::Ecp521),
    ],
    unsupported: &["1", "22", "23", "24", "25", "26", "27", "28", "29", "30", "31", "32"],
    because: "",
};

/// What `esp-group pfs` can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pfs {
    /// The group of the first IKE proposal.
    Enable,
    /// No key exchange of its own.
    Disable,
    /// This group.
    Group(DhGroup),
}

/// `esp-group pfs`.
pub(crate) const PFS: Keywords<Pfs> = Keywords {
    supported: &[
        ("enable", Pfs::Enable),
        ("disable", Pfs::Disable),
        ("dh-group2", Pfs::Group(DhGroup::Modp1024)),
        ("dh-group5", Pfs::Group(DhGroup::Modp1536)),
        ("dh-group14", Pfs::Group(DhGroup::Modp2048)),
        ("dh-group15", Pfs::Group(DhGroup::Modp3072)),
        ("dh-group16", Pfs::Group(DhGroup::Modp4096)),
        ("dh-group17", Pfs::Group(DhGroup::Modp6144)),
        ("dh-group18", Pfs::Group(DhGroup::Modp8192)),
        ("dh-group19", Pfs::Group(DhGroup::Ecp256)),
        ("dh-group20", Pfs::Group(DhGroup::Ecp384)),
        ("dh-group21", Pfs::Group(DhGroup::Ecp521)),
    ],
    unsupported: &[
        "dh-group1",
        "dh-group22",
        "dh-group23",
        "dh-group24",
        "dh-group25",
        "dh-group26",
        "dh-group27",
        "dh-group28",
        "dh-group29",
        "dh-group30",
        "dh-group31",
        "dh-group32",
    ],
    because: "",
};

/// `esp-group mode`.
pub(crate) const ESP_MODE: Keywords<EspMode> = Keywords {
    supported: &[("tunnel", EspMode::Tunnel), ("transport", EspMode::Transport)],
    unsupported: &[],
    because: "",
};

/// `nhrp multicast`.
pub(crate) const MULTICAST: Keywords<Multicast> = Keywords {
    supported: &[("dynamic", Multicast::Dynamic), ("nhs", Multicast::Nhs)],
    unsupported: &[],
    because: "",
};

/// `dataplane idle`.
pub(crate) const IDLE: Keywords<IdlePolicy> = Keywords {
    supported: &[("busy", IdlePolicy::Busy), ("adaptive", IdlePolicy::Adaptive)],
    unsupported: &[],
    because: "",
};

/// `enable` or `disable`.
pub(crate) const SWITCH: Keywords<bool> =
    Keywords { supported: &[("enable", true), ("disable", false)], unsupported: &[], because: "" };

/// `tunnel encapsulation`.
pub(crate) const ENCAPSULATION: Keywords<()> = Keywords {
    supported: &[("gre", ())],
    unsupported: &["gretap", "ip6erspan", "ip6gre", "ip6gretap", "ip6ip6", "ipip", "ipip6", "sit", "erspan"],
    because: "",
};

/// `ike-group key-exchange`.
pub(crate) const KEY_EXCHANGE: Keywords<()> =
    Keywords { supported: &[("ikev1", ())], unsupported: &["ikev2"], because: "" };

/// `profile authentication mode`.
pub(crate) const AUTHENTICATION_MODE: Keywords<()> = Keywords {
    supported: &[("pre-shared-secret", ())],
    unsupported: &["rsa", "x509", "rsa-sig", "eap"],
    because: "",
};

/// The configuration's word for it.
impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(ESP_ENCRYPTION.word(*self))
    }
}

/// The configuration's word for it.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(HASH.word(*self))
    }
}
