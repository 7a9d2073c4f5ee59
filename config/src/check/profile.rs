//! Profiles with their groups, and the tunnels that they are bound to.

use std::collections::BTreeMap;

use toml::Spanned;

use crate::draft::{Draft, DraftEspGroup, DraftProfile};
use crate::keyword::Pfs;
use crate::model::{DhGroup, EspGroup, IkeGroup, Profile};
use crate::report::Report;
use crate::section::{nearest, shown};

/// The profile of each tunnel that has one, by the name of the tunnel.
pub(super) fn bind(draft: &Draft, report: &Report<'_>) -> BTreeMap<String, Profile> {
    let mut bound = BTreeMap::new();
    let mut claimed: BTreeMap<&str, &str> = BTreeMap::new();
    for draft_profile in &draft.profiles {
        if draft_profile.tunnels.is_empty() {
            let message = format!("profile `{}` is bound to no tunnel", shown(draft_profile.name.get_ref()));
            report.warning(
                draft_profile.name.span(),
                message,
                "bind.tunnel names the tunnels that it protects",
            );
        }
        let profile = resolve(draft_profile, draft, report);
        for tunnel in &draft_profile.tunnels {
            let name = tunnel.get_ref();
            if !draft.tunnels.iter().any(|entry| entry.name.get_ref() == name) {
                undefined(report, tunnel, "tunnel", draft.tunnels.iter().map(|entry| &entry.name));
                continue;
            }
            if let Some(other) = claimed.insert(name, draft_profile.name.get_ref()) {
                let message = format!("{name} is bound to profile `{}` already", shown(other));
                report.error(tunnel.span(), message, "a tunnel has one profile");
            } else if let Some(profile) = &profile {
                bound.insert(name.clone(), profile.clone());
            }
        }
    }
    remark_unused(draft, report);
    bound
}

/// Reports a name that is defined nowhere.
pub(super) fn undefined<'n>(
    report: &Report<'_>,
    name: &Spanned<String>,
    what: &str,
    defined: impl Iterator<Item = &'n Spanned<String>>,
) {
    let defined: Vec<&str> = defined.map(|name| name.get_ref().as_str()).collect();
    let help = if let Some(near) = nearest(name.get_ref(), &defined) {
        format!("did you mean `{near}`?")
    } else if defined.is_empty() {
        format!("no {what} is defined")
    } else {
        format!("defined: {}", defined.join(", "))
    };
    report.error(name.span(), format!("there is no {what} `{}`", shown(name.get_ref())), help);
}

fn resolve(profile: &DraftProfile, draft: &Draft, report: &Report<'_>) -> Option<Profile> {
    let ike = profile.ike_group.as_ref().and_then(|name| group(name, "ike-group", &draft.ike_groups, report));
    let esp = profile.esp_group.as_ref().and_then(|name| group(name, "esp-group", &draft.esp_groups, report));
    let ((_, ike), (esp_name, esp)) = (ike?, esp?);
    Some(Profile {
        name: profile.name.get_ref().clone(),
        secret: profile.secret.clone()?,
        peer_secrets: profile.peer_secrets.clone(),
        ike: ike.clone(),
        esp: esp_group(esp_name.get_ref(), esp, ike),
    })
}

fn group<'g, T>(
    name: &Spanned<String>,
    what: &str,
    groups: &'g [(Spanned<String>, T)],
    report: &Report<'_>,
) -> Option<&'g (Spanned<String>, T)> {
    let found = groups.iter().find(|(defined, _)| defined.get_ref() == name.get_ref());
    if found.is_none() {
        undefined(report, name, what, groups.iter().map(|(name, _)| name));
    }
    found
}

fn esp_group(name: &str, draft: &DraftEspGroup, ike: &IkeGroup) -> EspGroup {
    let first_group = ike.proposals.first().map_or(DhGroup::Modp1024, |proposal| proposal.dh_group);
    EspGroup {
        name: name.to_owned(),
        lifetime: draft.lifetime,
        mode: draft.mode,
        pfs: match draft.pfs {
            Pfs::Enable => Some(first_group),
            Pfs::Disable => None,
            Pfs::Group(group) => Some(group),
        },
        proposals: draft.proposals.clone(),
        replay_window: draft.replay_window,
    }
}

fn remark_unused(draft: &Draft, report: &Report<'_>) {
    let remark =
        |name: &Spanned<String>, what: &str, mut users: Box<dyn Iterator<Item = &Spanned<String>> + '_>| {
            if !users.any(|user| user.get_ref() == name.get_ref()) {
                let message = format!("no profile uses the {what} `{}`", shown(name.get_ref()));
                report.warning(name.span(), message, "");
            }
        };
    for (name, _) in &draft.ike_groups {
        remark(
            name,
            "ike-group",
            Box::new(draft.profiles.iter().filter_map(|profile| profile.ike_group.as_ref())),
        );
    }
    for (name, _) in &draft.esp_groups {
        remark(
            name,
            "esp-group",
            Box::new(draft.profiles.iter().filter_map(|profile| profile.esp_group.as_ref())),
        );
    }
}
