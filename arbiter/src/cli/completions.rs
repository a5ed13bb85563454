//! `completions` and `man`: made from the command line's own definition.

use super::output::{Failure, Output, exit};
use super::{Cli, Global, Outcome};
use clap::CommandFactory;
use std::process::ExitCode;

/// `completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// Which shell; for example: arbiter completions bash > /etc/bash_completion.d/arbiter
    shell: clap_complete::Shell,
}

impl Completions {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "arbiter", &mut text);
        print(global.output(), &text)
    }
}

/// `man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Which command's [default: the page of `arbiter` itself]; for example: arbiter man run | man -l -
    command: Vec<String>,
}

impl Man {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        let mut command = Cli::command();
        command.build();
        for word in &self.command {
            let Some(found) = command.find_subcommand(word) else {
                let name = command.get_bin_name().unwrap_or("arbiter");
                return Err(Failure::new("usage", exit::USAGE, format!("{name} has no command {word}")));
            };
            command = found.clone();
        }
        let mut text = Vec::new();
        clap_mangen::Man::new(command).render(&mut text)?;
        print(global.output(), &text)
    }
}

fn print(output: Output, text: &[u8]) -> Outcome {
    output.line(String::from_utf8_lossy(text).trim_end())?;
    Ok(ExitCode::SUCCESS)
}
