//! `arbiter serve` as its operator and its service manager meet it: starting, signals, settings read again.

use arbiterq_tests::PATIENCE;
use arbiterq_tests::binary::{Running, Served, arbiter_says, command, run};
use arbiterq_tests::verifiers::both_are_clean;
use rustix::process::Signal;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

fn serve(data: &Path, url: &str) -> Running {
    Running::start(command().args(["serve", "--url", url, "--data"]).arg(data))
}

/// A client that asks for much and reads nothing: a stop waits for it, for a moment.
async fn reads_nothing(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let ask = br#"{"v":1,"partition":0,"status":{"id":"q","what":"summary"}}"#;
    let asks = [&ask[..], b"\n"].concat().repeat(4000);
    stream.write_all(&asks).await.unwrap();
    stream
}

#[tokio::test]
async fn a_stop_finishes_answers_and_exits_with_0_also_beside_a_client_that_never_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (data, socket) = (folder.path().join("data"), folder.path().join("socket"));
    let served = Served::start_at(&data, &format!("unix://{}", socket.display())).await;
    let mut lock = Running::start(command().args(["lock", "r", "--url", &served.url]).stdin(Stdio::piped()));
    lock.line().await;
    let _deaf = reads_nothing(&socket).await;
    served.process.signal(Signal::TERM);
    let ended = served.process.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.said.contains("stopped"), "{}", ended.said);
    both_are_clean(&data);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (data, socket) = (folder.path().join("data"), folder.path().join("socket"));
    let served = Served::start_at(&data, &format!("unix://{}", socket.display())).await;
    // Without it there would be nothing to wait for, and the first signal enough.
    let _deaf = reads_nothing(&socket).await;
    // What it sends fills the socket only once it has been asked.
    assert_eq!(arbiter_says(&served.url, &["status"]).await.code, Some(0));
    served.process.signal(Signal::TERM);
    served.process.says("stopping").await;
    served.process.signal(Signal::TERM);
    let ended = served.process.ended().await;
    assert_eq!(ended.code, Some(128 + 15), "{}", ended.said);
    let again = Served::start_at(&data, "tcp://127.0.0.1:0").await;
    again.stop().await;
    both_are_clean(&data);
}

#[tokio::test]
async fn what_does_not_start_says_why_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let served = Served::start(&data).await;
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let other = folder.path().join("other");
    let any = "tcp://127.0.0.1:0";
    let nowhere = format!("unix://{}", folder.path().join("no/such/folder").display());
    for (url, data, code, remedy) in [
        (served.url.as_str(), other.as_path(), 78, "choose another with --url"),
        (any, data.as_path(), 78, "choose another folder with --data"),
        (any, &file.join("under"), 74, "choose another with --data"),
        (&nowhere, &other, 74, "choose another with --url"),
        ("tcp://0.0.0.0:0", &other, 78, "use 127.0.0.1"),
        ("tcp://192.0.2.1:7117", &other, 78, "use 127.0.0.1"),
    ] {
        let ended = serve(data, url).ended().await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(code), ""), "{url}: {}", ended.said);
        assert!(ended.said.contains(remedy), "{url}: {}", ended.said);
        // The line says what; three more at most say the rest. Nothing is coloured where nobody looks.
        let error = ended.said.lines().skip_while(|line| !line.starts_with("error[")).count();
        assert!((1..=4).contains(&error) && !ended.said.contains('\x1b'), "{}", ended.said);
    }
    served.stop().await;
    both_are_clean(&data);
}

#[tokio::test]
async fn it_serves_also_where_nobody_reads_that_it_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let (data, socket) = (folder.path().join("data"), folder.path().join("socket"));
    let url = format!("unix://{}", socket.display());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = command()
        .args(["serve", "--url", &url, "--data"])
        .arg(&data)
        .stdout(writer)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The notification would come before; what counts is that it answers, and goes on to.
    let answers = async {
        while arbiter_says(&url, &["status"]).await.code != Some(0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answers).await.expect("it serves");
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    both_are_clean(&data);
}

/// The next datagram, as the service manager reads it.
async fn told(socket: UnixDatagram) -> (UnixDatagram, String) {
    tokio::task::spawn_blocking(move || {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).expect("it tells");
        (socket, String::from_utf8_lossy(&bytes[..length]).into_owned())
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_service_manager_hears_when_it_is_ready_and_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let named = UnixDatagram::bind(&path).unwrap();
    let name = format!("arbiter-test-{}", std::process::id());
    let address = <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name).unwrap();
    let nameless = UnixDatagram::bind_addr(&address).unwrap();
    for (number, (socket, shown)) in
        [(named, path.display().to_string()), (nameless, format!("@{name}"))].into_iter().enumerate()
    {
        let data = folder.path().join(number.to_string());
        let mut serve = command();
        serve.env("NOTIFY_SOCKET", shown);
        let served = Served::start_with(serve, &data, "tcp://127.0.0.1:0").await;
        let (socket, state) = told(socket).await;
        assert_eq!(state, "READY=1");
        served.stop().await;
        assert_eq!(told(socket).await.1, "STOPPING=1");
    }
}

#[tokio::test]
async fn a_hangup_reads_rules_limits_and_the_log_level_again_and_keeps_the_old_on_error() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("arbiter.toml"));
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    let rule = |capacity: u32| format!("[[rules]]\npattern = \"pool\"\ncapacity = {capacity}\n");
    write(&rule(1));
    let mut serve = command();
    serve.args(["serve", "--json", "--url", "tcp://127.0.0.1:0", "--config"]).arg(&file);
    let mut service = Running::start(serve.arg("--data").arg(&data));
    let ready: serde_json::Value = serde_json::from_str(&service.line().await).unwrap();
    let url = ready["ready"]["url"].as_str().unwrap().to_owned();
    let two = ["pool", "--permits", "2"];
    assert_eq!(run(&url, &two, "exit 0").ended().await.code, Some(77));

    write(&(rule(2) + "[grant_log]\ncheckpoint_records = 500\n"));
    service.signal(Signal::HUP);
    service.says("settings reloaded").await;
    service.says("grant_log.checkpoint_records").await;
    let ended = run(&url, &two, "exit 0").ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);

    write(&(rule(3) + "nonsense = 1\n"));
    service.signal(Signal::HUP);
    service.says("settings not reloaded").await;
    service.says("nonsense").await;
    assert_eq!(run(&url, &["pool", "--permits", "3"], "exit 0").ended().await.code, Some(77));
    assert_eq!(run(&url, &two, "exit 0").ended().await.code, Some(0));

    write(&(rule(2) + "[log]\nlevel = \"error\"\n"));
    let reloads = |said: &str| said.matches("settings reloaded").count();
    service.signal(Signal::HUP);
    // Said at the level that was; what comes after it is not said any more.
    write(&rule(3));
    tokio::time::timeout(PATIENCE, async {
        while run(&url, &["pool", "--permits", "3"], "exit 0").ended().await.code != Some(0) {
            service.signal(Signal::HUP);
        }
    })
    .await
    .unwrap();
    assert!(reloads(&service.said()) >= 1);
    // Every line is an object, with `--json` also what the service says about itself.
    for line in service.said().lines() {
        let _: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    service.signal(Signal::TERM);
    let ended = service.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    both_are_clean(&data);
}
