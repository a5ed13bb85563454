//! Reads the layers of the settings and remembers where each value comes from.

use super::{DEFAULT_TOML, Fsync, GrantLog, Listen, Log, LogFormat, Settings};
use crate::log::record::{Policy, Rule};
use arbiterq_client::{Access, Tls};
use config::{Config, ConfigError, FileFormat, Format, Map, Source, Value, ValueKind};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What every variable of ours begins with. One underscore would not do: Kubernetes injects `ARBITER_PORT` for a
/// service of that name.
pub(super) const PREFIX: &str = "ARBITER__";
/// Every key but the rules, which are a list.
pub(super) const KEYS: [&str; 18] = [
    "url",
    "credentials",
    "data",
    "partitions",
    "barrier_interval_ms",
    "shutdown_timeout_ms",
    "grant_log.fsync",
    "grant_log.segment_bytes_max",
    "grant_log.checkpoint_records",
    "limits.connections_max",
    "limits.sessions_max",
    "limits.in_flight_max",
    "limits.lease_ms_max",
    "tls.ca",
    "tls.certificate",
    "tls.key",
    "log.level",
    "log.format",
];
pub(super) const RULES: &str = "rules";

/// The variable that sets a key.
pub fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// Where to look beside the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file.
    pub file: Option<PathBuf>,
    /// The environment, or the part of it that is ours.
    pub variables: Vec<(OsString, OsString)>,
    /// From the command line: key, value, and what to call the source.
    pub given: Vec<(&'static str, String, &'static str)>,
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub settings: Settings,
    /// Each key with its value and source.
    pub effective: Vec<Effective>,
}

/// A value in force and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Effective {
    /// The key.
    pub key: &'static str,
    /// The value, as it would stand in a file.
    pub value: serde_json::Value,
    /// The file, the variable, the option, or `default`.
    pub source: String,
}

/// Something wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The key, or the variable where it is no key's. Empty if the whole source cannot be read.
    pub key: String,
    /// The file, the variable, the option, or `default`.
    pub source: String,
    /// What is wrong and what was wanted.
    pub problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.is_empty() || self.key == self.source {
            true => write!(f, "{}: {}", self.source, self.problem),
            false => write!(f, "{} {} ({})", self.key, self.problem, self.source),
        }
    }
}

/// Reads all sources and checks everything.
///
/// # Errors
/// Every problem there is, not only the first.
pub fn load(sources: &Sources) -> Result<Loaded, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut layers = vec![Layer::of_text("default".to_owned(), DEFAULT_TOML, &mut problems)];
    if let Some(path) = &sources.file {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => layers.push(Layer::of_text(name, &text, &mut problems)),
            Err(error) => {
                problems.push(Problem { key: String::new(), source: name, problem: error.to_string() });
            }
        }
    }
    layers.push(Layer::of_variables(&sources.variables, &mut problems));
    layers.push(Layer::given(&sources.given));

    let mut builder = Config::builder();
    for layer in layers {
        builder = builder.add_source(layer);
    }
    let merged = match builder.build().and_then(|merged| merged.collect()) {
        Ok(merged) => merged,
        // Nothing of what the layers hold can fail to merge; if it does, say so like anything else.
        Err(error) => {
            problems.push(Problem {
                key: String::new(),
                source: "settings".into(),
                problem: error.to_string(),
            });
            return Err(problems);
        }
    };
    let mut reader = Reader { merged: &merged, problems, effective: Vec::new() };
    let settings = reader.settings();
    let Reader { mut problems, effective, .. } = reader;
    // A value that could not be read stands at its default here, so it is not judged a second time.
    let read_badly: Vec<String> = problems.iter().map(|problem| problem.key.clone()).collect();
    for (key, problem) in settings.check() {
        if !read_badly.iter().any(|bad| bad == key) {
            problems.push(Problem { key: key.to_owned(), source: source_of(&merged, key), problem });
        }
    }
    if problems.is_empty() { Ok(Loaded { settings, effective }) } else { Err(problems) }
}

/// One source's values under known keys, each with its origin.
#[derive(Clone, Debug, Default)]
struct Layer {
    values: Map<String, Value>,
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.values.clone())
    }
}

impl Layer {
    fn of_text(source: String, text: &str, problems: &mut Vec<Problem>) -> Self {
        let parsed = match FileFormat::Toml.parse(Some(&source), text) {
            Ok(parsed) => parsed,
            Err(error) => {
                let problem = first_and_last_line(&error.to_string());
                problems.push(Problem { key: String::new(), source, problem });
                return Self::default();
            }
        };
        let mut leaves = BTreeMap::new();
        collect_leaves(String::new(), parsed, &mut leaves);
        let mut layer = Self::default();
        for (key, value) in leaves {
            if KEYS.contains(&key.as_str()) || key == RULES {
                layer.values.insert(key, Value::new(Some(&source), value.kind));
            } else {
                let problem = format!("is no setting{}", suggestion(&key));
                problems.push(Problem { key, source: source.clone(), problem });
            }
        }
        layer
    }

    fn of_variables(variables: &[(OsString, OsString)], problems: &mut Vec<Problem>) -> Self {
        let mut layer = Self::default();
        let mut ours: Vec<_> = variables
            .iter()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        ours.sort();
        for (name, value) in ours {
            let mut problem = |problem: String| {
                problems.push(Problem { key: name.clone(), source: name.clone(), problem });
            };
            let key = name[PREFIX.len()..].replace("__", ".").to_ascii_lowercase();
            let written = variable_of(&key);
            if key == RULES || key.starts_with("rules.") {
                problem("rules are given in a file only".to_owned());
            } else if !KEYS.contains(&key.as_str()) || written != name {
                let nearest = nearest_key(&key).map(variable_of);
                let hint = nearest.map_or(String::new(), |name| format!("; did you mean {name}?"));
                problem(format!("is no setting{hint}"));
            } else if let Some(value) = value.to_str() {
                layer.values.insert(key, Value::new(Some(&name), ValueKind::String(value.to_owned())));
            } else {
                problem("is not UTF-8".to_owned());
            }
        }
        layer
    }

    fn given(given: &[(&'static str, String, &'static str)]) -> Self {
        let value = |value: &str, source: &str| Value::new(Some(&source.to_owned()), value);
        let values = given.iter().map(|(key, text, source)| ((*key).to_owned(), value(text, source)));
        Self { values: values.collect() }
    }
}

/// Takes tables apart, down to values with dotted keys. Lists are values.
fn collect_leaves(prefix: String, table: Map<String, Value>, leaves: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value.kind {
            ValueKind::Table(inner) => collect_leaves(key, inner, leaves),
            _ => drop(leaves.insert(key, value)),
        }
    }
}

/// The place and the complaint of a TOML error, without the text it quotes.
fn first_and_last_line(error: &str) -> String {
    let mut lines = error.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("cannot be read").to_owned();
    lines.next_back().map_or_else(|| first.clone(), |last| format!("{first}: {last}"))
}

fn suggestion(key: &str) -> String {
    nearest_key(key).map_or(String::new(), |nearest| format!("; did you mean {nearest}?"))
}

/// The key that a typo was probably meant to be.
fn nearest_key(key: &str) -> Option<&'static str> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let near = |known: &&str| distance(key, known).min(distance(&last(key), &last(known)));
    KEYS.iter().copied().min_by_key(near).filter(|known| near(known) <= 2)
}

/// How many letters have to be changed, added or left out to make one of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let here = (diagonal + usize::from(letter != *other)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], here);
        }
    }
    row[b.len()]
}

fn lookup<'a>(merged: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => merged.get(key),
        Some((section, rest)) => match &merged.get(section)?.kind {
            ValueKind::Table(inner) => lookup(inner, rest),
            _ => None,
        },
    }
}

fn source_of(merged: &Map<String, Value>, key: &str) -> String {
    lookup(merged, key).and_then(Value::origin).unwrap_or("default").to_owned()
}

/// Turns the merged values into types, noting every problem and every source.
struct Reader<'a> {
    merged: &'a Map<String, Value>,
    problems: Vec<Problem>,
    effective: Vec<Effective>,
}

impl Reader<'_> {
    fn settings(&mut self) -> Settings {
        Settings {
            listen: self.listen(),
            data: self.read("data", "wanted a folder", |value| text(value).map(PathBuf::from)),
            partitions: self.read("partitions", NUMBER, number),
            barrier_interval: self.read("barrier_interval_ms", NUMBER, milliseconds),
            shutdown_timeout: self.read("shutdown_timeout_ms", NUMBER, milliseconds),
            grant_log: GrantLog {
                fsync: self.read("grant_log.fsync", "wanted \"always\" or \"never\"", |value| {
                    match text(value)?.as_str() {
                        "always" => Ok(Fsync::Always),
                        "never" => Ok(Fsync::Never),
                        _ => Err(None),
                    }
                }),
                segment_bytes_max: self.read("grant_log.segment_bytes_max", NUMBER, number),
                checkpoint_records: self.read("grant_log.checkpoint_records", NUMBER, number),
            },
            connections_max: self.read("limits.connections_max", NUMBER, number),
            policy: Policy {
                sessions_max: self.read("limits.sessions_max", NUMBER, number),
                in_flight_max: self.read("limits.in_flight_max", NUMBER, number),
                lease_ms_max: self.read("limits.lease_ms_max", NUMBER, number),
                rules: self.rules(),
            },
            log: Log {
                level: self.read("log.level", "wanted a level such as \"info\"", text),
                format: self.read("log.format", "wanted \"text\" or \"json\"", |value| {
                    match text(value)?.as_str() {
                        "text" => Ok(LogFormat::Text),
                        "json" => Ok(LogFormat::Json),
                        _ => Err(None),
                    }
                }),
            },
        }
    }

    fn listen(&mut self) -> Listen {
        let wanted = "wanted tcp://127.0.0.1:port, unix:///path or amqp://…";
        let listen = self.read("url", wanted, |value| Listen::parse(&text(value)?).map_err(Some));
        #[cfg(feature = "rabbitmq")]
        if let (Listen::RabbitMq(url), Some(effective)) = (&listen, self.effective.last_mut()) {
            // As it was given it may hold a password.
            effective.value = url.to_string().into();
        }
        let mut file = |key| {
            let wanted = "wanted a file, or \"\" for none";
            self.read(key, wanted, |value| {
                Ok(Some(PathBuf::from(text(value)?)).filter(|file| !file.as_os_str().is_empty()))
            })
        };
        let credentials = file("credentials");
        let access = Access {
            credentials,
            tls: Tls::of_files(file("tls.ca"), file("tls.certificate"), file("tls.key")),
        };
        listen.with(&access).unwrap_or_else(|(key, problem)| {
            let source = source_of(self.merged, key);
            self.problems.push(Problem { key: key.to_owned(), source, problem });
            Listen::placeholder()
        })
    }

    /// The value of a key; its default after noting the problem.
    fn read<T: Placeholder>(
        &mut self,
        key: &'static str,
        wanted: &str,
        parse: impl Fn(&Value) -> Result<T, Option<String>>,
    ) -> T {
        let Some(value) = lookup(self.merged, key) else {
            let problem = "has no value".to_owned();
            self.problems.push(Problem { key: key.to_owned(), source: "default".to_owned(), problem });
            return T::placeholder();
        };
        let source = value.origin().unwrap_or("default").to_owned();
        match parse(value) {
            Ok(parsed) => {
                let value = shown(value, std::any::type_name::<T>());
                self.effective.push(Effective { key, value, source });
                parsed
            }
            Err(problem) => {
                let problem = problem.unwrap_or_else(|| format!("is {}, {wanted}", found(value)));
                self.problems.push(Problem { key: key.to_owned(), source, problem });
                T::placeholder()
            }
        }
    }

    fn rules(&mut self) -> Vec<Rule> {
        let Some(value) = lookup(self.merged, RULES) else {
            let source = "default".to_owned();
            self.effective.push(Effective {
                key: RULES,
                value: serde_json::Value::Array(Vec::new()),
                source,
            });
            return Vec::new();
        };
        let source = value.origin().unwrap_or("default").to_owned();
        let ValueKind::Array(items) = &value.kind else {
            let problem = format!("is {}, wanted [[rules]] with a pattern each", found(value));
            self.problems.push(Problem { key: RULES.to_owned(), source, problem });
            return Vec::new();
        };
        let mut rules = Vec::new();
        for (i, item) in items.iter().enumerate() {
            match item.clone().try_deserialize::<Rule>() {
                Ok(rule) => rules.push(rule),
                Err(error) => {
                    let problem = format!("rule {}: {error}", i + 1);
                    self.problems.push(Problem { key: RULES.to_owned(), source: source.clone(), problem });
                }
            }
        }
        let value = serde_json::to_value(&rules).unwrap_or_default();
        self.effective.push(Effective { key: RULES, value, source });
        rules
    }
}

const NUMBER: &str = "wanted a whole number";

/// Stands in for a value that could not be read, so that the rest is still looked at. Never used: there is a
/// problem then, and no settings come out.
trait Placeholder {
    fn placeholder() -> Self;
}

macro_rules! placeholders {
    ($($type:ty: $value:expr,)*) => {
        $(impl Placeholder for $type {
            fn placeholder() -> Self { $value }
        })*
    };
}
placeholders! {
    u32: 1,
    u64: 1,
    Duration: Duration::from_millis(100),
    String: "info".to_owned(),
    PathBuf: PathBuf::from("."),
    Option<PathBuf>: None,
    Listen: Listen::Unix(PathBuf::from("/")),
    Fsync: Fsync::Always,
    LogFormat: LogFormat::Text,
}

fn text(value: &Value) -> Result<String, Option<String>> {
    match &value.kind {
        ValueKind::String(text) => Ok(text.clone()),
        _ => Err(None),
    }
}

fn number<T: TryFrom<u64>>(value: &Value) -> Result<T, Option<String>> {
    let number = match &value.kind {
        ValueKind::I64(number) => u64::try_from(*number).ok(),
        ValueKind::U64(number) => Some(*number),
        // All that a variable can say.
        ValueKind::String(text) => text.parse().ok(),
        _ => None,
    };
    number.and_then(|number| T::try_from(number).ok()).ok_or(None)
}

fn milliseconds(value: &Value) -> Result<Duration, Option<String>> {
    number(value).map(Duration::from_millis)
}

/// A value as JSON; a variable's text as the number it stands for.
fn shown(value: &Value, type_name: &str) -> serde_json::Value {
    let is_number = ["u32", "u64"].contains(&type_name) || type_name.ends_with("Duration");
    match &value.kind {
        _ if is_number => number::<u64>(value).unwrap_or_default().into(),
        ValueKind::String(text) => text.as_str().into(),
        other => other.to_string().into(),
    }
}

/// What was found, without quoting a long text.
fn found(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) if text.chars().count() > 40 => "a long text".to_owned(),
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Array(_) => "a list".to_owned(),
        ValueKind::Nil => "nothing".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
