//! Topic names and filters, from OASIS MQTT 5.0 section 4.7 and 4.8.2, and the topics of shadows.

/// The most bytes of a topic, from `docs/protocol.md`.
const BYTES_MAX: usize = 512;

/// Returns true if `text` is a topic that can be published to.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=BYTES_MAX).contains(&text.len()) && !text.contains(['+', '#']) && is_clean(text)
}

/// Returns true if `text` has no character that section 1.5.4 advises against.
fn is_clean(text: &str) -> bool {
    text.chars().map(u32::from).all(|c| {
        let control = c < 0x20 || (0x7F..0xA0).contains(&c);
        let is_character = !(0xFDD0..0xFDF0).contains(&c) && c % 0x1_0000 < 0xFFFE;
        !control && is_character
    })
}

/// The group, if `text` is a shared subscription, and the levels of the filter; `None` if it is no filter.
#[must_use]
pub fn filter(text: &str) -> Option<(Option<&str>, Vec<&str>)> {
    if text.is_empty() || text.len() > BYTES_MAX || !is_clean(text) {
        return None;
    }
    let levels: Vec<&str> = text.split('/').collect();
    let (group, levels) = match levels.as_slice() {
        ["$share"] | [] => (None, levels),
        ["$share", group, rest @ ..] => (Some(*group), rest.to_vec()),
        _ => (None, levels),
    };
    if group.is_some_and(|group| group.is_empty() || group.contains(['+', '#'])) || matches!(levels.as_slice(), []) {
        return None;
    }
    if group.is_some() && levels == [""] {
        return None;
    }
    let (last, above) = levels.split_last()?;
    let plain = |level: &&str| !level.contains(['+', '#']) || *level == "+";
    (above.iter().all(plain) && (plain(last) || *last == "#")).then_some((group, levels))
}

/// Returns true if a filter of these levels selects the topic.
#[must_use]
pub fn selects(filter: &[&str], topic: &str) -> bool {
    let levels: Vec<&str> = topic.split('/').collect();
    let hidden = topic.starts_with('$') && matches!(filter, ["+" | "#", ..]);
    !hidden && selects_levels(filter, &levels)
}

fn selects_levels(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => selects_levels(filter, topic),
        ([level, filter @ ..], [name, topic @ ..]) => level == name && selects_levels(filter, topic),
        _ => false,
    }
}

/// Returns the meaning of a publication to a topic: `plain`, `reserved`, or operation, dialect, device and shadow name.
#[must_use]
pub fn meaning(topic: &str) -> String {
    let levels: Vec<&str> = topic.split('/').collect();
    let request = match levels.as_slice() {
        ["shadow", device, operation] => Some((*operation, "Native", *device, None)),
        ["shadow", device, "name", name, operation] => Some((*operation, "Native", *device, Some(*name))),
        ["$aws", "things", device, "shadow", operation] => Some((*operation, "Aws", *device, None)),
        ["$aws", "things", device, "shadow", "name", name, operation] => {
            Some((*operation, "Aws", *device, Some(*name)))
        }
        _ => None,
    };
    match request {
        Some((operation @ ("update" | "get" | "delete"), dialect, device, name))
            if is_shadow_part(device, 128, ":_-") && name.is_none_or(|name| is_shadow_part(name, 64, ":_-$")) =>
        {
            format!("{operation} {dialect} {device} {}", name.unwrap_or("/"))
        }
        _ if matches!(levels.as_slice(), ["shadow", _, ..] | ["$aws" | "$share" | "$SYS", ..]) => "reserved".to_owned(),
        _ => "plain".to_owned(),
    }
}

fn is_shadow_part(text: &str, bytes_max: usize, others: &str) -> bool {
    (1..=bytes_max).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}
