//! The JSON Schemas in `client/protocol/schema/` against the golden files: each takes every golden message or
//! record, and `request.json` refuses what decoding refuses, but for what a schema cannot say.
//!
//! Judged by the few keywords that these schemas use; any other one fails the test.

#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it must be")]

use arbiterq_client::wire::{Reason, ReplyBody, RequestBody};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

fn protocol() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../protocol")
}

struct Schemas(BTreeMap<String, Value>);

impl Schemas {
    fn read() -> Self {
        let names = ["common.json", "request.json", "reply.json", "record.json"];
        let read = |name: &str| {
            let text = fs::read_to_string(protocol().join("schema").join(name)).unwrap();
            (name.to_owned(), serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}")))
        };
        Self(names.into_iter().map(read).collect())
    }

    /// What is wrong with a value, and where; `file` is where references without one lead.
    fn judge(&self, file: &str, value: &Value) -> Result<(), String> {
        self.check(file, &self.0[file], value).map_err(|why| format!("{file}: {why}: {value}"))
    }

    fn check(&self, file: &str, schema: &Value, value: &Value) -> Result<(), String> {
        let schema = match schema {
            Value::Bool(true) => return Ok(()),
            Value::Bool(false) => return Err("nothing may stand here".into()),
            Value::Object(schema) => schema,
            other => panic!("{file}: no schema: {other}"),
        };
        for (keyword, rule) in schema {
            self.keyword(file, schema, keyword, rule, value).map_err(|why| format!("{keyword}: {why}"))?;
        }
        Ok(())
    }

    fn keyword(
        &self,
        file: &str,
        schema: &Map<String, Value>,
        keyword: &str,
        rule: &Value,
        value: &Value,
    ) -> Result<(), String> {
        let (object, array, text) = (value.as_object(), value.as_array(), value.as_str());
        let number = value.as_u64();
        let fits = match keyword {
            "$schema" | "$id" | "title" | "$comment" | "$defs" => true,
            "$ref" => {
                let (other, pointer) = rule.as_str().unwrap().split_once('#').unwrap();
                let file = if other.is_empty() { file } else { other };
                let target = self.0[file].pointer(pointer).unwrap_or_else(|| panic!("{rule} leads nowhere"));
                return self.check(file, target, value);
            }
            "allOf" => {
                return rule.as_array().unwrap().iter().try_for_each(|s| self.check(file, s, value));
            }
            "oneOf" => {
                let fits = |s: &&Value| self.check(file, s, value).is_ok();
                rule.as_array().unwrap().iter().filter(fits).count() == 1
            }
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                other => panic!("type {other}"),
            },
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => !value.is_number() || number.is_some_and(|n| n >= rule.as_u64().unwrap()),
            "maximum" => number.is_none_or(|n| n <= rule.as_u64().unwrap()),
            "minLength" => text.is_none_or(|t| t.chars().count() as u64 >= rule.as_u64().unwrap()),
            "maxLength" => text.is_none_or(|t| t.chars().count() as u64 <= rule.as_u64().unwrap()),
            "pattern" => text.is_none_or(|t| matches(rule.as_str().unwrap(), t)),
            "minItems" => array.is_none_or(|a| a.len() as u64 >= rule.as_u64().unwrap()),
            "maxItems" => array.is_none_or(|a| a.len() as u64 <= rule.as_u64().unwrap()),
            "items" => return all(array.into_iter().flatten(), |v| self.check(file, rule, v)),
            "prefixItems" => {
                let pairs = rule.as_array().unwrap().iter().zip(array.into_iter().flatten());
                return all(pairs, |(s, v)| self.check(file, s, v));
            }
            "properties" => {
                let known = |(name, s)| Some((name, s, object?.get(name)?));
                let rules = rule.as_object().unwrap().iter().filter_map(known);
                return all(rules, |(name, s, v)| {
                    self.check(file, s, v).map_err(|why| format!("{name}: {why}"))
                });
            }
            "required" => {
                let names = rule.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                object.is_none_or(|o| names.into_iter().all(|name| o.contains_key(name)))
            }
            "dependentRequired" => object.is_none_or(|o| {
                let rules = rule.as_object().unwrap().iter().filter(|(name, _)| o.contains_key(*name));
                rules
                    .flat_map(|(_, needs)| needs.as_array().unwrap())
                    .all(|n| o.contains_key(n.as_str().unwrap()))
            }),
            "additionalProperties" => {
                assert_eq!(rule, &Value::Bool(false));
                let known = |name: &String| schema.get("properties").is_some_and(|p| p.get(name).is_some());
                object.is_none_or(|o| o.keys().all(known))
            }
            other => panic!("{file}: this test does not know the keyword {other}"),
        };
        fits.then_some(()).ok_or_else(|| rule.to_string())
    }
}

fn all<T>(of: impl Iterator<Item = T>, check: impl FnMut(T) -> Result<(), String>) -> Result<(), String> {
    let mut of = of;
    of.try_for_each(check)
}

/// The patterns of these schemas.
fn matches(pattern: &str, text: &str) -> bool {
    let hex =
        |digits: usize| text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match pattern {
        "^[0-9a-f]{64}$" => hex(64),
        "^[0-9a-f]{32}$" => hex(32),
        "^[A-Za-z0-9_-]{22,64}$" => {
            (22..=64).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        }
        r"^[^\u0000-\u001f\u007f-\u009f]*$" => !text.chars().any(char::is_control),
        r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$" => {
            let shape = "dddd-dd-ddTdd:dd:dd.ddddddZ";
            let fits = |(s, c): (char, char)| if s == 'd' { c.is_ascii_digit() } else { c == s };
            text.len() == shape.len() && shape.chars().zip(text.chars()).all(fits)
        }
        other => panic!("this test does not know the pattern {other}"),
    }
}

/// The lines of all files in a folder of golden files.
fn lines(folder: &str, ending: &str) -> Vec<(String, Value)> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(protocol().join("golden").join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(ending) {
            let text = fs::read_to_string(&path).unwrap();
            lines.extend(text.lines().map(|line| (name.clone(), serde_json::from_str(line).unwrap())));
        }
    }
    assert!(!lines.is_empty(), "nothing in {folder}");
    lines
}

#[test]
fn the_schemas_take_every_golden_file() {
    let schemas = Schemas::read();
    for (schema, folder, ending) in [
        ("request.json", "messages/requests", ".json"),
        ("reply.json", "messages/replies", ".json"),
        ("record.json", "log/0", ".log"),
    ] {
        for (name, value) in lines(folder, ending) {
            schemas.judge(schema, &value).unwrap_or_else(|why| panic!("{name}: {why}"));
        }
    }
}

#[test]
fn the_schema_of_requests_refuses_what_decoding_refuses() {
    // Bytes against characters; the same resource in two claims; a field that JSON readers take twice; 3.0.
    let beyond = ["field_doubled.json", "name_of_257_bytes.json", "resource_twice.json"];
    let schemas = Schemas::read();
    let mut taken = BTreeSet::new();
    for entry in fs::read_dir(protocol().join("golden/refused")).unwrap() {
        let path = entry.unwrap().path();
        let parsed = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if parsed.is_some_and(|value| schemas.judge("request.json", &value).is_ok()) {
            taken.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    assert_eq!(taken, beyond.map(str::to_owned).into());
}

#[test]
fn the_schemas_know_every_kind_and_no_other() {
    let schemas = Schemas::read();
    for (schema, kinds) in [("request.json", RequestBody::KINDS), ("reply.json", ReplyBody::KINDS)] {
        let frame = ["v", "partition", "session", "key", "epoch", "index"];
        let properties = schemas.0[schema]["properties"].as_object().unwrap().keys();
        let named: BTreeSet<&str> =
            properties.map(String::as_str).filter(|name| !frame.contains(name)).collect();
        assert_eq!(named, kinds.iter().copied().collect(), "{schema}");
    }
    for word in schemas.0["common.json"]["$defs"]["reason"]["enum"].as_array().unwrap() {
        let reason: Reason = serde_json::from_value(word.clone()).unwrap();
        assert_ne!(reason, Reason::Unknown, "{word} is no reason");
    }
}

/// A change that a reader would have to know of is noticed.
#[test]
fn the_schemas_refuse_what_is_not_the_format() {
    let schemas = Schemas::read();
    for (name, record) in lines("log/0", ".log") {
        for (field, value) in
            [("index", "1".into()), ("prev", "00".into()), ("at", "now".into()), ("new", 1.into())]
        {
            let mut changed = record.clone();
            changed[field] = value;
            assert!(schemas.judge("record.json", &changed).is_err(), "{name}: {field}: {changed}");
        }
    }
    for (name, reply) in lines("messages/replies", ".json") {
        for field in ["v", "epoch", "index"] {
            let mut changed = reply.clone();
            changed.as_object_mut().unwrap().remove(field);
            assert!(schemas.judge("reply.json", &changed).is_err(), "{name}: without {field}");
        }
    }
}
