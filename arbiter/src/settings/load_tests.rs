use super::*;

/// A file with this text, kept as long as the folder lives.
fn with_file(text: &str) -> (tempfile::TempDir, Sources) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("arbiter.toml");
    std::fs::write(&path, text).unwrap();
    (folder, Sources { file: Some(path), ..Sources::default() })
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
}

#[test]
fn the_defaults_have_every_key_and_no_problem() {
    let loaded = load(&Sources::default()).unwrap();
    let keys: Vec<_> = loaded.effective.iter().map(|effective| effective.key).collect();
    assert_eq!(keys.len(), KEYS.len() + 1);
    assert!(KEYS.iter().all(|key| keys.contains(key)));
    assert!(loaded.effective.iter().all(|effective| effective.source == "default"));
    assert_eq!(loaded.settings.policy, Policy::default());
    assert_eq!(loaded.settings, Settings::default());
}

#[test]
fn the_example_rule_in_the_defaults_can_be_used() {
    let example: String = DEFAULT_TOML
        .lines()
        .skip_while(|line| *line != "# [[rules]]")
        .filter_map(|line| line.strip_prefix("# "))
        .map(|line| format!("{line}\n"))
        .collect();
    let (_folder, sources) = with_file(&example);
    let rule = load(&sources).unwrap().settings.policy.rules.remove(0);
    assert_eq!((rule.pattern.as_ref(), rule.capacity, rule.hold_max_ms), ("gpu/*", Some(1), Some(3_600_000)));
    assert!(rule.allow.is_some() && rule.lock_delay_ms == Some(0));
}

#[test]
fn a_later_source_wins_and_is_named() {
    let (_folder, mut sources) =
        with_file("url = \"tcp://127.0.0.1:1\"\npartitions = 2\n[limits]\nsessions_max = 5\n");
    sources.variables = variables(&[
        ("ARBITER__PARTITIONS", "3"),
        ("ARBITER__LIMITS__IN_FLIGHT_MAX", "7"),
        ("ARBITER__DATA", "000123"),
        ("ARBITER_PORT", "tcp://10.0.0.1:80"),
        ("ARBITER_URL", "tcp://127.0.0.1:5"),
    ]);
    sources.given = vec![("url", "unix:///run/a.sock".to_owned(), "--url")];
    let Loaded { settings, effective } = load(&sources).unwrap();
    assert_eq!(settings.listen, Listen::Unix("/run/a.sock".into()));
    assert_eq!((settings.partitions, settings.policy.sessions_max, settings.policy.in_flight_max), (3, 5, 7));
    // A text stays the text that it is.
    assert_eq!(settings.data, PathBuf::from("000123"));
    let source = |key: &str| effective.iter().find(|effective| effective.key == key).unwrap().source.clone();
    assert_eq!(source("url"), "--url");
    assert_eq!(source("partitions"), "ARBITER__PARTITIONS");
    assert_eq!(source("limits.in_flight_max"), "ARBITER__LIMITS__IN_FLIGHT_MAX");
    assert!(source("limits.sessions_max").ends_with("arbiter.toml"));
    assert_eq!(source("log.level"), "default");
    let partitions = effective.iter().find(|effective| effective.key == "partitions").unwrap();
    assert_eq!(partitions.value, serde_json::json!(3));
}

#[test]
fn each_problem_is_named_with_key_and_source() {
    // (file, variable, key, part of the problem)
    let table = [
        ("partitions = 0", None, "partitions", "is 0, wanted 1 to 1024"),
        ("partitions = -1", None, "partitions", "whole number"),
        ("partitions = 1.5", None, "partitions", "is 1.5, wanted a whole number"),
        ("partitions = true", None, "partitions", "whole number"),
        ("partitions = [1]", None, "partitions", "is a list"),
        ("partition = 2", None, "partition", "did you mean partitions?"),
        ("[limits]\nsession_max = 2", None, "limits.session_max", "did you mean limits.sessions_max?"),
        ("sessions_max = 2", None, "sessions_max", "did you mean limits.sessions_max?"),
        ("[nonsense]\nentirely = 2", None, "nonsense.entirely", "is no setting"),
        ("url = 7117", None, "url", "is 7117, wanted tcp://"),
        ("url = \"tcp://0.0.0.0:7117\"", None, "url", "beyond this machine"),
        ("url = \"amqp://me:hunter2@host:x\"", None, "url", "write amqp"),
        #[cfg(feature = "rabbitmq")]
        (
            "url = \"amqps://me@host\"\n[tls]\nca = \"/nowhere/ca\"",
            None,
            "tls.ca",
            "/nowhere/ca: No such file",
        ),
        #[cfg(feature = "rabbitmq")]
        ("url = \"amqp://me@host\"\n[tls]\nca = \"/nowhere/ca\"", None, "url", "write amqps://"),
        ("[tls]\nca = 7", None, "tls.ca", "is 7, wanted a file"),
        ("[url]\nhost = 1", None, "url.host", "is no setting"),
        ("data = \"\"", None, "data", "is empty"),
        ("barrier_interval_ms = 0", None, "barrier_interval_ms", "wanted 1 to 1000"),
        ("shutdown_timeout_ms = \"10s\"", None, "shutdown_timeout_ms", "is \"10s\", wanted a whole number"),
        ("[grant_log]\nfsync = \"sometimes\"", None, "grant_log.fsync", "\"always\" or \"never\""),
        ("[grant_log]\nsegment_bytes_max = 1", None, "grant_log.segment_bytes_max", "wanted 65536"),
        ("[limits]\nlease_ms_max = 99", None, "limits.lease_ms_max", "wanted 100"),
        ("[log]\nlevel = \"a=b=c\"", None, "log.level", "wanted error, warn"),
        ("[log]\nlevel = \"shout\"", None, "log.level", "is no level"),
        ("[log]\nformat = \"xml\"", None, "log.format", "\"text\" or \"json\""),
        ("rules = 3", None, "rules", "wanted [[rules]]"),
        ("[[rules]]\ncapacity = 2", None, "rules", "rule 1"),
        ("[[rules]]\npattern = \"a\"\ncolour = 2", None, "rules", "colour"),
        ("[[rules]]\npattern = \"a\"\ncapacity = 0", None, "rules", "capacity is 0"),
        ("[[rules]]\npattern = \"a\"\n[[rules]]\npattern = \"a\"", None, "rules", "there already"),
        ("partitions = ", None, "", "line 1, column"),
        ("", Some(("ARBITER__PARTITIONS", "many")), "partitions", "is \"many\""),
        ("", Some(("ARBITER__PARTITION", "1")), "ARBITER__PARTITION", "did you mean ARBITER__PARTITIONS?"),
        ("", Some(("ARBITER__URL__HOST", "1")), "ARBITER__URL__HOST", "is no setting"),
        ("", Some(("ARBITER__url", "tcp://127.0.0.1")), "ARBITER__url", "did you mean ARBITER__URL?"),
        ("", Some(("ARBITER__", "1")), "ARBITER__", "is no setting"),
        ("", Some(("ARBITER__RULES", "[]")), "ARBITER__RULES", "in a file only"),
        ("", Some(("ARBITER__LIMITS.SESSIONS_MAX", "1")), "ARBITER__LIMITS.SESSIONS_MAX", "is no setting"),
    ];
    for (file, variable, key, part) in table {
        let (_folder, mut sources) = with_file(file);
        sources.variables = variables(variable.as_slice());
        let problems = load(&sources).expect_err(file);
        assert_eq!(problems.len(), 1, "{file} {variable:?}: {problems:?}");
        let problem = &problems[0];
        assert_eq!(problem.key, key, "{problem:?}");
        assert!(problem.problem.contains(part), "{problem:?}");
        match variable {
            Some((name, _)) => assert_eq!(problem.source, name),
            None => assert!(problem.source.ends_with("arbiter.toml"), "{problem:?}"),
        }
        assert!(!problem.to_string().contains("hunter2"));
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let (_folder, mut sources) = with_file("partitions = 0\nnonsense = 1\n[grant_log]\nfsync = \"maybe\"\n");
    sources.variables = variables(&[("ARBITER__LIMITS__SESSIONS_MAX", "-3"), ("ARBITER__NOPE", "1")]);
    sources.given = vec![("url", "tcp://10.0.0.1:7117".to_owned(), "--url")];
    let problems = load(&sources).unwrap_err();
    let mut keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
    keys.sort_unstable();
    let all = ["ARBITER__NOPE", "grant_log.fsync", "limits.sessions_max", "nonsense", "partitions", "url"];
    assert_eq!(keys, all);
    let url = problems.iter().find(|problem| problem.key == "url").unwrap();
    assert_eq!(url.source, "--url");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let sources = Sources { file: Some("nowhere/arbiter.toml".into()), ..Sources::default() };
    let problems = load(&sources).unwrap_err();
    assert_eq!((problems.len(), problems[0].source.as_str()), (1, "nowhere/arbiter.toml"));
}

#[cfg(feature = "rabbitmq")]
#[test]
fn a_brokers_password_is_not_shown() {
    let (_folder, sources) = with_file("url = \"amqp://me:hunter2@host\"");
    let Loaded { settings, effective } = load(&sources).unwrap();
    assert!(matches!(settings.listen, Listen::RabbitMq(_)));
    assert!(!format!("{settings:?} {effective:?}").contains("hunter2"));
    assert_eq!(effective[0].value, "amqp://host:5672/%2f");
}
