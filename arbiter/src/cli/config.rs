//! `config`: writes, checks and shows the settings of the service.

use super::output::{Failure, Output, Table, colour_out, exit};
use super::{Global, Outcome};
use arbiterq::settings::{DEFAULT_TOML, Explained, Loaded, Problem, Sources, explain, load, variable_of};
use serde_json::json;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// `config …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Write a file with every key, its default and a comment
    Init {
        /// Where to; `-` is standard output. A file that exists is kept
        #[arg(default_value = "arbiter.toml")]
        file: PathBuf,
    },
    /// Say every problem there is, or that there is none
    Check(Given),
    /// Print what is in force and where it comes from
    Show(Given),
    /// Say what a setting is for, its default, and its variable
    Explain {
        /// Which, or a section of them [default: all]
        key: Option<String>,
    },
}

/// Where settings come from.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Given {
    /// A file as `config init` writes it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder of the grant log
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Given {
    /// Only a file, if any.
    pub(crate) fn of_file(config: Option<PathBuf>) -> Self {
        Self { config, data: None }
    }

    /// The settings in force for these options, `--url`, the variables and the file.
    pub(crate) fn load(&self, global: &Global) -> Result<Loaded, Failure> {
        self.judged(global)?.map_err(|problems| failure(&problems))
    }

    fn judged(&self, global: &Global) -> Result<Result<Loaded, Vec<Problem>>, Failure> {
        let mut sources = Sources {
            file: self.config.clone(),
            variables: std::env::vars_os().collect(),
            given: Vec::new(),
        };
        let mut given = |key, option, variable: Option<&'static str>, value: &OsStr| {
            let by_variable = variable.filter(|name| std::env::var_os(name).is_some_and(|set| set == value));
            // The one word for where the arbiter is, for clients and for the arbiter itself; the variable that is
            // meant for the arbiter alone says more.
            if by_variable.is_some() && std::env::var_os(variable_of(key)).is_some() {
                return Ok(());
            }
            let source = by_variable.unwrap_or(option);
            let not_text =
                || Failure::new("configuration", exit::CONFIGURATION, format!("{source} is not UTF-8"));
            sources.given.push((key, value.to_str().ok_or_else(not_text)?.to_owned(), source));
            Ok::<_, Failure>(())
        };
        if let Some(url) = global.given_url() {
            given("url", "--url", Some("ARBITER_URL"), url.as_ref())?;
        }
        #[cfg(feature = "rabbitmq")]
        for (key, option, variable, file) in global.files.said() {
            given(key, option, Some(variable), file.as_ref())?;
        }
        if let Some(data) = &self.data {
            given("data", "--data", None, data.as_ref())?;
        }
        Ok(load(&sources))
    }
}

/// All problems in one failure.
fn failure(problems: &[Problem]) -> Failure {
    let what = match problems.len() {
        1 => "the settings have a problem".to_owned(),
        count => format!("the settings have {count} problems"),
    };
    let lines: Vec<_> = problems.iter().map(Problem::to_string).collect();
    Failure::new("configuration", exit::CONFIGURATION, what)
        .part("problem", lines.join("\n"))
        .data("problems", json!(problems))
        .help("`arbiter config init -` prints every key with its default")
}

impl ConfigCommand {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        let output = global.output();
        match self {
            Self::Init { file } if file.as_os_str() == "-" => output.line(DEFAULT_TOML.trim_end())?,
            Self::Init { file } => init(output, &file)?,
            Self::Check(given) => {
                if let Err(problems) = given.judged(global)? {
                    if output.json {
                        output.line(&json!({ "problems": problems }).to_string())?;
                    }
                    return Err(failure(&problems));
                }
                let file = given.config.as_ref().map(|file| format!("{}, ", file.display()));
                let text = match file {
                    Some(file) => format!("{file}variables and defaults have no problem"),
                    None => {
                        "variables and defaults have no problem; no file was named with --config".to_owned()
                    }
                };
                output.result(&text, &json!({"problems": []}))?;
            }
            Self::Show(given) => show(output, &given.load(global)?)?,
            Self::Explain { key } => explain_keys(output, key.as_deref())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn explain_keys(output: Output, key: Option<&str>) -> Result<(), Failure> {
    let wanted = |explained: &Explained| {
        key.is_none_or(|key| {
            explained.key == key || explained.key.split_once('.').is_some_and(|(section, _)| section == key)
        })
    };
    let found: Vec<_> = explain().into_iter().filter(wanted).collect();
    if let (true, Some(key)) = (found.is_empty(), key) {
        return Err(Failure::new("usage", exit::USAGE, format!("{key} is no setting"))
            .help("`arbiter config explain` says all of them"));
    }
    for (i, explained) in found.iter().enumerate() {
        let Explained { key, default, variable, text } = explained;
        let head = default.as_ref().map_or_else(|| (*key).to_owned(), |default| format!("{key} = {default}"));
        let variable = variable.as_ref().map_or(String::new(), |name| format!("\n    Variable: {name}"));
        let before = if i == 0 { "" } else { "\n" };
        let text = text.replace('\n', "\n    ");
        output.result(&format!("{before}{head}\n    {text}{variable}"), &json!(explained))?;
    }
    Ok(())
}

fn init(output: Output, file: &PathBuf) -> Result<(), Failure> {
    let written = OpenOptions::new().write(true).create_new(true).open(file);
    written.and_then(|mut file| file.write_all(DEFAULT_TOML.as_bytes())).map_err(|error| {
        let failure = Failure::new("io", exit::IO, format!("cannot write {}: {error}", file.display()));
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                failure.help("nothing was changed; name another file, or `-` for standard output")
            }
            _ => failure,
        }
    })?;
    let shown = file.display();
    output.result(
        &format!("{shown} has every key with its default; start with: arbiter serve --config {shown}"),
        &json!({"written": file}),
    )?;
    Ok(())
}

fn show(output: Output, loaded: &Loaded) -> Result<(), Failure> {
    let principal = "anonymous: nobody vouches for who connects, so everybody who can may do everything";
    if output.json {
        let object = json!({"settings": loaded.effective, "principal": "anonymous", "may": "everything"});
        return Ok(output.line(&object.to_string())?);
    }
    let mut table = Table::new(&["KEY", "VALUE", "SOURCE"]);
    for effective in &loaded.effective {
        table.row(vec![effective.key.to_owned(), effective.value.to_string(), effective.source.clone()]);
    }
    output.line(&table.text(colour_out()))?;
    Ok(output.line(&format!("\nprincipal  {principal}"))?)
}
