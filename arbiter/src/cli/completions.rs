//! `completions`: what a shell needs to complete our commands.

use super::{Cli, Outcome};
use clap::CommandFactory;
use std::process::ExitCode;

/// `completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// Which shell; for example: arbiter completions bash > /etc/bash_completion.d/arbiter
    shell: clap_complete::Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Outcome {
        clap_complete::generate(self.shell, &mut Cli::command(), "arbiter", &mut std::io::stdout());
        Ok(ExitCode::SUCCESS)
    }
}
