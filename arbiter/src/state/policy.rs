//! The policy in force, looked up by resource.

use crate::log::record::{Policy, Rule, WAITERS_MAX_DEFAULT};
use arbiterq_client::wire::{ResourceName, Timestamp};
use std::sync::Arc;

/// Which rule of the policy a resource has; none for the defaults.
pub(super) type RuleIndex = Option<u32>;

/// The policy in force. Cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Rules(Arc<Policy>);

/// What a resource's rule says, or the defaults.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits<'a>(Option<&'a Rule>);

impl Rules {
    pub(super) fn new(policy: Policy) -> Self {
        Self(Arc::new(policy))
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.0
    }

    pub(super) fn is_without_rules(&self) -> bool {
        self.0.rules.is_empty()
    }

    /// The first rule whose pattern matches.
    pub(super) fn index_of(&self, resource: &ResourceName) -> RuleIndex {
        let at = self.0.rules.iter().position(|rule| matches(&rule.pattern, resource.as_str()))?;
        u32::try_from(at).ok()
    }

    pub(super) fn limits(&self, rule: RuleIndex) -> Limits<'_> {
        Limits(rule.and_then(|rule| self.0.rules.get(rule as usize)))
    }
}

impl Limits<'_> {
    /// How many permits there are.
    pub(super) fn capacity(&self) -> u32 {
        self.0.and_then(|rule| rule.capacity).unwrap_or(1)
    }

    /// The longest hold, if there is a limit.
    pub(super) fn hold_max_ms(&self) -> Option<u64> {
        self.0?.hold_max_ms
    }

    /// How many may wait.
    pub(super) fn waiters_max(&self) -> usize {
        self.0.and_then(|rule| rule.waiters_max).unwrap_or(WAITERS_MAX_DEFAULT) as usize
    }

    /// Until when nobody is granted what was lost at a moment, if the rule wants a delay.
    pub(super) fn delayed_until(&self, at: Timestamp) -> Option<Timestamp> {
        self.0?.lock_delay_ms.filter(|ms| *ms > 0).map(|ms| at.plus_ms(ms))
    }

    /// Whether a principal may acquire.
    pub(super) fn allows(&self, principal: &str) -> bool {
        let allow = self.0.and_then(|rule| rule.allow.as_ref());
        allow.is_none_or(|names| names.iter().any(|name| **name == *principal))
    }
}

/// Whether a pattern matches a whole name; `*` stands for any characters, also none.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // The last star, and the name's byte up to which it stands: on a mismatch it takes one more. Only the last
    // needs to be tried again, so this is at worst pattern times name, never exponential.
    let mut star = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, n) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*", "anything", true),
            ("db/*", "db/migrate", true),
            ("db/*", "db/", true),
            ("db/*", "db", false),
            ("*/migrate", "db/migrate", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("db", "db", true),
            ("db", "dbx", false),
            ("", "db", false),
            ("**", "db", true),
            ("ä*", "äx", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_first_match_counts() {
        let rule = |pattern: &str, capacity| Rule { pattern: pattern.into(), capacity, ..Rule::default() };
        let rules = vec![rule("pool/gpu", Some(8)), rule("pool/*", Some(3)), rule("*", None)];
        let rules = Rules::new(Policy { rules, ..Policy::default() });
        let capacity =
            |name: &str| rules.limits(rules.index_of(&ResourceName::new(name).unwrap())).capacity();
        assert_eq!((capacity("pool/gpu"), capacity("pool/cpu"), capacity("x")), (8, 3, 1));
    }
}
