//! What decoding refuses, and with which reason: `client/protocol/golden/refused/`, a message a file, and
//! `refused.json` beside it, which says what each gets. `UPDATE=1` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it must be")]

use arbiterq_client::wire::{DecodeError, Reason, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../protocol/golden")
}

/// A message of a session.
fn of(body: &str) -> String {
    format!(r#"{{"v":1,"partition":0,"session":4790,"key":"{KEY}",{body}}}"#)
}

/// A message without one.
fn plain(body: &str) -> String {
    format!(r#"{{"v":1,"partition":0,{body}}}"#)
}

fn acquire(fields: &str) -> String {
    of(&format!(r#""acquire":{{"seq":3,{fields}}}"#))
}

fn claims(claims: &str) -> String {
    acquire(&format!(r#""claims":[{claims}]"#))
}

fn open(key: &str, lease_ms: &str, more: &str) -> String {
    plain(&format!(
        r#""open":{{"id":"o-1","key":"{key}","lease_ms":{lease_ms},"label":"ci-12@runner-3"{more}}}"#
    ))
}

fn exclusive(name: &str) -> String {
    format!(r#"{{"resource":"{name}","mode":"exclusive"}}"#)
}

fn table() -> BTreeMap<&'static str, (Reason, Vec<u8>)> {
    use Reason as R;
    let one = exclusive("db/migrate");
    let many = (0..65).map(|i| exclusive(&format!("r{i}"))).collect::<Vec<_>>().join(",");
    let padding = "x".repeat(65_536);
    let text = [
        ("no_json", R::Malformed, "hello".to_owned()),
        ("no_json_http", R::Malformed, "GET / HTTP/1.1".to_owned()),
        ("cut_off", R::Malformed, r#"{"v":1,"partition":0,"nudge":{"#.to_owned()),
        ("trailing", R::Malformed, format!("{} x", plain(r#""nudge":{}"#))),
        ("array", R::Malformed, r#"[1,0,null,null]"#.to_owned()),
        ("number", R::Malformed, "42".to_owned()),
        ("deep", R::Malformed, format!(r#"{{"v":1,"partition":0,"close":{}"#, "[".repeat(10_000))),
        ("empty_object", R::Malformed, "{}".to_owned()),
        ("no_version", R::Malformed, r#"{"partition":0,"nudge":{}}"#.to_owned()),
        ("no_partition", R::Malformed, r#"{"v":1,"nudge":{}}"#.to_owned()),
        ("negative_partition", R::Malformed, r#"{"v":1,"partition":-1,"nudge":{}}"#.to_owned()),
        ("field_missing", R::Malformed, of(r#""acquire":{"seq":3}"#)),
        ("field_doubled", R::Malformed, of(r#""cancel":{"seq":3,"seq":4}"#)),
        ("field_of_wrong_type", R::Malformed, of(r#""cancel":{"seq":"3"}"#)),
        ("fraction", R::Malformed, of(r#""cancel":{"seq":3.0}"#)),
        ("negative", R::Malformed, of(r#""cancel":{"seq":-3}"#)),
        ("mode_unknown", R::Malformed, claims(r#"{"resource":"db/migrate","mode":"greedy"}"#)),
        ("owner_of_three", R::Malformed, acquire(&format!(r#""claims":[{one}],"owner":[1,2,3]"#))),
        ("nonce_upper_case", R::Malformed, {
            plain(r#""tick":{"nonce":"00112233445566778899AABBCCDDEEFF","at":"2026-11-22T14:02:11.532481Z"}"#)
        }),
        ("too_long", R::MessageTooLong, plain(&format!(r#""pause":{{"id":"p-1","reason":"{padding}"}}"#))),
        ("version_0", R::UnknownVersion, r#"{"v":0,"partition":0,"nudge":{}}"#.to_owned()),
        ("version_2", R::UnknownVersion, r#"{"v":2,"partition":0,"nudge":{}}"#.to_owned()),
        ("version_2_with_news", R::UnknownVersion, r#"{"v":2,"partition":0,"new":1,"nudge":{}}"#.to_owned()),
        ("no_kind", R::UnknownKind, r#"{"v":1,"partition":0}"#.to_owned()),
        ("two_kinds", R::UnknownKind, of(r#""cancel":{"seq":3},"close":{}"#)),
        ("kind_unknown", R::UnknownKind, of(r#""seize":{"seq":3}"#)),
        ("kind_null", R::UnknownKind, plain(r#""nudge":null"#)),
        ("field_unknown", R::UnknownField, of(r#""cancel":{"seq":3,"force":true}"#)),
        ("field_unknown_in_frame", R::UnknownField, of(r#""trace":"x","cancel":{"seq":3}"#)),
        ("field_unknown_in_claim", R::UnknownField, {
            claims(r#"{"resource":"db/migrate","mode":"shared","ttl":1}"#)
        }),
        ("open_with_session", R::UnknownField, {
            of(&format!(r#""open":{{"id":"o-1","key":"{KEY}","lease_ms":60000,"label":"x"}}"#))
        }),
        ("without_session", R::SessionNeeded, plain(r#""cancel":{"seq":3}"#)),
        ("session_without_key", R::SessionNeeded, plain(r#""session":4790,"cancel":{"seq":3}"#)),
        ("key_without_session", R::SessionNeeded, plain(&format!(r#""key":"{KEY}","cancel":{{"seq":3}}"#))),
        ("name_empty", R::InvalidResource, claims(&exclusive(""))),
        ("name_of_300_bytes", R::InvalidResource, claims(&exclusive(&"n".repeat(300)))),
        ("name_of_257_bytes", R::InvalidResource, claims(&exclusive(&format!("{}n", "ü".repeat(128))))),
        ("name_with_line_feed", R::InvalidResource, claims(&exclusive(r"db\nmigrate"))),
        ("name_with_c1_control", R::InvalidResource, claims(&exclusive(r"db\u0085migrate"))),
        ("status_of_bad_name", R::InvalidResource, {
            plain(r#""status":{"id":"s-1","what":{"queue":"a\u0000b"}}"#)
        }),
        ("id_of_65_bytes", R::InvalidText, {
            plain(&format!(r#""status":{{"id":"{}","what":"summary"}}"#, "i".repeat(65)))
        }),
        ("label_with_escape", R::InvalidText, {
            plain(&format!(r#""open":{{"id":"o-1","key":"{KEY}","lease_ms":60000,"label":"\u001b[2J"}}"#))
        }),
        ("label_of_129_bytes", R::InvalidText, {
            let label = "l".repeat(129);
            plain(&format!(r#""open":{{"id":"o-1","key":"{KEY}","lease_ms":60000,"label":"{label}"}}"#))
        }),
        ("reason_of_1025_bytes", R::InvalidText, {
            acquire(&format!(r#""claims":[{one}],"reason":"{}""#, "r".repeat(1025)))
        }),
        ("value_of_4097_bytes", R::InvalidText, {
            acquire(&format!(r#""claims":[{one}],"value":"{}""#, "v".repeat(4097)))
        }),
        ("peer_of_256_bytes", R::InvalidText, {
            of(&format!(r#""attach":{{"n":1,"peer":"{}"}}"#, "p".repeat(256)))
        }),
        ("key_short", R::InvalidKey, open("0123456789abcdef01234", "60000", "")),
        ("key_with_blank", R::InvalidKey, open("0123456789abcdef 0123456789abcdef", "60000", "")),
        ("key_of_65_characters", R::InvalidKey, open(&"k".repeat(65), "60000", "")),
        ("key_of_a_session_short", R::InvalidKey, {
            r#"{"v":1,"partition":0,"session":4790,"key":"guess","cancel":{"seq":3}}"#.to_owned()
        }),
        ("seq_beyond", R::InvalidNumber, of(r#""cancel":{"seq":9007199254740992}"#)),
        ("session_beyond", R::InvalidNumber, {
            format!(
                r#"{{"v":1,"partition":0,"session":9007199254740992,"key":"{KEY}","cancel":{{"seq":3}}}}"#
            )
        }),
        ("priority_10", R::InvalidNumber, acquire(&format!(r#""claims":[{one}],"priority":10"#))),
        ("wait_of_a_year_and_more", R::InvalidNumber, {
            acquire(&format!(r#""claims":[{one}],"wait_ms":31622400001"#))
        }),
        ("hold_of_a_year_and_more", R::InvalidNumber, {
            acquire(&format!(r#""claims":[{one}],"hold_max_ms":31622400001"#))
        }),
        ("permits_without_mode", R::InvalidPermits, {
            claims(r#"{"resource":"workers","mode":"exclusive","permits":1}"#)
        }),
        ("mode_without_permits", R::InvalidPermits, claims(r#"{"resource":"workers","mode":"permits"}"#)),
        ("permits_0", R::InvalidPermits, {
            claims(r#"{"resource":"workers","mode":"permits","permits":0}"#)
        }),
        ("permits_beyond", R::InvalidPermits, {
            claims(r#"{"resource":"workers","mode":"permits","permits":1000001}"#)
        }),
        ("no_claims", R::NoClaims, claims("")),
        ("claims_65", R::TooManyClaims, claims(&many)),
        ("resource_twice", R::DuplicateResource, {
            claims(&format!(r#"{one},{{"resource":"db/migrate","mode":"shared"}}"#))
        }),
        ("lease_0", R::LeaseOutOfRange, open(KEY, "0", "")),
        ("lease_99", R::LeaseOutOfRange, open(KEY, "99", "")),
        ("lease_of_a_year", R::LeaseOutOfRange, open(KEY, "31536000000", "")),
        ("fail_fast_0", R::LeaseOutOfRange, open(KEY, "60000", r#","fail_fast_ms":0"#)),
    ];
    let mut table: BTreeMap<_, _> =
        text.into_iter().map(|(name, reason, text)| (name, (reason, text.into_bytes()))).collect();
    table.insert("no_utf_8", (R::Malformed, b"{\"v\":1,\"partition\":0,\"nudge\":{},\"\xff\":1}".to_vec()));
    table.insert("zeros", (R::Malformed, vec![0; 16]));
    table
}

/// What a client is told of it, without the words for people.
fn told(error: &DecodeError) -> serde_json::Value {
    let mut told = serde_json::Map::new();
    told.extend(error.session.map(|session| ("session".to_owned(), session.into())));
    let mut refused = serde_json::Map::new();
    refused.extend(error.id.clone().map(|id| ("id".to_owned(), id.into())));
    refused.extend(error.seq.map(|seq| ("seq".to_owned(), seq.into())));
    refused.extend(error.token.map(|token| ("token".to_owned(), token.into())));
    refused.insert("reason".to_owned(), error.reason.to_string().into());
    told.insert("refused".to_owned(), refused.into());
    told.into()
}

#[test]
fn what_is_refused_is_named() {
    let (folder, index) = (golden().join("refused"), golden().join("refused.json"));
    let update = std::env::var_os("UPDATE").is_some();
    let mut lines = Vec::new();
    for (name, (reason, message)) in table() {
        let error = Request::decode(&message).expect_err(name);
        assert_eq!(error.reason, reason, "{name}: {error}");
        assert!(!error.detail.contains(KEY), "{name}: the detail shows the key");
        assert!(error.detail.len() <= 1024, "{name}: the detail is as long as what was sent");
        let path = folder.join(format!("{name}.json"));
        if update {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &message).unwrap();
        }
        let golden = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(golden == message, "{name}: not as its golden file");
        lines.push(format!("  \"{name}.json\": {}", told(&error)));
    }
    let table_text = format!("{{\n{}\n}}\n", lines.join(",\n"));
    if update {
        fs::write(&index, &table_text).unwrap();
    }
    assert_eq!(table_text, fs::read_to_string(&index).unwrap());
    let names = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let wanted: BTreeSet<_> = table().keys().map(|name| format!("{name}.json")).collect();
    assert_eq!(names.collect::<BTreeSet<_>>(), wanted);
}

/// Every reason for which decoding refuses has an example here.
#[test]
fn every_reason_of_decoding_has_an_example() {
    use Reason as R;
    let shown: BTreeSet<Reason> = table().values().map(|(reason, _)| *reason).collect();
    let wanted = [
        R::Malformed,
        R::MessageTooLong,
        R::UnknownVersion,
        R::UnknownKind,
        R::UnknownField,
        R::InvalidResource,
        R::InvalidText,
        R::InvalidKey,
        R::InvalidNumber,
        R::InvalidPermits,
        R::NoClaims,
        R::TooManyClaims,
        R::DuplicateResource,
        R::LeaseOutOfRange,
        R::SessionNeeded,
    ];
    assert_eq!(shown, BTreeSet::from(wanted));
}

/// What stands just within the limits is taken.
#[test]
fn the_limits_themselves_are_allowed() {
    let many = (0..64).map(|i| exclusive(&format!("r{i}"))).collect::<Vec<_>>().join(",");
    let of_256_bytes = exclusive(&"ü".repeat(128));
    for message in [
        claims(&many),
        claims(&of_256_bytes),
        claims(r#"{"resource":"workers","mode":"permits","permits":1000000}"#),
        acquire(&format!(r#""claims":[{of_256_bytes}],"priority":9,"wait_ms":31622400000"#)),
        open("0123456789abcdef-_ABCD", "100", r#","fail_fast_ms":86400000"#),
        open(&"k".repeat(64), "86400000", ""),
        of(r#""cancel":{"seq":9007199254740991}"#),
    ] {
        assert!(Request::decode(message.as_bytes()).is_ok(), "{message}");
    }
    let frame = plain(r#""nudge":{}"#).len();
    let padded = format!("{}{}", plain(r#""nudge":{}"#), " ".repeat(65_536 - frame));
    assert!(Request::decode(padded.as_bytes()).is_ok());
    assert_eq!(Request::decode(format!("{padded} ").as_bytes()).unwrap_err().reason, Reason::MessageTooLong);
}
