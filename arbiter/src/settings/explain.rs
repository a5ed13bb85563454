//! What each setting is for, as `config/default.toml` says it: there is one text about a key, and it is that one.

use super::DEFAULT_TOML;
use super::load::{KEYS, RULES, variable_of};

/// A setting, explained.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Explained {
    /// The key.
    pub key: &'static str,
    /// Its default, as it would stand in a file. None for the rules, of which there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<&'static str>,
    /// The variable that sets it. None for the rules, which are given in a file only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// What it is for.
    pub text: String,
}

/// Every setting, in the order of the file.
pub fn explain() -> Vec<Explained> {
    let mut all = Vec::new();
    let mut section = "";
    let mut comment: Vec<&'static str> = Vec::new();
    for line in DEFAULT_TOML.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.strip_prefix(' ').unwrap_or(text));
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((name, default)) = line.split_once(" = ") {
            let is_it = |key: &&&'static str| match key.split_once('.') {
                Some((of, key)) => of == section && key == name,
                None => section.is_empty() && **key == name,
            };
            if let Some(key) = KEYS.iter().find(is_it) {
                let variable = variable_of(key);
                let text = comment.join("\n");
                all.push(Explained { key, default: Some(default), variable: Some(variable), text });
            }
        }
        comment.clear();
    }
    // What stands at the end without a key of its own.
    all.push(Explained { key: RULES, default: None, variable: None, text: comment.join("\n") });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_explained() {
        let all = explain();
        let keys: Vec<_> = all.iter().map(|explained| explained.key).collect();
        assert_eq!(keys.len(), KEYS.len() + 1, "{keys:?}");
        assert!(KEYS.iter().chain([&RULES]).all(|key| keys.contains(key)), "{keys:?}");
        assert!(all.iter().all(|explained| !explained.text.is_empty()), "{all:?}");
        let level = all.iter().find(|explained| explained.key == "log.level").unwrap();
        assert_eq!(level.default, Some("\"info\""));
        assert_eq!(level.variable.as_deref(), Some("ARBITER__LOG__LEVEL"));
        assert!(level.text.starts_with("What is written to standard error"), "{}", level.text);
    }
}
