//! The command line: one file a command group.
//!
//! Results go to standard output, everything else to standard error ([`output`]). A command is a function that
//! returns what to exit with, or a [`Failure`]. Nothing here decides who holds what: commands talk to an arbiter
//! through the client library, or read a log that they find on disk.

#[cfg(feature = "rabbitmq")]
mod access;
mod audit;
mod bench;
#[cfg(feature = "rabbitmq")]
mod broker;
mod completions;
mod config;
mod demo;
mod doctor;
mod folders;
mod lock;
mod look;
mod operate;
mod output;
mod run;
mod serve;
mod tail;

use clap::{Args, Parser, Subcommand};
use output::{Failure, Output};
use std::process::ExitCode;

/// What a command ends with.
pub(crate) type Outcome = Result<ExitCode, Failure>;

/// Exclusive access to anything, decided by a queue, every decision on the record.
#[derive(Debug, Parser)]
#[command(name = "arbiter", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Start here: arbiter demo. Then: arbiter serve, and in another terminal \
                        arbiter run db/migrate -- ./migrate.sh")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Where the arbiter is: tcp://host:port or unix:///path, or the broker where it reads: amqp(s)://…
    /// [default: tcp://127.0.0.1:7117]
    #[arg(long, global = true, env = "ARBITER_URL", hide_env_values = true, value_name = "URL")]
    url: Option<String>,
    /// One JSON object a line instead of text
    #[arg(long, global = true)]
    json: bool,
    #[cfg(feature = "rabbitmq")]
    #[command(flatten)]
    files: access::Files,
}

impl Global {
    pub(crate) fn output(&self) -> Output {
        Output { json: self.json }
    }

    pub(crate) fn url(&self) -> &str {
        self.given_url().unwrap_or(arbiterq_client::URL_DEFAULT)
    }

    /// What was said, if anything was: a variable that is empty says nothing.
    pub(crate) fn given_url(&self) -> Option<&str> {
        let empty_variable = || std::env::var_os("ARBITER_URL").is_some_and(|set| set.is_empty());
        self.url.as_deref().filter(|url| !(url.is_empty() && empty_variable()))
    }

    /// A client of where the arbiter is said to be.
    #[cfg(not(feature = "rabbitmq"))]
    pub(crate) fn client(&self) -> arbiterq_client::Builder {
        arbiterq_client::Client::builder(self.url())
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command while holding resources
    Run(run::Run),
    /// Hold a resource until Ctrl-C or standard input closes; prints the grant as JSON
    Lock(lock::Lock),
    /// Run the arbiter
    Serve(serve::Serve),
    /// The thirty-second tour: an arbiter, a few workers, and the proof
    Demo(demo::Demo),
    /// How many sessions, holders and waiters there are
    Status(look::StatusOf),
    /// Each resource that is held or waited for
    Resources(look::StatusOf),
    /// Who holds what
    Holders(look::StatusOf),
    /// Who holds one resource, and who waits for it in which order
    Queue(look::Queue),
    /// Print a grant log, and follow it
    Tail(tail::Tail),
    /// Take a grant away from its holder, if it is still the one named
    Release(operate::Release),
    /// Stop granting; requests still queue
    Pause(operate::Pause),
    /// Grant again
    Resume(operate::Pause),
    /// Check a grant log, without an arbiter
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Measure acquire and release in a closed loop
    Bench(bench::Bench),
    /// What the arbiter needs at a message broker
    #[cfg(feature = "rabbitmq")]
    #[command(subcommand)]
    Broker(broker::Broker),
    /// Settings of the service
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Look at everything that an arbiter needs, and say what is wrong; changes nothing
    Doctor(doctor::Doctor),
    /// Completions for a shell
    Completions(completions::Completions),
    /// A manual page, in roff
    Man(completions::Man),
}

/// Reads the command line and does what it says.
pub(crate) fn main() -> ExitCode {
    // What `run` starts is no command of anybody's, and nothing of it may depend on its environment but the pipe.
    if std::env::args_os().nth(1).is_some_and(|word| word == run::GUARD) {
        return run::guard_main();
    }
    let cli = Cli::try_parse().unwrap_or_else(|error| usage(&error));
    let global = cli.global;
    let outcome = match cli.command {
        Command::Run(run) => run.run(&global),
        Command::Lock(lock) => alone(lock.run(&global)),
        Command::Serve(serve) => serve.run(&global),
        Command::Demo(demo) => demo.run(&global),
        Command::Status(look) => alone(look.status(&global)),
        Command::Resources(look) => alone(look.resources(&global)),
        Command::Holders(look) => alone(look.holders(&global)),
        Command::Queue(queue) => alone(queue.run(&global)),
        Command::Tail(tail) => alone(tail.run(&global)),
        Command::Release(release) => alone(release.run(&global)),
        Command::Pause(pause) => alone(pause.pause(&global)),
        Command::Resume(resume) => alone(resume.resume(&global)),
        Command::Audit(audit) => audit.run(&global),
        Command::Bench(bench) => bench.run(&global),
        #[cfg(feature = "rabbitmq")]
        Command::Broker(broker) => alone(broker.run(&global)),
        Command::Config(config) => config.run(&global),
        Command::Doctor(doctor) => alone(doctor.run(&global)),
        Command::Completions(completions) => completions.run(&global),
        Command::Man(man) => man.run(&global),
    };
    outcome.unwrap_or_else(|failure| global.output().failure(&failure))
}

/// Says what is wrong with the command line, or the help that was asked for, and exits.
fn usage(error: &clap::Error) -> ! {
    let ours = std::env::args_os().take_while(|word| word != "--");
    if error.use_stderr() && ours.into_iter().any(|word| word == "--json") {
        let text = error.to_string();
        let mut paragraphs =
            text.split("\n\n").map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
        let what = paragraphs.next().unwrap_or_default();
        let what = what.strip_prefix("error: ").unwrap_or(&what);
        let usage = paragraphs.find_map(|text| text.strip_prefix("Usage: ").map(str::to_owned));
        let failure = Failure::new("usage", output::exit::USAGE, what);
        Output { json: true }.failure(&usage.map_or(failure.clone(), |usage| failure.help(usage)));
        std::process::exit(output::exit::USAGE.into());
    }
    error.exit()
}

/// Runs a command that needs no more than its own thread.
fn alone(command: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// Runs a command that uses every processor.
fn together<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(command);
    // What is stuck in a disk that does not answer is not waited for: the time for that is over.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use output::exit;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_faces_promise_parses() {
        for line in [
            "run db/migrate -- ./migrate.sh",
            "run a b --shared --wait 2m --reason v42 --lease 3s --kill-after 1s -E 7 -- sh -c exit",
            "run a --permits 2 --try -- true",
            "--json run a -- true",
            "lock db/migrate --json",
            "serve --url tcp://127.0.0.1:0 --data d --config f",
            "demo --for 20s --seed 7",
            "queue db/migrate --json",
            "tail d -n 5 --follow",
            "release --force db --token 3 --reason stuck --now",
            "pause --reason upgrade",
            "audit verify d",
            "bench --clients 64 --resources 8 --for 10s --json",
            #[cfg(feature = "rabbitmq")]
            "broker init --print --config f --url amqp://host",
            #[cfg(feature = "rabbitmq")]
            "run a --credentials f --tls-ca f --tls-certificate f --tls-key f -- true",
            "config show --config f",
            "doctor --config f --data d --url tcp://127.0.0.1:1 --json",
            "config explain log.level",
            "completions bash",
            "man run",
        ] {
            let words = std::iter::once("arbiter").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        for line in [
            "run -- true",
            "run a",
            "run a --try --wait 3s -- true",
            "run a --shared --permits 2 -- true",
            "run a --wait 3 -- true",
            "release db --token 3 --reason stuck",
            "pause",
        ] {
            let words = std::iter::once("arbiter").chain(line.split(' '));
            assert_eq!(Cli::try_parse_from(words).unwrap_err().exit_code(), i32::from(exit::USAGE), "{line}");
        }
    }
}
