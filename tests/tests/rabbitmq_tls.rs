//! Over a real RabbitMQ broker by TLS: certificates, whose they are, and what is said when they do not do.

use arbiterq_client::{Client, ErrorKind, Tls};
use arbiterq_tests::binary::{Ended, Running, Served, arbiter, command, run_command};
use arbiterq_tests::log_lines;
use arbiterq_tests::rabbitmq::Broker;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::Instant;

/// An authority and what it has signed, in files of a folder: `ca.pem`, and NAME`.pem` with NAME`.key`.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().unwrap();
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let authority = Self { folder, issuer: Issuer::new(params, key) };
        authority.sign("broker", |_| {});
        authority
    }

    /// A certificate of this common name, for 127.0.0.1.
    fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.file(&format!("{name}.pem")), signed.pem()).unwrap();
        std::fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }

    /// A file with this text.
    fn written(&self, name: &str, text: &str) -> String {
        std::fs::write(self.file(name), text).unwrap();
        self.text(name)
    }
}

/// `arbiter` with variables and arguments, to its end; no longer than it may take to say that there is no broker.
async fn says(variables: &[(&str, &str)], arguments: &[&str]) -> Ended {
    // Not to be counted: the binary may have to be built.
    arbiter();
    let began = Instant::now();
    let ended = Running::start(command().envs(variables.iter().copied()).args(arguments)).ended().await;
    assert!(began.elapsed().as_secs() < 9, "{arguments:?} took {:?}", began.elapsed());
    assert!(!ended.said.contains("hunter2") && !ended.said.contains("MIG"), "{}", ended.said);
    ended
}

/// The same, which did what it was asked.
async fn does(variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let Ended { code, out, said } = says(variables, arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {said}");
    out
}

/// The same, which was not done, for this reason.
async fn fails(variables: &[(&str, &str)], arguments: &[&str], code: i32, parts: &[&str]) {
    let ended = says(variables, arguments).await;
    assert_eq!(ended.code, Some(code), "{arguments:?}: {}", ended.said);
    for part in parts {
        assert!(ended.said.contains(part), "no {part:?} in: {}", ended.said);
    }
}

fn with(mut command: Command, variables: &[(&str, &str)]) -> Command {
    command.envs(variables.iter().copied());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_goes_by_tls_with_the_authority_given() {
    let authority = Authority::new();
    let broker = Broker::start_with_tls(authority.path(), "ssl_options.fail_if_no_peer_cert = false").await;
    broker.ctl(&["add_user", "alice", "hunter2"]);
    broker.ctl(&["set_permissions", "alice", ".*", ".*", ".*"]);
    let url = broker.tls_url("", "127.0.0.1");
    let (ca, credentials) = (authority.text("ca.pem"), authority.written("credentials", "alice:hunter2\n"));
    let given =
        [("ARBITER_URL", url.as_str()), ("ARBITER_CREDENTIALS", &credentials), ("ARBITER_TLS_CA", &ca)];

    does(&given[..1], &["broker", "init", "--tls-ca", &ca, "--credentials", &credentials]).await;
    // The service has it from its file.
    let settings = format!("url = {url:?}\ncredentials = {credentials:?}\n[tls]\nca = {ca:?}\n");
    let settings = authority.written("arbiter.toml", &settings);
    does(&[], &["config", "check", "--config", &settings]).await;
    let mut serve = command();
    serve.env("ARBITER__DATA", authority.path()).args(["serve", "--json", "--config", &settings]);
    let mut served = Running::start(&mut serve);
    assert!(served.line().await.contains("ready"), "{}", served.said());

    // What runs under it knows nothing of what lets us in.
    let mut shows = with(run_command(&url, &["r"], "env; echo held"), &given);
    let shown = Running::start(&mut shows).ended().await;
    assert_eq!(shown.code, Some(0), "{}", shown.said);
    assert!(shown.out.contains("ARBITER_TOKEN=") && shown.out.contains("held"), "{}", shown.out);
    for secret in ["ARBITER_CREDENTIALS", "ARBITER_TLS", &ca, &credentials, "hunter2"] {
        assert!(!shown.out.contains(secret), "{secret} in {}", shown.out);
    }
    // Its guard closes over a connection of its own, and by TLS, too.
    let mut dies = with(run_command(&url, &["r", "--lease", "10m"], "echo held; sleep 600"), &given);
    let mut dies = Running::start(&mut dies);
    assert_eq!(dies.line().await, "held", "{}", dies.said());
    dies.kill_9().await;
    does(&given, &["run", "r", "--wait", "20s", "--", "true"]).await;

    for arguments in [
        &["status"][..],
        &["bench", "--clients", "2", "--for", "1s"],
        &["bench", "echo", "--for", "1s"],
        &["audit", "verify", &url],
        &["audit", "export", &url, "--to", &authority.text("copy")],
    ] {
        does(&given, arguments).await;
    }
    let log = String::from_utf8(log_lines(&authority.file("copy").join("0")).concat()).unwrap();
    assert!(log.contains("\"alice\"") && !log.contains("hunter2"), "{log}");
    let client =
        Client::builder(&url).credentials(&credentials).tls(Tls::new().ca(&ca)).connect().await.unwrap();
    client.acquire("r").await.unwrap().release().await.unwrap();
    client.close().await;
    served.signal(rustix::process::Signal::TERM);
    assert_eq!(served.ended().await.code, Some(0));
}

#[tokio::test]
async fn what_does_not_do_is_said_with_its_remedy() {
    let authority = Authority::new();
    let broker = Broker::start_with_tls(authority.path(), "ssl_options.fail_if_no_peer_cert = false").await;
    let (url, ca) = (broker.tls_url("guest:guest@", "127.0.0.1"), authority.text("ca.pem"));
    does(&[], &["broker", "init", "--url", &url, "--tls-ca", &ca]).await;
    let (stranger, none) = (Authority::new().text("ca.pem"), authority.written("none.pem", "no PEM\n"));

    // The connection.
    let other_name = broker.tls_url("guest:guest@", "localhost");
    let plain = broker.url().replace("amqp://", "amqps://");
    for command in [&["broker", "init"][..], &["serve"], &["lock", "r"], &["audit", "verify", &url]] {
        fails(&[], &[command, &["--url", &url]].concat(), 69, &["not trusted", "--tls-ca", "127.0.0.1"])
            .await;
    }
    fails(&[], &["status", "--url", &url, "--tls-ca", &authority.text("broker.pem")], 69, &["--tls-ca"])
        .await;
    fails(&[], &["status", "--url", &other_name, "--tls-ca", &ca], 69, &["another name", "localhost"]).await;
    fails(&[], &["broker", "init", "--url", &plain, "--tls-ca", &ca], 69, &["does not speak TLS", "5671"])
        .await;
    drop(stranger);

    // Our own configuration.
    let (key, certificate) = (authority.text("broker.key"), authority.text("broker.pem"));
    authority.sign("other", |_| {});
    let other = authority.text("other.key");
    let nowhere = authority.text("nowhere.pem");
    let ways = [
        (vec!["--tls-ca", &nowhere], vec!["tls.ca", &nowhere, "No such file"]),
        (vec!["--tls-ca", &none], vec!["tls.ca", &none, "no certificate in it"]),
        (vec!["--tls-certificate", &certificate], vec!["tls.key", "is missing"]),
        (vec!["--tls-key", &key], vec!["tls.certificate", "is missing"]),
        (
            vec!["--tls-certificate", &certificate, "--tls-key", &none],
            vec!["tls.key", &none, "no private key"],
        ),
        (
            vec!["--tls-certificate", &certificate, "--tls-key", &other],
            vec![&certificate, &other, "not go together"],
        ),
    ];
    for (options, parts) in ways {
        for command in [&["lock", "r"][..], &["serve"], &["broker", "init"], &["audit", "verify", &url]] {
            fails(&[], &[command, &["--url", &url], &options].concat(), 78, &parts).await;
        }
    }
    fails(&[], &["lock", "r", "--url", &broker.url(), "--tls-ca", &ca], 78, &["write amqps://"]).await;
    let nobody = broker.tls_url("", "127.0.0.1");
    fails(&[("ARBITER_CREDENTIALS", &none)], &["lock", "r", "--url", &nobody, "--tls-ca", &ca], 78, &[&none])
        .await;
    // The service names all at once, each with its source, and an empty variable says nothing.
    let settings = format!("url = {url:?}\npartitions = 0\n[tls]\nca = {nowhere:?}\n");
    let settings = authority.written("arbiter.toml", &settings);
    let parts = ["partitions is 0", "tls.ca", &nowhere, "arbiter.toml"];
    fails(&[("ARBITER_TLS_CA", "")], &["config", "check", "--config", &settings], 78, &parts).await;
    let parts = ["partitions is 0", "tls.ca", &none, "ARBITER_TLS_CA"];
    fails(&[("ARBITER_TLS_CA", &none)], &["serve", "--config", &settings], 78, &parts).await;
    let failed = Client::builder(&url).tls(Tls::new().ca(&nowhere)).connect().await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Configuration, "{failed}");
}

#[tokio::test]
async fn the_user_is_whom_the_certificate_names() {
    let authority = Authority::new();
    let broker = Broker::start_with_tls(authority.path(), "ssl_options.fail_if_no_peer_cert = true").await;
    let stranger = Authority::new();
    stranger.sign("alice", |_| {});
    for user in ["arbiter", "alice"] {
        authority.sign(user, |_| {});
        broker.ctl(&["add_user", user, "hunter2"]);
        // By its certificate alone.
        broker.ctl(&["clear_password", user]);
    }
    broker.ctl(&["set_permissions", "arbiter", ".*", ".*", ".*"]);
    broker.ctl(&[
        "set_permissions",
        "alice",
        r"^client\.alice\.",
        r"^arbiter\.requests$",
        r"^client\.alice\.",
    ]);
    let at = |user: &str| broker.tls_url(&format!("{user}@"), "127.0.0.1") + "?auth_mechanism=external";
    let (ca, arbiter) = (authority.text("ca.pem"), at("arbiter"));
    let [certificate, key] = ["arbiter.pem", "arbiter.key"].map(|name| authority.text(name));
    let shown = ["--tls-ca", &ca, "--tls-certificate", &certificate, "--tls-key", &key];
    does(&[("ARBITER_URL", &arbiter)], &[&["broker", "init"][..], &shown].concat()).await;
    let mut serve = command();
    serve
        .env("ARBITER__TLS__CA", &ca)
        .env("ARBITER__TLS__CERTIFICATE", &certificate)
        .env("ARBITER__TLS__KEY", &key);
    let served = Served::start_with(serve, authority.path(), &arbiter).await;

    let [certificate, key] = ["alice.pem", "alice.key"].map(|name| authority.text(name));
    let alice = at("alice");
    let mine = [
        ("ARBITER_URL", alice.as_str()),
        ("ARBITER_TLS_CA", &ca),
        ("ARBITER_TLS_CERTIFICATE", &certificate),
        ("ARBITER_TLS_KEY", &key),
    ];
    let mut dies = with(run_command(&alice, &["r", "--lease", "10m"], "echo held; env; sleep 600"), &mine);
    let mut dies = Running::start(&mut dies);
    assert_eq!(dies.line().await, "held", "{}", dies.said());
    dies.kill_9().await;
    assert_eq!(does(&mine, &["run", "r", "--wait", "20s", "--", "echo", "next"]).await.trim(), "next");
    let tls = Tls::new().ca(&ca).identity(&certificate, &key);
    let client = Client::builder(&alice).tls(tls).connect().await.unwrap();
    client.acquire("r").await.unwrap().release().await.unwrap();
    client.close().await;

    // Without a certificate, with one of another authority, with another's name; and with nobody's.
    let wants = ["wants a certificate", "--tls-certificate", "ARBITER_TLS_KEY"];
    fails(&mine[..2], &["lock", "r"], 69, &wants).await;
    fails(&mine[..2], &["broker", "init"], 69, &wants).await;
    let [certificate, key] = ["alice.pem", "alice.key"].map(|name| stranger.text(name));
    let shown = ["--tls-certificate", &certificate, "--tls-key", &key];
    fails(&mine[..2], &[&["lock", "r"][..], &shown].concat(), 69, &["does not accept"]).await;
    fails(&mine[1..], &["lock", "r", "--url", &arbiter], 69, &["client.arbiter.", "alice"]).await;
    let nobody = broker.tls_url("", "127.0.0.1") + "?auth_mechanism=external";
    fails(&mine[1..], &["lock", "r", "--url", &nobody], 2, &["amqps://user@"]).await;

    let copy = authority.text("copy");
    let [certificate, key] = ["arbiter.pem", "arbiter.key"].map(|name| authority.text(name));
    let shown = ["--tls-ca", &ca, "--tls-certificate", &certificate, "--tls-key", &key];
    does(&[], &[&["audit", "export", &arbiter, "--to", &copy][..], &shown].concat()).await;
    let log = String::from_utf8(log_lines(&authority.file("copy").join("0")).concat()).unwrap();
    assert!(log.contains(r#""principal":"alice","principal_by":"broker_user""#), "{log}");
    served.stop().await;
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_refused_and_one_that_was_renewed_is_used() {
    let authority = Authority::new();
    authority.sign("broker", |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    let broker = Broker::start_with_tls(authority.path(), "ssl_options.fail_if_no_peer_cert = false").await;
    let (url, ca) = (broker.tls_url("guest:guest@", "127.0.0.1"), authority.text("ca.pem"));
    for command in [&["broker", "init"][..], &["lock", "r"], &["serve"]] {
        fails(&[], &[command, &["--url", &url, "--tls-ca", &ca]].concat(), 69, &["has expired", "renew"])
            .await;
    }
    authority.sign("broker", |_| {});
    broker.ctl(&["eval", "ssl:clear_pem_cache()."]);
    does(&[], &["broker", "init", "--url", &url, "--tls-ca", &ca]).await;
}
