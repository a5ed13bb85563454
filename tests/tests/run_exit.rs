//! `arbiter run`: what it exits with, what it says, and what its command is given.

use arbiterq_tests::binary::{self, Running, Served, arbiter_says, command, run, run_command};
use arbiterq_tests::verifiers::both_are_clean;
use rustix::process::Signal;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;

async fn served() -> (TempDir, Served) {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&folder.path().join("data")).await;
    (folder, served)
}

async fn verified((folder, served): (TempDir, Served)) {
    served.stop().await;
    both_are_clean(&folder.path().join("data"));
}

#[tokio::test]
async fn the_commands_own_code_is_handed_on() {
    let arbiter = served().await;
    let url = &arbiter.1.url;
    for code in [0, 1, 7, 42, 123, 124, 255] {
        let ended = run(url, &["r"], &format!("exit {code}")).ended().await;
        assert_eq!(ended.code, Some(code), "{}", ended.said);
    }
    for (signal, number) in [("TERM", 15), ("KILL", 9), ("SEGV", 11)] {
        let ended = run(url, &["r"], &format!("kill -{signal} $$; sleep 50")).ended().await;
        assert_eq!(ended.code, Some(128 + number), "{}", ended.said);
    }
    verified(arbiter).await;
}

#[tokio::test]
async fn usage_is_2() {
    let arbiter = served().await;
    let url = &arbiter.1.url;
    let name = "n".repeat(257);
    for arguments in [
        &["run", "r"][..],
        &["run", "--", "true"],
        &["run", "--shared", "--permits", "2", "r", "--", "true"],
        &["run", "--try", "--wait", "1s", "r", "--", "true"],
        &["run", "--lease", "3s", "--kill-after", "2s", "r", "--", "true"],
        &["run", "a\u{7}b", "--", "true"],
        &["run", &name, "--", "true"],
        &["--url", "kafka://host", "run", "r", "--", "true"],
        &["run", "--wait", "5", "r", "--", "true"],
    ] {
        let ended = Running::start(command().env("ARBITER_URL", url).args(arguments)).ended().await;
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.said);
        assert!(ended.said.contains("error"), "{}", ended.said);
    }
    verified(arbiter).await;
}

#[tokio::test]
async fn no_arbiter_is_69_within_three_seconds_with_both_remedies() {
    // Nothing listens here; and here somebody takes connections and never answers.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = free.local_addr().unwrap();
    drop(free);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    binary::arbiter();
    for url in [
        format!("tcp://{nobody}"),
        format!("tcp://{}", silent.local_addr().unwrap()),
        format!("unix://{}", folder.path().join("socket").display()),
    ] {
        let began = tokio::time::Instant::now();
        let ended = run(&url, &["r"], "echo it ran").ended().await;
        let took = began.elapsed();
        assert_eq!(ended.code, Some(69), "{}", ended.said);
        assert!(took < Duration::from_millis(3500), "{url}: {took:?}");
        let said = &ended.said;
        assert!(said.contains("no-arbiter") && said.contains("arbiter serve"), "{said}");
        assert!(said.contains("ARBITER_URL"), "{said}");
        assert_eq!(ended.out, "");
    }
}

#[tokio::test]
async fn not_granted_is_124_or_what_was_asked_for() {
    let arbiter = served().await;
    let url = &arbiter.1.url;
    let mut holder = run(url, &["r"], "echo held; read line");
    holder.line().await;
    for (arguments, code) in [
        (&["r", "--try"][..], 124),
        (&["r", "--wait", "200ms"], 124),
        (&["r", "--try", "-E", "9"], 9),
        (&["r", "--wait", "200ms", "-E", "0"], 0),
        (&["free", "r", "--try"], 124),
    ] {
        let ended = run(url, arguments, "echo it ran").ended().await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(code), ""), "{}", ended.said);
        assert!(ended.said.contains("holder:") && ended.said.contains("token"), "{}", ended.said);
        assert!(ended.said.contains("help:"), "{}", ended.said);
    }
    let queue = arbiter_says(url, &["queue", "r", "--json"]).await;
    assert_eq!(queue.code, Some(0), "{}", queue.said);
    let status = arbiter_says(url, &["status", "--json"]).await;
    let status: Value = serde_json::from_str(status.out.lines().next().unwrap()).unwrap();
    assert_eq!(status["waiting"], 0, "withdrawn: {status}");
    holder.stdin = None;
    assert_eq!(holder.ended().await.code, Some(1), "the shell's read met the end");
    verified(arbiter).await;
}

#[tokio::test]
async fn what_cannot_be_started_is_126_or_127_and_is_given_back() {
    let arbiter = served().await;
    let url = &arbiter.1.url;
    let file = arbiter.0.path().join("not-executable");
    std::fs::write(&file, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let file = file.to_str().unwrap();
    for (program, code) in [(file, 126), ("no-such-program-anywhere", 127), ("./no/such/path", 127)] {
        let ended = arbiter_says(url, &["run", "r", "--", program]).await;
        assert_eq!(ended.code, Some(code), "{}", ended.said);
        assert!(ended.said.contains(program), "{}", ended.said);
        let next = run(url, &["r", "--try"], "exit 0").ended().await;
        assert_eq!(next.code, Some(0), "it is free: {}", next.said);
    }
    verified(arbiter).await;
}

#[tokio::test]
async fn lost_while_running_is_123() {
    let arbiter = served().await;
    let url = &arbiter.1.url;
    let script = r#"trap 'echo stopping; exit 0' TERM; echo $ARBITER_TOKEN; while :; do sleep 0.02; done"#;
    let mut holder = run(url, &["r"], script);
    let token = holder.line().await;
    let mut next = run(url, &["r"], "echo $ARBITER_TOKEN");
    next.says("1st of 1").await;
    let force = ["release", "--force", "r", "--token", &token, "--reason", "a test"];
    let forced = arbiter_says(url, &force).await;
    assert_eq!(forced.code, Some(0), "{}", forced.said);
    assert_eq!(holder.line().await, "stopping", "it is told before");
    let ended = holder.ended().await;
    assert_eq!(ended.code, Some(123), "{}", ended.said);
    assert!(ended.said.contains("lost"), "{}", ended.said);
    let higher: u64 = next.line().await.parse().unwrap();
    assert!(higher > token.parse().unwrap());
    assert_eq!(next.ended().await.code, Some(0));
    let late = arbiter_says(url, &force).await;
    assert_eq!(late.code, Some(77), "nobody else is hit: {}", late.said);
    verified(arbiter).await;
}

#[tokio::test]
async fn the_wait_line_names_holder_age_and_place() {
    let arbiter = served().await;
    let url = &arbiter.1.url;
    let mut holder = run(url, &["db/migrate"], "echo held; read line; exit 0");
    holder.line().await;
    let first = run(url, &["db/migrate"], "exit 0");
    first.says("you are 1st of 1").await;
    let second = run(url, &["db/migrate"], "exit 0");
    second.says("you are 2nd of 2").await;
    let said = second.said();
    assert!(said.contains("arbiter: db/migrate is held by ") && said.contains(" for "), "{said}");
    assert!(said.contains("(lease ends in "), "{said}");
    holder.stdin = None;
    assert_eq!(holder.ended().await.code, Some(0));
    for waiter in [first, second] {
        let ended = waiter.ended().await;
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        assert!(ended.said.contains("granted after ") && ended.said.contains("token "), "{}", ended.said);
    }
    verified(arbiter).await;
}

#[tokio::test]
async fn signals_go_to_the_command() {
    let arbiter = served().await;
    let url = &arbiter.1.url;
    for (signal, name) in [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::TERM, "TERM"),
    ] {
        let script =
            format!("trap 'echo got {name}; exit 5' {name}; echo ready; while :; do sleep 0.02; done");
        // Also where these tests run under `nohup`.
        let mut default = tokio::process::Command::new("env");
        default.arg("--default-signal").arg(binary::arbiter()).args(["run", "--url", url, "r", "--"]);
        default
            .args(["sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut running = Running::start(default.kill_on_drop(true));
        running.line().await;
        running.signal(signal);
        assert_eq!(running.line().await, format!("got {name}"));
        let ended = running.ended().await;
        assert_eq!(ended.code, Some(5), "{}", ended.said);
    }
    // Without a trap it dies of it; and who waits withdraws.
    let mut holder = run(url, &["r"], "echo ready; exec sleep 50");
    holder.line().await;
    let waiter = run(url, &["r"], "echo it ran");
    waiter.says("1st of 1").await;
    waiter.signal(Signal::INT);
    let ended = waiter.ended().await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(130), ""), "{}", ended.said);
    holder.signal(Signal::TERM);
    assert_eq!(holder.ended().await.code, Some(143));
    verified(arbiter).await;
}

#[tokio::test]
async fn standard_input_is_the_commands() {
    use tokio::io::AsyncWriteExt;
    let arbiter = served().await;
    let mut cat = run(&arbiter.1.url, &["r"], "cat; echo end");
    cat.stdin.as_mut().unwrap().write_all(b"one\ntwo\n").await.unwrap();
    assert_eq!(cat.line().await, "one");
    assert_eq!(cat.line().await, "two");
    cat.stdin = None;
    assert_eq!(cat.line().await, "end");
    assert_eq!(cat.ended().await.code, Some(0));
    verified(arbiter).await;
}

#[tokio::test]
async fn the_command_knows_its_grant_and_no_secret() {
    let arbiter = served().await;
    let url = &arbiter.1.url;
    let script = r#"env | grep ^ARBITER_ | sort; echo "fds:" $(ls /proc/self/fd)"#;
    let mut command = run_command(url, &["db/migrate"], script);
    command.env("ARBITER_CREDENTIALS", "/a/file/of/secrets").env("ARBITER_ELSE", "kept");
    let ended = Running::start(&mut command).ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let variable = |name: &str| {
        let found = ended.out.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {name} in {}", ended.out)).to_owned()
    };
    let token: u64 = variable("ARBITER_TOKEN").parse().unwrap();
    assert_eq!(variable("ARBITER_RESOURCE"), "db/migrate");
    assert_eq!(variable("ARBITER_FLOOR"), token.to_string());
    let request = variable("ARBITER_REQUEST");
    let (session, seq) = request.split_once(':').unwrap();
    assert!(session.parse::<u64>().unwrap() < token && seq == "1", "{request}");
    assert!(variable("ARBITER_OWNER").ends_with(&format!(":0:{request}")));
    assert!(!ended.out.contains("/a/file/of/secrets"), "{}", ended.out);
    // It has no file open that the same script has not without us: no socket of ours.
    let fds =
        |out: &str| out.lines().find(|line| line.starts_with("fds:")).map(|line| line.split(' ').count());
    let alone = tokio::process::Command::new("sh").args(["-c", script]).output().await.unwrap();
    assert_eq!(fds(&ended.out), fds(&String::from_utf8_lossy(&alone.stdout)), "{}", ended.out);
    verified(arbiter).await;
}

#[tokio::test]
async fn a_nested_run_is_refused_what_its_owner_holds() {
    let arbiter = served().await;
    let url = &arbiter.1.url;
    // The URL comes from the outer one, too.
    let nested = format!(r#"{} run r -- echo it ran; echo "inner: $?""#, binary::arbiter().display());
    let ended = run(url, &["r"], &nested).ended().await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "inner: 77\n"), "{}", ended.said);
    assert!(ended.said.contains("held"), "{}", ended.said);
    let other = nested.replace("run r", "run s");
    let ended = run(url, &["r"], &other).ended().await;
    assert_eq!(ended.out, "it ran\ninner: 0\n", "{}", ended.said);
    verified(arbiter).await;
}

#[tokio::test]
async fn a_lock_under_run_is_refused_what_its_owner_holds() {
    let arbiter = served().await;
    let url = &arbiter.1.url;
    let nested = format!(r#"{} lock r; echo "inner: $?""#, binary::arbiter().display());
    let ended = run(url, &["r"], &nested).ended().await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "inner: 77\n"), "{}", ended.said);
    assert!(ended.said.contains("held"), "{}", ended.said);
    verified(arbiter).await;
}

#[tokio::test]
async fn a_shorter_lease_than_asked_for_is_the_one_that_counts() {
    let folder = tempfile::tempdir().unwrap();
    let mut serve = command();
    serve.env("ARBITER__LIMITS__LEASE_MS_MAX", "2000");
    let served = Served::start_with(serve, &folder.path().join("data"), "tcp://127.0.0.1:0").await;
    // Longer than the lease: what is renewed is not stopped, whatever would have been right for a minute's lease.
    let asked = run(&served.url, &["r"], "sleep 3; exit 7").ended().await;
    assert_eq!((asked.code, asked.said.as_str()), (Some(7), ""));
    // KILL comes after a third of it, not after what was asked for.
    let script = "trap 'echo stopping' TERM; echo $ARBITER_TOKEN; while :; do sleep 0.02; done";
    let mut holder = run(&served.url, &["r", "--kill-after", "20s"], script);
    let token = holder.line().await;
    holder.says("the arbiter gave a lease of 2s").await;
    let began = tokio::time::Instant::now();
    let force = ["release", "--force", "r", "--token", &token, "--reason", "a test"];
    assert_eq!(arbiter_says(&served.url, &force).await.code, Some(0));
    assert_eq!(holder.line().await, "stopping");
    let ended = holder.ended().await;
    assert_eq!(ended.code, Some(123), "{}", ended.said);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    verified((folder, served)).await;
}

#[tokio::test]
async fn under_nohup_a_hangup_stops_nothing() {
    use tokio::io::AsyncWriteExt;
    let arbiter = served().await;
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", r#"trap "" HUP; exec "$@""#, "sh"]).arg(binary::arbiter()).args([
        "run",
        "--url",
        &arbiter.1.url,
    ]);
    shell.args(["r", "--", "sh", "-c", "echo ready; read line; kill -HUP $$; echo $line; exit 3"]);
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut running = Running::start(&mut shell);
    running.line().await;
    running.signal(Signal::HUP);
    running.stdin.as_mut().unwrap().write_all(b"went on\n").await.unwrap();
    assert_eq!(running.line().await, "went on");
    let ended = running.ended().await;
    assert_eq!(ended.code, Some(3), "{}", ended.said);
    verified(arbiter).await;
}

#[tokio::test]
async fn several_shared_and_permits() {
    let arbiter = served().await;
    let url = &arbiter.1.url;
    let mut shared = run(url, &["a", "b", "--shared"], "echo held; read line; exit 0");
    shared.line().await;
    let beside = run(url, &["b", "--shared", "--try"], "exit 0").ended().await;
    assert_eq!(beside.code, Some(0), "{}", beside.said);
    assert_eq!(run(url, &["a", "--try"], "exit 0").ended().await.code, Some(124));
    let too_many = run(url, &["pool", "--permits", "2"], "exit 0").ended().await;
    assert_eq!(too_many.code, Some(77), "{}", too_many.said);
    shared.stdin = None;
    shared.ended().await;
    verified(arbiter).await;
}

#[tokio::test]
async fn lock_holds_until_its_input_closes() {
    let arbiter = served().await;
    let url = &arbiter.1.url;
    let mut lock = Running::start(command().args(["lock", "r", "--url", url]).stdin(Stdio::piped()));
    let grant: Value = serde_json::from_str(&lock.line().await).unwrap();
    assert!(grant["token"].is_u64(), "{grant}");
    assert_eq!(run(url, &["r", "--try"], "exit 0").ended().await.code, Some(124));
    lock.stdin = None;
    assert_eq!(lock.ended().await.code, Some(0));
    assert_eq!(run(url, &["r", "--try"], "exit 0").ended().await.code, Some(0));
    verified(arbiter).await;
}
