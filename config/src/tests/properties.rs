//! What holds for every text.

use proptest::prelude::*;

use super::example;
use crate::examine_text;

const WORDS: [&str; 26] = [
    "[interfaces.ethernet.eth0]\n",
    "[interfaces.tunnel.tun0]\n",
    "[protocols.nhrp.tunnel.tun0.map.\"10.0.0.1/24\"]\n",
    "[protocols.static.route.\"0.0.0.0/0\"]\n",
    "[vpn.ipsec.profile.P.authentication]\n",
    "[vpn.ipsec.esp-group.E.proposal.1]\n",
    "[dataplane]\n",
    "[[vpn]]\n",
    "address = ",
    "port = ",
    "next-hop = ",
    "pre-shared-secret = ",
    "encryption = ",
    "workers = ",
    "tos = ",
    "key = ",
    "\"",
    "\"\"\"",
    "'",
    "10.0.0.1/24",
    "{",
    "}",
    "[",
    "\n",
    "\u{fc}\u{1f512}",
    " = -99999999999999999999999999999999999999999\n",
];

/// Every diagnostic must render, and point into the text.
fn digest(text: &str) {
    let examined = examine_text(text, "box.toml");
    assert_eq!(
        examined.config.is_none(),
        examined.diagnostics.iter().any(|diagnostic| diagnostic.severity == crate::Severity::Error)
    );
    for diagnostic in &examined.diagnostics {
        let excerpt = diagnostic.excerpt.as_ref().unwrap();
        assert!(excerpt.line <= 1 + text.matches('\n').count());
        assert!(excerpt.mark.0 + excerpt.mark.1 <= excerpt.text.chars().count());
        assert!(diagnostic.to_string().lines().count() >= 4);
    }
}

proptest! {
    #[test]
    fn any_text(text in any::<String>()) {
        digest(&text);
    }

    #[test]
    fn any_words(words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..40)) {
        digest(&words.concat());
    }

    #[test]
    fn any_damage(at in 0_usize..4000, cut in 0_usize..60, insert in prop::sample::select(&WORDS[..])) {
        let text = example("spoke1.toml");
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        digest(&format!("{}{insert}{}", &text[..at], &text[end..]));
    }

    /// Whatever happens to the text around a secret, and to the name of its key, no diagnostic shows it.
    #[test]
    fn no_damage_reveals_a_secret(at in 0_usize..4000, cut in 0_usize..8, insert in prop::sample::select(&WORDS[..])) {
        let text = example("spoke1.toml").replace("\"SECRET\"", "\"hunter2\"");
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        let damaged = format!("{}{insert}{}", &text[..at], &text[end..]);
        for diagnostic in examine_text(&damaged, "spoke1.toml").diagnostics {
            let shown = diagnostic.to_string();
            prop_assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
