//! Bad input on a real socket: each gets a named refusal, the service goes on, nobody else is disturbed.

use arbiterq::audit::verify::verify_folder;
use arbiterq_client::{Client, Outcome};
use arbiterq_tests::binary::{Served, arbiter};
use arbiterq_tests::{PATIENCE, Raw, Service, serve_config};
use serde_json::Value;
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

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
    verify_folder(&folder.join("0"), &[], &mut |_| {}).unwrap();
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

#[tokio::test]
async fn half_a_connection_is_answered_what_it_asked() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(serve_config(folder.path())).await.unwrap();
    let mut raw = service.raw().await;
    let session = raw.open(KEY).await;
    // Each of these is answered by another way: a record, a record that comes later, none at all.
    raw.say(of(session, KEY, &acquire(1, "r", ""))).await;
    raw.say(of(session, KEY, &acquire(2, "r", ""))).await;
    raw.say(of(session, KEY, &acquire(1, "r", ""))).await;
    raw.say(of(session, KEY, r#""keep_alive":{"n":1}"#)).await;
    raw.say(of(session, OTHER, r#""close":{}"#)).await;
    raw.say(r#"{"v":1,"partition":0,"status":{"id":"s","what":"summary"}}"#).await;
    raw.say("not json").await;
    raw.says_nothing_more().await;
    let mut kinds = Vec::new();
    while let Some(answer) = raw.hear().await {
        let envelope = ["v", "epoch", "index", "partition", "session"];
        kinds.extend(
            answer.as_object().unwrap().keys().find(|key| !envelope.contains(&key.as_str())).cloned(),
        );
    }
    kinds.sort();
    assert_eq!(kinds, ["alive", "granted", "granted", "queued", "refused", "refused", "status"]);
    verified(service, folder.path()).await;
}

#[tokio::test]
async fn connections_are_closed_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(serve_config(folder.path())).await.unwrap();
    let mut raw = service.raw().await;
    raw.open(KEY).await;
    verified(service, folder.path()).await;
    assert!(raw.hear().await.is_none());
}

#[tokio::test]
async fn with_few_file_descriptors_it_refuses_connections_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -n 100 && exec "$0" "$@""#]).arg(arbiter());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let served = Served::start_with(command, folder.path(), "tcp://127.0.0.1:0").await;
    let mut first = Raw::connect(&served.url).await;
    let session = first.open(KEY).await;
    let mut others = Vec::new();
    for _ in 0..150 {
        others.push(Raw::connect(&served.url).await);
    }
    // Those that came last are told, not left to wait for nothing.
    assert!(others.pop().unwrap().hear().await.is_none(), "closed at once");
    let granted = first.ask(of(session, KEY, &acquire(1, "r", ""))).await;
    assert!(granted["granted"].is_object(), "{granted}");
    // A lease that is over still ends: nobody waits where it cannot be heard.
    let short = r#"{"v":1,"partition":0,"open":{"id":"x","key":"aaaaaaaaaaaaaaaaaaaaaaaaaaaa","lease_ms":100,"label":"l"}}"#;
    assert!(first.ask(short).await["opened"].is_object());
    let ended = first.hear().await.unwrap();
    assert!(ended["session_ended"].is_object(), "{ended}");
    served.stop().await;
    verify_folder(&folder.path().join("0"), &[], &mut |_| {}).unwrap();
}

/// Carries bytes between a client and a service, connection by connection, as the test says.
struct Between {
    listener: TcpListener,
    service: String,
}

impl Between {
    async fn start(service: &str) -> (Self, String) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("tcp://{}", listener.local_addr().unwrap());
        (Self { listener, service: service["tcp://".len()..].to_owned() }, url)
    }

    /// The client's next connection, and one to the service for it.
    async fn connection(&self) -> (TcpStream, TcpStream) {
        let (client, _) = timeout(PATIENCE, self.listener.accept()).await.expect("it connects").unwrap();
        (client, TcpStream::connect(&self.service).await.unwrap())
    }
}

#[tokio::test]
async fn a_client_that_cannot_read_an_answer_does_not_close_what_stands_for_its_life() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(serve_config(folder.path())).await.unwrap();
    let (between, url) = Between::start(&service.url).await;
    let client = tokio::spawn(async move {
        let client = Client::connect(&url).await.unwrap();
        let grant = client.acquire("r").await.unwrap();
        (client, grant)
    });
    let (mut to_client, mut to_service) = between.connection().await;
    let (client, grant) = {
        let carry = tokio::io::copy_bidirectional(&mut to_client, &mut to_service);
        tokio::select! {
            done = client => done.unwrap(),
            carried = carry => panic!("{carried:?}"),
        }
    };
    to_client.write_all(b"no message\n").await.unwrap();
    // It has given this connection up, and makes another. Until a session is known to have moved there, an end of the
    // first would be taken for the end of the process, which still holds.
    let (mut next_client, mut next_service) = between.connection().await;
    let mut bytes = vec![0; 64 * 1024];
    loop {
        match to_client.try_read(&mut bytes) {
            Ok(0) => panic!("an end of file, and the grant is held: {:?}", grant.check()),
            Ok(_) => {}
            Err(error) => break assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    grant.check().expect("held");
    let released = async {
        // Then it goes.
        while to_client.read(&mut bytes).await.unwrap() > 0 {}
        grant.release().await.unwrap()
    };
    tokio::select! {
        released = timeout(PATIENCE, released) => assert_eq!(released.unwrap(), Outcome::Released),
        carried = tokio::io::copy_bidirectional(&mut next_client, &mut next_service) => panic!("{carried:?}"),
    }
    drop(client);
    verified(service, folder.path()).await;
}
