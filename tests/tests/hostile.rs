//! Bad input on a real socket: each gets a named refusal, the service goes on, nobody else is disturbed.

use arbiterq::audit::verify::verify_folder;
use arbiterq_tests::{Raw, Service, serve_config};
use serde_json::Value;

const KEY: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

fn of(session: u64, key: &str, body: &str) -> String {
    format!(r#"{{"v":1,"partition":0,"session":{session},"key":"{key}",{body}}}"#)
}

fn acquire(seq: u64, resource: &str, more: &str) -> String {
    format!(r#""acquire":{{"seq":{seq},"claims":[{{"resource":"{resource}","mode":"exclusive"}}]{more}}}"#)
}

fn reason(answer: &Value) -> &str {
    answer["refused"]["reason"].as_str().unwrap_or_else(|| panic!("a refusal, not {answer}"))
}

async fn verified(service: Service, folder: &std::path::Path) {
    service.stop().await.unwrap();
    verify_folder(&folder.join("0"), &mut |_| {}).unwrap();
}

#[tokio::test]
async fn what_is_no_message_is_refused_by_name_and_the_connection_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(serve_config(folder.path())).await.unwrap();
    let mut raw = service.raw().await;
    let session = raw.open(KEY).await;
    let name = "n".repeat(300);
    let claims: Vec<_> = (0..65).map(|i| format!(r#"{{"resource":"r{i}","mode":"exclusive"}}"#)).collect();
    let open = |lease: &str| {
        format!(
            r#"{{"v":1,"partition":0,"open":{{"id":"x","key":"{OTHER}","lease_ms":{lease},"label":"l"}}}}"#
        )
    };
    let long = format!(r#"{{"v":1,"partition":0,"x":"{}"}}"#, "y".repeat(70_000));
    let table = [
        ("not json".to_owned(), "malformed"),
        ("[]".to_owned(), "malformed"),
        ("\u{0}\u{1}\u{2}".to_owned(), "malformed"),
        (long, "message_too_long"),
        (r#"{"v":2,"partition":0,"close":{}}"#.to_owned(), "unknown_version"),
        (of(session, KEY, r#""dance":{}"#), "unknown_kind"),
        (of(session, KEY, r#""close":{"softly":true}"#), "unknown_field"),
        (of(session, KEY, &acquire(1, &name, "")), "invalid_resource"),
        (of(session, KEY, &acquire(1, "a\\u0007b", "")), "invalid_resource"),
        (
            of(session, KEY, &format!(r#""acquire":{{"seq":1,"claims":[{}]}}"#, claims.join(","))),
            "too_many_claims",
        ),
        (open("0"), "lease_out_of_range"),
        (open("31536000000"), "lease_out_of_range"),
        (r#"{"v":1,"partition":7,"status":{"id":"s","what":"summary"}}"#.to_owned(), "wrong_partition"),
        (r#"{"v":1,"partition":0,"release":{"token":1}}"#.to_owned(), "session_needed"),
        (of(session, OTHER, r#""release":{"token":1}"#), "not_yours"),
        (of(9_000_000, KEY, r#""release":{"token":1}"#), "not_yours"),
        (of(session, KEY, r#""release":{"token":4000000}"#), "not_held"),
        (of(session, "short", r#""close":{}"#), "invalid_key"),
    ];
    for (line, expected) in table {
        let answer = raw.ask(&line).await;
        assert_eq!(reason(&answer), expected, "{}", &line[..line.len().min(200)]);
    }
    let granted = raw.ask(of(session, KEY, &acquire(1, "r", ""))).await;
    assert!(granted["granted"]["token"].is_u64(), "undisturbed: {granted}");
    verified(service, folder.path()).await;
}

#[tokio::test]
async fn another_sessions_token_is_not_yours() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(serve_config(folder.path())).await.unwrap();
    let (mut one, mut two) = (service.raw().await, service.raw().await);
    let (a, b) = (one.open(KEY).await, two.open(OTHER).await);
    let token = one.ask(of(a, KEY, &acquire(1, "r", ""))).await["granted"]["token"].as_u64().unwrap();
    let answer = two.ask(of(b, OTHER, &format!(r#""release":{{"token":{token}}}"#))).await;
    assert_eq!(reason(&answer), "not_yours");
    // A dead session's number is answered, whoever asks.
    one.ask(of(a, KEY, r#""close":{}"#)).await;
    let answer = two.ask(of(a, KEY, r#""close":{}"#)).await;
    assert!(answer["session_ended"].is_object(), "{answer}");
    verified(service, folder.path()).await;
}

#[tokio::test]
async fn one_request_or_one_waiter_too_many_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = serve_config(folder.path());
    config.partition.policy.in_flight_max = 3;
    config.partition.policy.sessions_max = 2;
    config.partition.policy.rules = vec![arbiterq::log::record::Rule {
        pattern: "narrow*".into(),
        waiters_max: Some(1),
        ..Default::default()
    }];
    let service = Service::start(config).await.unwrap();
    let mut raw = service.raw().await;
    let session = raw.open(KEY).await;
    assert!(raw.ask(of(session, KEY, &acquire(1, "narrow/a", ""))).await["granted"].is_object());
    assert!(raw.ask(of(session, KEY, &acquire(2, "narrow/a", ""))).await["queued"].is_object());
    assert_eq!(reason(&raw.ask(of(session, KEY, &acquire(3, "narrow/a", ""))).await), "waiters_max");
    assert!(raw.ask(of(session, KEY, &acquire(4, "b", ""))).await["granted"].is_object());
    assert_eq!(reason(&raw.ask(of(session, KEY, &acquire(5, "c", ""))).await), "in_flight_max");
    service.raw().await.open(OTHER).await;
    let open = r#"{"v":1,"partition":0,"open":{"id":"x","key":"aaaaaaaaaaaaaaaaaaaaaaaaaaaa","lease_ms":1000,"label":"l"}}"#;
    assert_eq!(reason(&raw.ask(open).await), "sessions_max");
    verified(service, folder.path()).await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_dropped_and_its_session_lives() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(serve_config(folder.path())).await.unwrap();
    let mut raw = service.raw().await;
    let session = raw.open(KEY).await;
    assert!(raw.ask(of(session, KEY, &acquire(1, "r", ""))).await["granted"].is_object());
    // It asks and asks, and takes no answer, until the service gives up on it.
    let mut deaf = service.raw().await;
    let status = r#"{"v":1,"partition":0,"status":{"id":"s","what":"holders"}}"#.to_owned() + "\n";
    let block = status.repeat(200);
    while deaf.try_say(&block).await {}
    // Its session, and everybody else, are served.
    let answer = raw.ask(of(session, KEY, r#""keep_alive":{"n":1}"#)).await;
    let mut heard = answer;
    while heard["alive"].is_null() {
        heard = raw.hear().await.unwrap();
    }
    assert_eq!(heard["alive"]["held"].as_array().unwrap().len(), 1);
    verified(service, folder.path()).await;
}

#[tokio::test]
async fn forged_letters_and_nudges_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(serve_config(folder.path())).await.unwrap();
    let mut raw = service.raw().await;
    let session = raw.open(KEY).await;
    let nonce = "00".repeat(16);
    raw.say(format!(
        r#"{{"v":1,"partition":0,"tick":{{"nonce":"{nonce}","at":"2090-01-01T00:00:00.000000Z"}}}}"#
    ))
    .await;
    raw.say(format!(
        r#"{{"v":1,"partition":0,"gone":{{"nonce":"{nonce}","session":{session},"n":0,"cause":"closed"}}}}"#
    ))
    .await;
    raw.say(r#"{"v":1,"partition":0,"nudge":{}}"#).await;
    let granted = raw.ask(of(session, KEY, &acquire(1, "r", ""))).await;
    assert!(granted["granted"].is_object(), "{granted}");
    verified(service, folder.path()).await;
}

#[tokio::test]
async fn a_line_in_pieces_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(serve_config(folder.path())).await.unwrap();
    let mut raw = Raw::connect(&service.url).await;
    let session = raw.open(KEY).await;
    let line = of(session, KEY, &acquire(1, "r", "")) + "\n";
    for piece in line.as_bytes().chunks(7) {
        raw.say_bytes(piece).await;
    }
    assert!(raw.hear().await.unwrap()["granted"].is_object());
    verified(service, folder.path()).await;
}
